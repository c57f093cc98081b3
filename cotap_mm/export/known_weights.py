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
#: Licenses that the Hugging Face hub knows; others are written as ``other`` with their name.
HUB_LICENSES = frozenset(
    (
        *('apache-2.0', 'mit', 'bsd', 'bsd-2-clause', 'bsd-3-clause', 'isc', 'unlicense', 'wtfpl'),
        *('cc0-1.0', 'cc-by-4.0', 'cc-by-sa-4.0', 'cc-by-nc-4.0', 'cc-by-nc-sa-4.0'),
        *('cc-by-nd-4.0', 'cc-by-nc-nd-4.0', 'gpl-2.0', 'gpl-3.0', 'agpl-3.0', 'lgpl-3.0'),
        *('mpl-2.0', 'openrail', 'openmdw-1.0', 'artistic-2.0', 'epl-2.0', 'ecl-2.0'),
    )
)
_HUB_NAMES = (  # initial weights -> the same weights on the Hugging Face hub, for `base_model`
    (r'dino_deitsmall16_pretrain|(^|:)dino_vits16$|vit_small_patch16_224\.dino$', 'dino-vits16'),
    (r'dino_deitsmall8_pretrain|(^|:)dino_vits8$|vit_small_patch8_224\.dino$', 'dino-vits8'),
    (r'dino_vitbase16_pretrain|(^|:)dino_vitb16$|vit_base_patch16_224\.dino$', 'dino-vitb16'),
    (r'dino_vitbase8_pretrain|(^|:)dino_vitb8$|vit_base_patch8_224\.dino$', 'dino-vitb8'),
    (r'mae_pretrain_vit_(base|large|huge)\.pth$', r'vit-mae-\1'),
)


def find_known_weights(name: str) -> Optional[KnownWeights]:
    """Find weights by their URL, file name, or name on the hub or in timm; None if unknown."""
    matches = (known for known in _TABLE if re.search(known.pattern, name, re.IGNORECASE))
    return next(matches, None)


def hub_name(name: str) -> Optional[str]:
    """Return ``USER/REPO`` of weights on the Hugging Face hub, given any of their names."""
    match = re.match(r'hf:(?://)?([\w.-]+/[\w.-]+)', name)
    if match:
        return match[1]
    for pattern, repo in _HUB_NAMES:
        found = re.search(pattern, name)
        if found:
            return f'facebook/{found.expand(repo)}'
    return None


def hub_license(license: str) -> dict[str, str]:
    """Return the metadata of a license for the header of a model card.

    Args:
        license (str): Identifier, such as ``'Apache-2.0'``, or any text.

    Returns:
        dict[str, str]: ``license``, and ``license_name`` for a license that the hub does not know.
    """
    identifier = license.strip().lower().replace(' ', '-')
    if identifier in HUB_LICENSES:
        return dict(license=identifier)
    return dict(license='other', license_name=re.sub(r'[^a-z0-9.]+', '-', identifier).strip('-'))
