"""Measures of any backbone, over one encoder contract, in training and after it."""
from .dense_retrieval import dense_retrieval
from .encoder import Encoder, EncoderOutput, normalize_images
from .labeled_images import ImageMaskFolder, LabeledScenes, build_labeled
from .retrieval_hook import DenseRetrievalHook
from .segmentation_scores import confusion_matrix, segmentation_scores
from .vit_encoders import CoTAPEncoder, TimmEncoder, ViTEncoder

__all__ = [
    'CoTAPEncoder', 'DenseRetrievalHook', 'Encoder', 'EncoderOutput', 'ImageMaskFolder',
    'LabeledScenes', 'TimmEncoder', 'ViTEncoder', 'build_labeled', 'confusion_matrix',
    'dense_retrieval', 'normalize_images', 'segmentation_scores'
]
