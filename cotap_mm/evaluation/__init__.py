"""Measures of any backbone, over one encoder contract, in training and after it."""

from __future__ import annotations

from cotap_mm.encoders.encoder import Encoder, EncoderOutput, normalize_images
from cotap_mm.encoders.vit import CoTAPEncoder, TimmEncoder, ViTEncoder

from .data.load import EvaluationData, load_data
from .data.segmentation import ImageMaskFolder, LabeledScenes, build_labeled
from .data.video import Clip, VideoClips
from .evaluate import PROTOCOLS, Result, evaluate
from .hook import EvaluationHook
from .metrics import confusion_matrix, segmentation_scores
from .protocols.classification import knn_classification, linear_classification
from .protocols.correspondence import correspondence
from .protocols.dense_retrieval import dense_retrieval
from .protocols.dispersion import dispersion
from .protocols.foreground import foreground
from .protocols.linear_segmentation import linear_segmentation
from .protocols.overclustering import overclustering
from .protocols.video_segmentation import label_propagation, propagate

__all__ = [
    'PROTOCOLS',
    'Clip',
    'CoTAPEncoder',
    'Encoder',
    'EncoderOutput',
    'EvaluationData',
    'EvaluationHook',
    'ImageMaskFolder',
    'LabeledScenes',
    'Result',
    'TimmEncoder',
    'VideoClips',
    'ViTEncoder',
    'build_labeled',
    'confusion_matrix',
    'correspondence',
    'dense_retrieval',
    'dispersion',
    'evaluate',
    'foreground',
    'knn_classification',
    'label_propagation',
    'linear_classification',
    'linear_segmentation',
    'load_data',
    'normalize_images',
    'overclustering',
    'propagate',
    'segmentation_scores',
]
