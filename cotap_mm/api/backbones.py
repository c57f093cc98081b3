"""Backbones with titles: checkpoints and encoders, in any mixture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Optional, Union

import torch

from cotap_mm.commands.evaluate import parse_backbones
from cotap_mm.encoders.choose import AnyEncoder, as_encoder
from cotap_mm.encoders.encoder import Encoder
from cotap_mm.weights.checkpoint import IN_MEMORY

Backbones = Union[AnyEncoder, Sequence[AnyEncoder], Mapping[str, AnyEncoder]]
_SEED = 0  # of random weights


class Titled(NamedTuple):
    """Loaded backbones.

    Attributes:
        encoders (dict): Title -> encoder.
        checkpoints (dict): Title -> checkpoint, or class of an encoder that was given.
    """

    encoders: dict[str, Encoder]
    checkpoints: dict[str, str]


def load_backbones(
    backbones: Backbones,
    device: Optional[Union[str, torch.device]] = None,
    **options: Any,
) -> Titled:
    """Load backbones and give each a title.

    Args:
        backbones (Encoder | str | Path | sequence | Mapping): One backbone, several, or title ->
            backbone. A backbone is an encoder or what :func:`cotap_mm.load` accepts; a string
            may be ``'NAME=CHECKPOINT'`` or ``'CHECKPOINT@backbone'``, as in ``cotap evaluate``.
        device (str | torch.device, optional): See :func:`.as_encoder`.
        **options: Further arguments of :func:`cotap_mm.load` for all checkpoints.

    Returns:
        Titled: Encoders and checkpoints by title.

    Raises:
        ValueError: If two backbones have the same title.
    """
    items = _items(backbones)
    texts = [str(each) for _, each in items if not isinstance(each, (Encoder, dict))]
    parsed = iter(parse_backbones(texts))
    encoders: dict[str, Encoder] = {}
    checkpoints: dict[str, str] = {}
    for title, backbone in items:
        if isinstance(backbone, (Encoder, dict)):
            is_encoder = isinstance(backbone, Encoder)
            name = type(backbone).__name__ if is_encoder else IN_MEMORY
            title = title or name
            encoder = as_encoder(backbone, device, **({} if is_encoder else options))
        else:
            found = next(parsed)
            title, name = title or found.title, found.checkpoint
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(_SEED)  # random weights are the same in every call
                encoder = as_encoder(
                    found.checkpoint,
                    device,
                    **{**options, 'output': found.output or options.get('output')},
                )
        if title in encoders:
            raise ValueError(
                f'two backbones are called {title!r}; pass a dict of their names, '
                "e.g. {'before': A, 'after': B}"
            )
        encoders[title], checkpoints[title] = encoder, name
    return Titled(encoders, checkpoints)


def _items(backbones: Backbones) -> list[tuple[str, Any]]:
    """Titles ('' if there are none) and backbones; a state dict is one backbone."""
    if isinstance(backbones, Mapping):
        if any(isinstance(value, torch.Tensor) for value in backbones.values()) or (
            'state_dict' in backbones
        ):
            return [('', dict(backbones))]
        return [(str(title), backbone) for title, backbone in backbones.items()]
    if isinstance(backbones, (list, tuple)):
        return [('', backbone) for backbone in backbones]
    return [('', backbones)]
