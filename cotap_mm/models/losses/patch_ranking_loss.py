"""Average Precision over patch pairs with continuous targets."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cotap_mm.ops import continuous_average_precision
from cotap_mm.ops.ranking.average_precision import resolve_method
from cotap_mm.registry import MODELS
from cotap_mm.rules import check_arguments, number

from .finite_check import check_finite


@MODELS.register_module()
class PatchRankingLoss(nn.Module):
    r"""Make the student rank patch pairs as the teacher does.

    .. math::
        L = \frac{\sum_i w_i\, r_i / (1 + r_i)}{\sum_i w_i}, \quad
        r_i = \frac{L_{pn}(i)}{L_{pp}(i)}, \quad
        w_i = \max(t_i - \theta, 0) \cdot (1 \text{ or } \alpha)

    The loss depends only on differences of ``pred``, so a constant added to all of them changes
    nothing. A pair with many concordant pairs above it has little influence. With binary targets
    this is 1 - AP with a smooth rank. Computed in at least float32.

    Cost: O(P) memory for P pairs. With ``'auto'``, O(P^2) time up to 512 pairs on a CPU and 65,536
    on a GPU, where every two pairs are compared, and O(P log P) for longer lists.
    Source: CoTAP, https://arxiv.org/abs/2509.09429.

    Args:
        tau (float): Margin: correctly ordered pairs separated by at least ``tau`` in ``pred``
            incur no penalty. Cosine units, > 0. Defaults to 0.5.
        threshold (float): Theta: pairs with a smaller target have zero weight. Cosine units, < 1,
            where no pair would have a weight. Defaults to -0.2.
        negative_weight (float): Alpha, weight of pairs with random other images, >= 0. Defaults
            to 0.1.
        method (str): Algorithm, see :func:`cotap_mm.ops.rank_statistics`. Defaults to ``'auto'``.

    Raises:
        ValueError: If a number is out of range or ``method`` is unknown.
    """

    @check_arguments(
        tau=number(0, above=True),
        threshold=number(high=1, below=True),
        negative_weight=number(0),
    )
    def __init__(
        self,
        tau: float = 0.5,
        threshold: float = -0.2,
        negative_weight: float = 0.1,
        method: str = 'auto',
    ) -> None:
        super().__init__()
        self.tau = tau
        self.threshold = threshold
        self.negative_weight = negative_weight
        self.method = resolve_method(method, stacklevel=5)  # behind check_arguments

    def forward(self, pred: Tensor, target: Tensor, is_neighbor: Tensor) -> Tensor:
        """Rank P pairs in one list.

        Args:
            pred (Tensor): Similarity of each pair according to the student, shape (P,).
            target (Tensor): Similarity according to the teacher, shape (P,); a constant.
            is_neighbor (Tensor): True (or 1) for pairs of an image and its neighbor, False (or 0)
                for pairs with a random other image, shape (P,).

        Returns:
            Tensor: The loss, a scalar in [0, 1).

        Raises:
            ValueError: If shapes differ or are not 1-D, or if values on a CPU are not finite.
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
                'pred, target and is_neighbor must be 1-D and have the same length, '
                f'got shapes {shapes[0]}, {shapes[1]}, {shapes[2]}'
            )
        check_finite('pred', pred)
        check_finite('target', target)
