"""Licenses of the weights that trainings start from, with their sources."""

from __future__ import annotations

import re
from typing import NamedTuple, Optional


class KnownWeights(NamedTuple):
    """Published weights of another method.

    Attributes:
        name (str): Name of the method.
        license (str): Identifier of the license, as on the Hugging Face hub.
        source (str): Page where its authors state the license.
        pattern (str): Regular expression that is found in the URL, file name or hub name of the
            weights.
    """

    name: str
    license: str
    source: str
    pattern: str


_TABLE = (
    KnownWeights(
        'DINO',
        'apache-2.0',
        'https://github.com/facebookresearch/dino#license',
        r'fbaipublicfiles\.com/dino/|(^|/)dino_(deitsmall|vitbase)(8|16)_pretrain|'
        r'\.dino$|(^|/|:)dino[-_]vit[sb](8|16)$',
    ),
    KnownWeights(
        'Franca',  # and its own DINOv2, whose files have both names
        'research-only-rail',
        'https://github.com/valeoai/Franca/blob/main/LICENSE_MODEL',
        r'valeoai/franca/|(^|[/:])franca[-_]',
    ),
    KnownWeights(
        'DINOv2',
        'apache-2.0',
        'https://github.com/facebookresearch/dinov2#license',
        r'fbaipublicfiles\.com/dinov2/|(^|/|:)dinov2[-_]|_dinov2(\.|$)',
    ),
    KnownWeights(
        'EUPE',
        'fair-noncommercial-research-license',
        'https://github.com/huggingface/pytorch-image-models (timm/models/eva.py)',
        r'(^|[/:._-])eupe([/._-]|$)',
    ),
    KnownWeights(
        'DINOv3',
        'dinov3-license',
        'https://ai.meta.com/resources/models-and-libraries/dinov3-license/',
        r'(^|[/:._-])dinov3([/._-]|$)',
    ),
    KnownWeights(
        'iBOT',
        'apache-2.0',
        'https://github.com/bytedance/ibot#license',
        r'nlp-opensource/archive/2022/ibot/|(^|/|:)ibot[-_]vit[sbl]?',
    ),
    KnownWeights(
        'Mugs',
        'apache-2.0',
        'https://github.com/sail-sg/mugs/blob/main/LICENSE',
        r'(^|/|:)mugs[-_]',
    ),
    KnownWeights(
        'Leopart',
        'mit',
        'https://github.com/MkuuWaUjinga/leopart/blob/main/LICENSE',
        r'(^|/|:)leopart[-_]',
    ),
    KnownWeights(
        'MAE',
        'cc-by-nc-4.0',
        'https://github.com/facebookresearch/mae/blob/main/LICENSE',
        r'fbaipublicfiles\.com/mae/|(^|/)mae_pretrain_|\.mae$|(^|/|:)(vit-mae|mae_vit)[-_]?',
    ),
    KnownWeights(
        'MoCo v3',
        'cc-by-nc-4.0',
        'https://github.com/facebookresearch/moco-v3#license',
        r'fbaipublicfiles\.com/moco-v3/|(^|/|:)moco-?v3[-_]',
    ),
    KnownWeights(
        'the toy ViT of cotap_mm',
        'apache-2.0',
        'the license of cotap_mm',
        r'^cotap_mm://toy_vit\.pth$',
    ),
)


def find_known_weights(name: str) -> Optional[KnownWeights]:
    """Find weights by their URL, file name, or name on the hub or in timm; None if unknown."""
    matches = (known for known in _TABLE if re.search(known.pattern, name, re.IGNORECASE))
    return next(matches, None)
