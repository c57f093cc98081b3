"""Accept an encoder or a checkpoint, and choose the device."""

from __future__ import annotations

from typing import Any, Optional, Union

import torch

from cotap_mm.weights.checkpoint import AnyCheckpoint

from .encoder import Encoder
from .load import load

AnyEncoder = Union[Encoder, AnyCheckpoint]


def as_encoder(
    encoder: AnyEncoder, device: Optional[Union[str, torch.device]] = None, **options: Any
) -> Encoder:
    """Return an encoder unchanged, or load a checkpoint as one.

    Args:
        encoder (Encoder | str | Path | dict): An encoder, or what :func:`cotap_mm.load` accepts.
        device (str | torch.device, optional): Device of the network. Defaults to None: that of
            an encoder, and for a checkpoint a GPU if there is one.
        **options: Further arguments of :func:`cotap_mm.load`, only for checkpoints.

    Returns:
        Encoder: On the device.

    Raises:
        ValueError: If options are given for an encoder, or the device does not exist.
    """
    if not isinstance(encoder, Encoder):
        return load(encoder, device=usable_device(device), **options)
    given = [name for name, value in options.items() if value not in (None, False)]
    if given:
        raise ValueError(
            f'{", ".join(given)} applies to a checkpoint, but an encoder was given; pass it to '
            'cotap_mm.load'
        )
    if device is not None:
        encoder.module.to(usable_device(device))
    return encoder


def usable_device(device: Optional[Union[str, torch.device]] = None) -> torch.device:
    """Return a device that PyTorch can use.

    Args:
        device (str | torch.device, optional): Defaults to None, a GPU if there is one.

    Raises:
        ValueError: If it does not exist.
    """
    if device is None:
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen).cpu()
    except Exception as error:  # of any type, depending on the kind of device
        raise ValueError(
            f'device {str(device)!r} cannot be used on this machine; use cpu'
            + (
                f' or cuda:0 to cuda:{torch.cuda.device_count() - 1}'
                if torch.cuda.is_available()
                else ' (PyTorch finds no GPU)'
            )
        ) from error
    return chosen
