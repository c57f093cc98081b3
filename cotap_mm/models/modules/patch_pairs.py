"""Sampling of the patch pairs that the ranking loss ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cotap_mm.ops import at_least_float32
from cotap_mm.rules import WHOLES, check_arguments, or_one_of, whole

from .random_draws import RandomDraws

_EPS = 1e-5


class PatchPairSampler(nn.Module):
    """Pair foreground patches of an image with those of its neighbor and of other images.

    For each pool size: average-pool scores and the teacher's foreground to that grid, collect the
    patches of all global crops of an image, keep the ``topk`` with the most foreground **of that
    same image**, and compare them with those of its positive and of the positives of
    ``num_negatives`` other images. (The released implementation uses the foreground of a wrong
    image.)

    Source: CoTAP, https://arxiv.org/abs/2509.09429.

    Args:
        pool_sizes (Sequence[int]): Sides of the grids to pool to, at most that of the patch grid.
            Defaults to (7, 14).
        topk (int, optional): Patches per image. None pairs every patch with every patch:
            ``(G * size**2)**2 * (1 + num_negatives)`` pairs per image. Defaults to 5.
        num_negatives (int): Negatives per image; 0 for none. Defaults to 5.

    Raises:
        ValueError: If an argument is out of range.
    """

    @check_arguments(pool_sizes=WHOLES, topk=or_one_of(whole(1), None), num_negatives=whole(0))
    def __init__(
        self, pool_sizes: Sequence[int] = (7, 14), topk: Optional[int] = 5, num_negatives: int = 5
    ) -> None:
        super().__init__()
        self.pool_sizes = tuple(pool_sizes)
        self.topk = topk
        self.num_negatives = num_negatives

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        foreground: Tensor,
        draws: Optional[RandomDraws] = None,
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Sample the pairs of one batch.

        Args:
            student (Tensor): Student scores, B images first, then their B positives, shape
                (2B, G, K, H, W).
            teacher (Tensor): Teacher scores, shape (2B, G, K, H, W).
            foreground (Tensor): Teacher's masks, shape (2B, G, H, W).
            draws (RandomDraws, optional): Source of random choices. Defaults to a new
                :class:`RandomDraws`.

        Yields:
            tuple[Tensor, Tensor, Tensor]: For each pool size, similarities of the student, of the
            teacher (both float32), and True for pairs of an image and its neighbor, (P,) each.

        Raises:
            ValueError: If a pool size exceeds the patch grid.
        """
        draws = draws or RandomDraws()
        num_images = len(student) // 2
        for size in self.pool_sizes:
            if size > min(student.shape[-2:]):
                raise ValueError(
                    f'pool size {size} exceeds the {student.shape[-2]} x '
                    f'{student.shape[-1]} patches of a global crop; set pool_sizes'
                )
            chosen = None  # all patches
            if self.topk is not None:
                weight = self._pool(foreground[:, :, None].float(), size)[..., 0]  # (2B, T)
                chosen = draws.top_patches(weight, min(self.topk, weight.shape[1]))  # (2B, topk)
            others = draws.negatives(num_images, self.num_negatives)
            others = others.to(student.device, non_blocking=True)
            pred, target = (
                self._similarities(self._pool(at_least_float32(scores), size), chosen, others)
                for scores in (student, teacher)
            )
            is_neighbor = torch.zeros_like(pred, dtype=torch.bool)
            is_neighbor[0] = True
            yield pred.flatten(), target.flatten(), is_neighbor.flatten()

    @staticmethod
    def _pool(maps: Tensor, size: int) -> Tensor:
        """(I, G, C, H, W) -> tokens of all global crops together (I, G*size*size, C)."""
        pooled = F.adaptive_avg_pool2d(maps.flatten(0, 1), size)
        return pooled.flatten(2).unflatten(0, maps.shape[:2]).transpose(2, 3).flatten(1, 2)

    @staticmethod
    def _similarities(tokens: Tensor, chosen: Optional[Tensor], others: Tensor) -> Tensor:
        """Cosines with the own positive, then with those of others, (1 + R, B, topk, topk)."""
        if chosen is not None:
            tokens = tokens.gather(1, chosen[..., None].expand(-1, -1, tokens.shape[-1]))
        image, positive = F.normalize(tokens, dim=-1, eps=_EPS).chunk(2)  # (B, topk, K) each
        itself = torch.arange(len(positive), device=positive.device)[None]
        index = torch.cat([itself, others])  # (1 + R, B)
        # index_select, since the gradient of positive[index] is summed in arbitrary order if there
        # are several threads.
        partners = positive.index_select(0, index.flatten()).unflatten(0, index.shape)
        # Half precision would round similarities to equal values and so lose their order.
        with torch.autocast(image.device.type, enabled=False):
            return torch.einsum('bik,rbjk->rbij', image, partners)
