"""Measures of any backbone, over one encoder contract, in training and after it."""

from __future__ import annotations

from .classification import knn_classification, linear_classification
from .correspondence import correspondence
from .data import EvaluationData, load_data
from .dense_retrieval import dense_retrieval
from .dispersion import dispersion
from .encoder import Encoder, EncoderOutput, normalize_images
from .evaluation_hook import EvaluationHook
from .foreground import foreground
from .label_propagation import label_propagation, propagate
from .labeled_images import ImageMaskFolder, LabeledScenes, build_labeled
from .linear_segmentation import linear_segmentation
from .overclustering import overclustering
from .protocols import PROTOCOLS, Result, evaluate
from .segmentation_scores import confusion_matrix, segmentation_scores
from .video_clips import Clip, VideoClips
from .vit_encoders import CoTAPEncoder, TimmEncoder, ViTEncoder

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
