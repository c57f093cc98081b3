# The demo's small ViT, for CPUs.
toy_vit = dict(
    arch=dict(_delete_=True, embed_dims=96, num_layers=4, num_heads=3, feedforward_channels=384),
    patch_size=8,
    num_prototypes=16,
)
