"""Baseline: the training step of the released implementation, rewritten from the paper.

Same losses as :class:`cotap_mm.models.CoTAP`, on the same weights. What is done plainly here: each
branch goes through the networks by itself; the filter and both heads run on all tokens; attention
holds its weights; queues are concatenated, with the batch for each assignment and with the new
rows afterwards; every pair of crops has its own RoI-align; ranking holds all pairs; the teacher
is moved tensor by tensor.
"""

from __future__ import annotations

from typing import NamedTuple, Optional

import torch
from torch import Tensor
from torchvision.ops import roi_align

from cotap_mm.models import CoTAP
from cotap_mm.ops import foreground_mask

from .loss import plain


class Scores(NamedTuple):
    """Everything that one forward pass of some crops gives."""

    patch: Tensor  # (I, V, K, H, W)
    cls: Tensor  # (I, V, K)
    entering: Tensor  # (I * V, 1 + N, d)
    attention: Tensor  # (I * V, heads, H, W) of CLS, in the last block


def _attend(attn: torch.nn.Module, tokens: Tensor) -> tuple[Tensor, Tensor]:
    qkv = attn.qkv(tokens).unflatten(2, (3, attn.num_heads, -1))
    query, key, value = qkv.permute(2, 0, 3, 1, 4)
    weights = (query @ key.transpose(2, 3) * query.shape[-1] ** -0.5).softmax(dim=-1)
    return attn.proj((weights @ value).transpose(1, 2).flatten(2)), weights


def score(net, crops: Tensor) -> Scores:
    """Networks, filter and both heads, on all tokens of crops (I, V, 3, h, w)."""
    backbone, shape = net.backbone, crops.shape[:2]
    tokens, grid = backbone.embed(crops.flatten(0, 1))
    entering = weights = tokens
    for block in backbone.layers:
        entering = tokens
        read, weights = _attend(block.attn, block.ln1(tokens))
        tokens = tokens + read
        tokens = block.ffn(block.ln2(tokens), identity=tokens)
    cls, patches = net.neck(tokens, grid, backbone.last_block)
    maps = net.head['patch'](patches).transpose(1, 2).unflatten(2, grid)
    attention = weights[:, :, 0, 1:].unflatten(2, grid)
    return Scores(
        maps.unflatten(0, shape), net.head['cls'](cls).unflatten(0, shape), entering, attention
    )


def sinkhorn(scores: Tensor, temperature: float, num_iters: int = 3) -> Tensor:
    """Rounds of normalization, each one a new matrix."""
    mass = torch.exp(scores / temperature)
    for _ in range(num_iters):
        mass = mass / mass.sum(dim=0, keepdim=True)
        mass = mass / mass.sum(dim=1, keepdim=True)
    return mass


class ReleasedStep:
    """Build the step as a function of views, with the weights and random draws of ``model``.

    Args:
        model (CoTAP): Ours; its queues are copied, its bank is used.
    """

    def __init__(self, model: CoTAP) -> None:
        self.model = model
        self.queues = dict(
            patch=model.patch_queue.newest_scores(), cls=model.cls_queue.newest_scores()
        )

    def loss(self, views: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
        """The five losses."""
        model = self.model
        with torch.no_grad():
            teacher = {
                name: score(model.teacher, view['teacher_global']) for name, view in views.items()
            }
            shape = teacher['patch'].patch.shape[:2]
            foreground = foreground_mask(teacher['patch'].attention.float()).unflatten(0, shape)
        student = {name: score(model, view['student_global']) for name, view in views.items()}
        local = {
            name: score(model, view['student_local'])
            for name, view in views.items()
            if view['student_local'].shape[1]
        }
        whole = student['cls'].entering[:, 1:]
        side = int(whole.shape[1] ** 0.5)
        model.template_bank.collect(
            whole, (side, side), model.draws.order('template_bank', len(whole))
        )
        model.template_bank.start_prototypes(model.neck.prototypes.data)

        losses = self._patch(
            student['patch'], local.get('patch'), teacher['patch'], foreground, views['patch']
        )
        losses.update(self._cls(student['cls'], local.get('cls'), teacher['cls']))
        losses['loss_prototype_entropy'] = model.losses['prototype_entropy'](
            model.neck.prototypes, model.template_bank.contents()
        )
        return losses

    def _assign(self, name: str, scores: Tensor, temperature: float) -> Tensor:
        together = torch.cat([scores.float(), self.queues[name]])
        return sinkhorn(together, temperature)[: len(scores)]

    def _remember(self, name: str, rows: Tensor) -> None:
        size = getattr(self.model, f'{name}_queue').size
        self.queues[name] = torch.cat([rows.float(), self.queues[name]])[:size]

    def _patch(
        self,
        student: Scores,
        local: Optional[Scores],
        teacher: Scores,
        foreground: Tensor,
        views: dict[str, Tensor],
    ) -> dict[str, Tensor]:
        model, loss_fn = self.model, self.model.losses['patch_cluster']
        scores = teacher.patch.permute(0, 1, 3, 4, 2).flatten(0, 3)  # (I * G * N, K)
        ready = len(self.queues['patch']) > 0
        assignment = self._assign('patch', scores, model.patch_queue.temperature)
        maps = teacher.patch.permute(0, 1, 3, 4, 2)
        maps = assignment.view(maps.shape).permute(0, 1, 4, 2, 3)  # (I, G, K, H, W)
        crops = list(student.patch.unbind(1)) + (
            [] if local is None else list(local.patch.unbind(1))
        )
        per_pair: list[Tensor] = []
        for g in range(maps.shape[1]):
            for v, crop in enumerate(crops):
                if v == g:
                    continue
                target = self._cells(maps[:, g], views['common_global'][:, g, v])
                mask = self._cells(foreground[:, g, None].float(), views['common_global'][:, g, v])
                kept = mask[:, :, 0] >= loss_fn.foreground_threshold
                predicted = self._cells(crop, views['common_other'][:, v, g])
                cost = -(target * (predicted / loss_fn.temperature).log_softmax(-1)).sum(-1)
                per_pair.append((cost * kept).sum() / kept.sum().clamp_min(1))
        ranking = [
            plain(
                pred,
                target,
                model.losses['patch_ranking'].tau,
                model.losses['patch_ranking'].threshold,
                torch.where(near, 1.0, model.losses['patch_ranking'].negative_weight),
            )
            for pred, target, near in model.pairs(
                student.patch, teacher.patch, foreground, model.draws
            )
        ]
        chosen, count = model.draws.foreground_patches(
            foreground.flatten(), model.patch_queue.per_step
        )
        self._remember('patch', scores[chosen[: int(count)]])
        return dict(
            loss_patch_cluster=ready * torch.stack(per_pair).mean(),
            loss_patch_ranking=torch.stack(ranking).mean(),
        )

    def _cells(self, maps: Tensor, boxes: Tensor) -> Tensor:
        """Maps (I, C, H, W), a box in each -> (I, cells, C)."""
        index = torch.arange(len(maps), device=maps.device)[:, None]
        rois = torch.cat([index, boxes / self.model.patch_size], dim=1)
        cells = roi_align(
            maps.float(), rois, self.model.losses['patch_cluster'].roi_size, aligned=True
        )
        return cells.flatten(2).transpose(1, 2)

    def _cls(self, student: Scores, local: Optional[Scores], teacher: Scores) -> dict[str, Tensor]:
        model = self.model
        scores = teacher.cls.flatten(0, 1)
        ready = len(self.queues['cls']) > 0
        target = self._assign('cls', scores, model.cls_queue.temperature).view(teacher.cls.shape)
        crops = student.cls if local is None else torch.cat([student.cls, local.cls], dim=1)

        def cost(predicted: Tensor, wanted: Tensor, temperature: float) -> Tensor:
            return -(wanted * (predicted / temperature).log_softmax(-1)).sum(-1).mean()

        same = [
            cost(crops[:, v], target[:, g], model.losses['cls_cluster'].temperature)
            for g in range(target.shape[1])
            for v in range(crops.shape[1])
            if v != g
        ]
        partner = target.roll(len(target) // 2, dims=0)
        near = [
            cost(student.cls[:, v], partner[:, g], model.losses['cls_neighbor'].temperature)
            for g in range(target.shape[1])
            for v in range(target.shape[1])
        ]
        order = model.draws.order('cls_queue', len(scores))
        self._remember('cls', scores[order[: model.cls_queue.per_step].to(scores.device)])
        return dict(
            loss_cls_cluster=ready * torch.stack(same).mean(),
            loss_cls_neighbor=ready * torch.stack(near).mean(),
        )

    @torch.no_grad()
    def move_teacher(self, decay: float) -> None:
        """EMA, tensor by tensor."""
        for name, module in self.model.student.items():
            for old, new in zip(
                getattr(self.model.teacher, name).parameters(), module.parameters()
            ):
                old.mul_(decay).add_(new, alpha=1 - decay)
