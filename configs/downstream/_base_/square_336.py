# Frozen protocols: images resized to squares, 336 px in training, 448 px in testing.
square_train = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='cotap_mm.RandomResizedCropSeg', scale=336),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
square_test = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(448, 448), keep_ratio=False),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
