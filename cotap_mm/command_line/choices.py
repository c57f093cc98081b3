"""Choices of the command-line tools, for parsers that must not import what implements them.

A test compares them with the modules that are named here.
"""

from __future__ import annotations

#: Formats of ``cotap convert``: :mod:`cotap_mm.export.convert`.
TARGETS = ('cotap', 'mmpretrain', 'mmseg', 'timm', 'hf', 'safetensors', 'onnx', 'torchscript')
#: Origins of checkpoints: :mod:`cotap_mm.weights.detection`.
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
