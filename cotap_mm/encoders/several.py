"""Encode images with several encoders, in one forward pass if they are outputs of one network."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor, nn

from cotap_mm.models.algorithms.inference import FeatureExtractionMixin

from .encoder import Encoder, EncoderOutput
from .vit import CoTAPEncoder


def group_by_network(encoders: Sequence[Encoder]) -> list[list[int]]:
    """Group encoders whose features come from one forward pass, see :func:`encode_each`.

    Args:
        encoders (sequence): The encoders.

    Returns:
        list[list[int]]: Indices of the encoders of each group, groups in order of their first one.
    """
    groups: dict[Hashable, list[int]] = {}
    for index, encoder in enumerate(encoders):
        key: Hashable = (encoder,)
        if type(encoder) is CoTAPEncoder and _has_outputs(encoder.module):
            key = (encoder.module, encoder.network)
        groups.setdefault(key, []).append(index)
    return list(groups.values())


@torch.no_grad()
def encode_each(encoders: Sequence[Encoder], images: Tensor) -> list[EncoderOutput]:
    """Encode images with several encoders.

    Student or teacher of a :class:`~cotap_mm.models.CoTAP` algorithm has two outputs, of which the
    filter is computed from the tokens of the backbone: encoders of both need one forward pass.

    Args:
        encoders (sequence): The encoders.
        images (Tensor): See :meth:`Encoder.__call__`.

    Returns:
        list[EncoderOutput]: What each encoder returns when it is called, to the bit.
    """
    found = {}
    for group in group_by_network(encoders):
        first = encoders[group[0]]
        if len(group) == 1:
            found[group[0]] = first(images)
            continue
        assert isinstance(first, CoTAPEncoder), 'only its outputs share a pass'
        names = [encoders[index].output for index in group]  # type: ignore[attr-defined]
        found.update(zip(group, first.outputs(images, names)))
    return [found[index] for index in range(len(encoders))]


def _has_outputs(algorithm: nn.Module) -> bool:
    """Whether ``encode_outputs`` gives what ``encode`` gives, which users may have replaced."""
    return getattr(algorithm.encode, '__func__', None) is FeatureExtractionMixin.encode
