"""Choices of the command-line tools, for parsers that must not import what implements them.

A test compares them with the modules that are named here.
"""

from __future__ import annotations

#: Formats of ``cotap convert``: :mod:`cotap_mm.export.convert`.
TARGETS = ('cotap', 'mmpretrain', 'mmseg', 'timm', 'hf', 'safetensors', 'onnx', 'torchscript')
#: Origins of checkpoints: :mod:`cotap_mm.weights.formats.detection`.
SOURCES = (
    'cotap_mm',
    'cotap',
    'mmpretrain',
    'hf',
    'timm',
    'dino',
    'ibot',
    'mugs',
    'leopart',
)
#: Features of ``cotap embed``, and their types: :mod:`cotap_mm.embedding.compute`.
FEATURES = ('cls', 'mean', 'patches')
DTYPES = ('float32', 'float16')
#: Suffixes of its files: :mod:`cotap_mm.embedding.file`.
FEATURE_FILES = ('.npz', '.parquet', '.zarr')
#: Protocols of ``cotap evaluate``: :mod:`cotap_mm.evaluation.evaluate`.
PROTOCOLS = (
    'dense-retrieval',
    'linear-seg',
    'overclustering',
    'dispersion',
    'foreground',
    'correspondence',
    'knn',
    'linear',
    'video',
)
#: Pictures of ``cotap visualize``: :mod:`cotap_mm.visualization.report.kinds`.
PICTURES = (
    'overview',
    'compare',
    'pca',
    'similarity',
    'clusters',
    'attention',
    'assignments',
    'prototypes',
    'norms',
    'classes',
    'crops',
)
#: Axes for classes: :mod:`cotap_mm.visualization.figures.projection`.
PROJECTIONS = ('lda', 'pca')
#: Short names of initial weights: :mod:`cotap_mm.weights.named.known`.
INITS = (
    'dino_vits16',
    'dino_vitb16',
    'dino_vitb8',
    'ibot_vitl16',
    'dinov2_vits14_reg',
    'dinov2_vitb14_reg',
)
#: Where a training logs its metrics: :func:`cotap_mm.engine.launch.config.set_log_backends`.
LOGS = ('tensorboard', 'wandb', 'mlflow', 'none')
#: Searches of ``cotap neighbors``, and types of its features on disk:
#: :mod:`cotap_mm.datasets.neighbors.options`.
SEARCHES = ('exact', 'ivf')
FEATURE_DTYPES = ('auto', 'float16', 'bfloat16', 'float32')
