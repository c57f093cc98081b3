"""Head scores of one training step."""

from __future__ import annotations

from typing import NamedTuple, Optional

from torch import Tensor

from cotap_mm.models.modules import CropBatch
from cotap_mm.ops import patch_tokens

#: Scores by branch: ``patch`` (I, V, K, H, W), ``cls`` (I, V, K).
BranchScores = dict[str, Tensor]


class PatchScores(NamedTuple):
    """Scores of the patch branch in one step; I = 2B images and positives."""

    student_global: Tensor  # (I, G, K, H, W)
    student_local: Optional[Tensor]  # (I, L, K, h, w)
    teacher: Tensor  # (I, G, K, H, W)
    foreground: Tensor  # (I, G, H, W) bool
    tokens: Optional[Tensor] = None  # (I * G, N, d), patches that leave the student's backbone


class NetworkOutput(NamedTuple):
    """What one network makes of the crops of a step."""

    entering: Tensor  # (crops, 1 + R + N, d), tokens entering the last block
    grid: tuple[int, int]  # H, W with H*W = N
    scores: BranchScores


class ClsScores(NamedTuple):
    """Scores of the CLS branch in one step; I = 2B images and positives."""

    student: Tensor  # (I, V, K), global crops first
    teacher: Tensor  # (I, G, K)


def run_network(net, batch: CropBatch, with_tokens: bool = False) -> NetworkOutput:
    """Run backbone, filter and heads on crops; ``torch.compile`` makes one graph of it.

    Args:
        net (nn.Module): Student or teacher, with ``backbone``, ``neck`` and ``head``.
        batch (CropBatch): The crops.
        with_tokens (bool): See :func:`head_scores`. Defaults to False.
    """
    entering, grid = net.backbone.forward_entering(batch.concatenated())
    return NetworkOutput(entering, grid, head_scores(net, batch, entering, grid, with_tokens))


def head_scores(
    net, batch: CropBatch, entering: Tensor, grid: tuple[int, int], with_tokens: bool = False
) -> BranchScores:
    """Run last block, filter and heads, only for the tokens that a loss reads.

    Args:
        net (nn.Module): Student or teacher, with ``backbone``, ``neck`` and ``head``.
        batch (CropBatch): The crops.
        entering (Tensor): Tokens entering the last block, CLS first, N patches last, one row
            per crop.
        grid (tuple[int, int]): H, W with H*W = N.
        with_tokens (bool): Whether to return the patches that leave the backbone, too. Defaults to
            False.

    Returns:
        dict[str, Tensor]: For each branch that has crops, ``patch`` (I, V, K, H, W) and ``cls``
        (I, V, K); with ``with_tokens`` and a patch branch, ``tokens`` (I * V, N, d).
    """
    backbone, block = net.backbone, net.backbone.last_block
    scores: BranchScores = {}
    if 'patch' in batch.shapes:
        leaving = backbone.run_last(batch.rows_of('patch', entering), grid)
        tokens = patch_tokens(leaving, grid)
        features = net.neck.filter_patches(tokens, grid, block)
        maps = net.head['patch'](features).transpose(1, 2).unflatten(2, grid)
        scores['patch'] = batch.unflatten('patch', maps)  # (I*V, N, K) -> (I, V, K, H, W)
        if with_tokens:
            scores['tokens'] = tokens
    if 'cls' in batch.shapes:
        leaving = backbone.leaving_cls(batch.rows_of('cls', entering), grid)
        features = net.neck.filter_cls(leaving, block)
        scores['cls'] = batch.unflatten('cls', net.head['cls'](features))  # (I, V, K)
    return scores
