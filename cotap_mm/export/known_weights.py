"""Names and licenses of weights on the Hugging Face hub."""

from __future__ import annotations

import re
from typing import Optional

from cotap_mm.weights.named.licenses import find_known_weights

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


def check_license(license: str, init: str, checked: bool = False) -> None:
    """Reject a license that differs from the one of the weights that a network was trained from.

    Args:
        license (str): License of the result, e.g. ``'Apache-2.0'``.
        init (str): Initial weights, see :attr:`.Provenance.init`.
        checked (bool): The user has checked that the other license is allowed. Defaults to False.

    Raises:
        ValueError: If the initial weights are known, and have another license.
    """
    known = find_known_weights(init)
    if known is None or checked or _identifier(license) == known.license:
        return
    raise ValueError(
        f'the initial weights ({known.name}) are licensed under {known.license} ({known.source}), '
        f'which may not allow {license} for what is derived from them; give --license '
        f'{known.license}, or --i-have-checked (checked=True) if it does'
    )


def derived_from(init: str) -> dict[str, str]:
    """Return the initial weights of a network and their license, as far as they are known."""
    known = find_known_weights(init)
    found = dict(weights=init) if init else {}
    if known:
        found.update(method=known.name, license=known.license, source=known.source)
    return found


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
    identifier = _identifier(license)
    if identifier in HUB_LICENSES:
        return dict(license=identifier)
    return dict(license='other', license_name=re.sub(r'[^a-z0-9.]+', '-', identifier).strip('-'))


def _identifier(license: str) -> str:
    return license.strip().lower().replace(' ', '-')
