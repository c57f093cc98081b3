"""Evaluate any backbone through the encoder interface, during and after training."""

from __future__ import annotations

from cotap_mm.encoders.encoder import Encoder, EncoderOutput, normalize_images
from cotap_mm.encoders.timm_vit import TimmEncoder
from cotap_mm.encoders.vit import CoTAPEncoder, ViTEncoder

from .data.evaluation_data import EvaluationData
from .data.labeled_set import LabeledSet
from .data.load import load_data
from .data.segmentation import ImageMaskFolder, LabeledScenes, build_labeled
from .data.video import Clip, VideoClips
from .evaluate import PROTOCOLS, Result, evaluate
from .hook import EvaluationHook
from .metrics import confusion_matrix, segmentation_scores
from .protocols.correspondence import correspondence
from .protocols.dense_retrieval import dense_retrieval
from .protocols.dispersion import dispersion
from .protocols.foreground import foreground
from .protocols.knn import knn_classification
from .protocols.linear_classification import linear_classification
from .protocols.linear_segmentation import linear_segmentation
from .protocols.overclustering import overclustering
from .protocols.propagation import propagate
from .protocols.video_segmentation import label_propagation

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
    'LabeledSet',
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
