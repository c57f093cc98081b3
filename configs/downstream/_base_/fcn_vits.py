# Three bottleneck blocks, each doubling the map, on the filter's output of a frozen ViT-S/16.
_base_ = './linear_vits.py'
model = dict(
    decode_head=dict(
        _delete_=True,
        type='cotap_mm.BottleneckFCNHead',
        in_channels=768,
        hidden_channels=(512, 384, 256),
        dropout_ratio=0.1,
        num_classes=21,
        loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True),
    )
)
