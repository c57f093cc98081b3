"""Record where features come from: images, weights, settings and versions."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from cotap_mm.datasets.sources.fingerprints import fingerprint_of
from cotap_mm.datasets.sources.protocol import ImageSource, prepare
from cotap_mm.distributed.first_rank import on_first_rank
from cotap_mm.encoders.choose import AnyEncoder
from cotap_mm.encoders.encoder import Encoder
from cotap_mm.files.atomic_write import checksum
from cotap_mm.weights.hashing import weights_hash


def describe_encoder(given: AnyEncoder, encoder: Encoder) -> dict[str, Any]:
    """Identify a network for a record of where features come from.

    Args:
        given (Encoder | str | Path | dict): What the encoder was made from.
        encoder (Encoder): The encoder.

    Returns:
        dict: Name and hash of the checkpoint, hash of the weights, kind of encoder.
    """
    file = Path(given) if isinstance(given, (str, Path)) else None
    network = getattr(encoder, 'network', None)
    return dict(
        checkpoint=type(given).__name__ if file is None else str(given),
        checkpoint_sha256=checksum(file) if file is not None and file.is_file() else None,
        weights_sha256=weights_hash(encoder.module.state_dict()),
        encoder=type(encoder).__name__,
        network=network if isinstance(network, str) else None,
        output=getattr(encoder, 'output', None),
        filter=getattr(network, 'neck', None) is not None,
        patch_size=encoder.patch_size,
    )


def describe_images(images: Any, source: ImageSource) -> dict[str, Any]:
    """Identify images for such a record.

    Args:
        images (str | Path | sequence | ImageSource): What the source was made from.
        source (ImageSource): The images.

    Returns:
        dict: Name, number and digest of the images, and their range of values.
    """
    is_path = isinstance(images, (str, Path))
    return dict(
        images=str(images) if is_path else type(images).__name__,
        count=len(source),
        fingerprint=on_first_rank(lambda: fingerprint_of(source)),
        value_range=str(prepare(source)),
    )


def digest(about: dict[str, Any], **more: Any) -> str:
    """Digest of everything that features depend on; not of paths, which may change.

    Args:
        about (dict): A record.
        **more: Further facts.
    """
    facts = {name: value for name, value in about.items() if name not in ('checkpoint', 'images')}
    facts.update(more)
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
