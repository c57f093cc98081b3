"""Entropy of the prototypes over the template bank."""

from __future__ import annotations

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cotap_mm.ops import at_least_float32
from cotap_mm.registry import MODELS
from cotap_mm.rules import check_arguments, number

from .finite_check import check_finite


@MODELS.register_module()
class PrototypeEntropyLoss(nn.Module):
    """Make each prototype commit to few of the observed templates.

    Takes the cosine of each flattened prototype and each flattened template, the softmax over
    templates, its entropy, and the mean over prototypes. The entropy is **minimized**. No other
    loss moves the prototypes.

    Source: CoTAP, https://arxiv.org/abs/2509.09429.

    Args:
        temperature (float): Softmax temperature, > 0. Defaults to 0.1.

    Raises:
        ValueError: If ``temperature`` is not a positive number.
    """

    @check_arguments(temperature=number(0, above=True))
    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(
        self, prototypes: Tensor, templates: Tensor, norms: Optional[Tensor] = None
    ) -> Tensor:
        """Compute the mean entropy.

        Args:
            prototypes (Tensor): Shape (M, d, 3, 3).
            templates (Tensor): Shape (T, d, 3, 3), T >= 1; a constant in training.
            norms (Tensor, optional): L2 norms of the flattened templates, shape (T,). Defaults to
                None, computed.

        Returns:
            Tensor: Entropy in nats, a scalar in [0, log T].

        Raises:
            ValueError: If shapes do not fit, or if values on a CPU are not finite.
        """
        fits = prototypes.ndim == 4 and prototypes.shape[1:] == templates.shape[1:]
        if not fits or not len(templates):
            raise ValueError(
                'prototypes (M, d, 3, 3) and templates (T, d, 3, 3) must agree in d '
                f'and T be >= 1, got {tuple(prototypes.shape)} and '
                f'{tuple(templates.shape)}'
            )
        precise = at_least_float32(prototypes)
        with torch.autocast(precise.device.type, enabled=False):
            left = F.normalize(precise.flatten(1), dim=1)
            right = templates.flatten(1).to(precise.dtype)
            norms = right.norm(dim=1) if norms is None else norms.to(precise.dtype)
            # Products are divided by the norms, since normalized templates would be a copy.
            cosines = left @ right.T / norms.clamp_min(1e-12)  # (M, T)
            log_share = (cosines / self.temperature).log_softmax(dim=1)
            entropy = -(log_share.exp() * log_share).sum(dim=1).mean()
        check_finite('prototypes and templates', entropy)
        return entropy
