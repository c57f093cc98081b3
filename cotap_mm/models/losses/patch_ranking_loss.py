"""CoTAP: Average Precision over patch pairs, for continuous targets."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cotap_mm.ops import continuous_average_precision
from cotap_mm.ops.average_precision import METHODS
from cotap_mm.registry import MODELS

from .finite_check import check_finite


@MODELS.register_module()
class PatchRankingLoss(nn.Module):
    r"""Make the student rank patch pairs as the teacher does.

    .. math::
        L = \frac{\sum_i w_i\, r_i / (1 + r_i)}{\sum_i w_i}, \quad
        r_i = \frac{L_{pn}(i)}{L_{pp}(i)}, \quad
        w_i = \max(t_i - \theta, 0) \cdot (1 \text{ or } \alpha)

    Only differences of ``pred`` enter, so a constant added to all of them changes
    nothing, and a pair that many right pairs outrank weighs little. With binary
    targets this is 1 - AP with a smooth rank. Computed in float32 at least.

    Cost: O(P log P) time and O(P) memory for P pairs.
    Source: CoTAP, https://arxiv.org/abs/2509.09429.

    Args:
        tau (float): Gap in ``pred`` from which on a right order costs nothing, in
            cosine units, > 0. Defaults to 0.5.
        threshold (float): Theta; pairs with a target below it carry no weight, in
            cosine units. Defaults to -0.2.
        negative_weight (float): Alpha, factor on the weight of pairs from random
            other images, >= 0. Defaults to 0.1.
        method (str): Way of computing, see :func:`cotap_mm.ops.rank_statistics`.
            Defaults to ``'auto'``.

    Raises:
        ValueError: If ``tau`` is not positive, ``negative_weight`` is negative or ``method``
            is unknown.
    """

    def __init__(
        self,
        tau: float = 0.5,
        threshold: float = -0.2,
        negative_weight: float = 0.1,
        method: str = 'auto',
    ) -> None:
        super().__init__()
        if not tau > 0:
            raise ValueError(f'tau must be > 0, got {tau}')
        if negative_weight < 0:
            raise ValueError(f'negative_weight must be >= 0, got {negative_weight}')
        if method not in METHODS:
            raise ValueError(f'method must be one of {METHODS}, got {method!r}')
        self.tau = tau
        self.threshold = threshold
        self.negative_weight = negative_weight
        self.method = method

    def forward(self, pred: Tensor, target: Tensor, is_neighbor: Tensor) -> Tensor:
        """Rank P pairs in one list.

        Args:
            pred (Tensor): Student's similarity of each pair, shape (P,).
            target (Tensor): Teacher's similarity, shape (P,); a constant.
            is_neighbor (Tensor): True (or 1) for pairs of an image and its
                neighbour, False (or 0) for pairs with a random other image, (P,).

        Returns:
            Tensor: The loss, a scalar in [0, 1).

        Raises:
            ValueError: If shapes differ, are not 1-D, or on a CPU, values are not finite.
        """
        self._check(pred, target, is_neighbor)
        dtype = torch.promote_types(pred.dtype, torch.float32)
        weight = torch.full_like(target, self.negative_weight, dtype=dtype)
        weight = weight.masked_fill(is_neighbor.bool(), 1)
        return continuous_average_precision(
            pred, target, self.tau, self.threshold, weight, self.method
        )

    @staticmethod
    def _check(pred: Tensor, target: Tensor, is_neighbor: Tensor) -> None:
        shapes = [tuple(x.shape) for x in (pred, target, is_neighbor)]
        if pred.ndim != 1 or len(set(shapes)) > 1:
            raise ValueError(
                'pred, target and is_neighbor must be 1-D and of one length, '
                f'got shapes {shapes[0]}, {shapes[1]}, {shapes[2]}'
            )
        check_finite('pred', pred)
        check_finite('target', target)
