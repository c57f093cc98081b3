"""CoTAP: views -> student and teacher -> five named losses."""

from __future__ import annotations

from typing import NamedTuple, Optional

import torch
from mmengine.logging import print_log
from mmpretrain.models import BaseSelfSupervisor
from torch import Tensor, nn

from cotap_mm.models.losses.finite_check import skip_finite_checks
from cotap_mm.models.modules import (
    AssignmentQueue,
    EMATeacher,
    PatchPairSampler,
    RandomDraws,
    TemplateBank,
    assignment_monitors,
)
from cotap_mm.ops import foreground_mask
from cotap_mm.registry import MODELS, build
from cotap_mm.weights import init_then_load

from .inference import FeatureExtractionMixin

Views = dict[str, Tensor]

_PATCH_LOSSES = ('patch_cluster', 'patch_ranking')
_CLS_LOSSES = ('cls_cluster', 'cls_neighbor', 'prototype_entropy')


def _build(cfg, **defaults) -> nn.Module:
    """A module from its config; ``defaults`` are widths that a neighbour determines."""
    return cfg if isinstance(cfg, nn.Module) else build(MODELS, cfg, **defaults)


class PatchScores(NamedTuple):
    """One step's scores of the patch branch; I = 2B images and positives."""

    student_global: Tensor  # (I, G, K, H, W)
    student_local: Optional[Tensor]  # (I, L, K, h, w)
    teacher: Tensor  # (I, G, K, H, W)
    foreground: Tensor  # (I, G, H, W) bool


class ClsScores(NamedTuple):
    """One step's scores of the CLS branch."""

    student: Tensor  # (I, V, K), global crops first
    teacher: Tensor  # (I, G, K)


@MODELS.register_module()
class CoTAP(FeatureExtractionMixin, BaseSelfSupervisor):
    """Self-supervised post-pretraining with explicit semantic concentration.

    A student learns from its own slow average, the teacher, on two branches:
    scenes for patches, object-centred images for CLS. Losses that ``losses`` does not
    name are left out, and a branch that no loss reads is not computed.

    Source: CoTAP, https://arxiv.org/abs/2509.09429.

    Args:
        backbone (dict | nn.Module): A :class:`DINOViT`.
        neck (dict | nn.Module): An :class:`ObjectAwareFilter`, or :class:`NoFilter`;
            ``in_channels`` defaults to the backbone's width.
        head (dict): ``patch`` and ``cls``, each a :class:`PrototypeHead`;
            ``in_channels`` defaults to the neck's width.
        losses (dict): Any of ``patch_cluster``, ``cls_cluster``, ``patch_ranking``,
            ``cls_neighbor``, ``prototype_entropy``, each a loss module's config.
        loss_weights (dict[str, float], optional): Factors of some of ``losses``.
            Defaults to None, 1 for each, as in the paper.
        memory (dict): Options of ``patch_queue`` and ``cls_queue``
            (:class:`AssignmentQueue`) and ``template_bank`` (:class:`TemplateBank`).
        pairs (dict, optional): Options of :class:`PatchPairSampler`.
        data_preprocessor (dict | nn.Module, optional): Defaults to
            :class:`CoTAPDataPreprocessor`.
        init_cfg (dict, optional): ``dict(type='PretrainedViT', checkpoint=...)`` to
            start from DINO, iBOT, ... weights.

    Raises:
        ValueError: If ``losses`` names an unknown loss or none, or the bank holds fewer
            templates than there are prototypes.
        RuntimeError: In training, if the teacher never moves.
    """

    #: Forward passes after which a teacher that never moved is an error.
    teacher_patience = 100

    def __init__(
        self,
        backbone,
        neck,
        head: dict,
        losses: dict,
        memory: dict,
        pairs: Optional[dict] = None,
        data_preprocessor=None,
        loss_weights: Optional[dict[str, float]] = None,
        init_cfg: Optional[dict] = None,
    ) -> None:
        losses = {name: cfg for name, cfg in losses.items() if cfg is not None}
        for key, given in (('losses', losses), ('loss_weights', loss_weights or {})):
            if set(given) - set(_PATCH_LOSSES + _CLS_LOSSES) or not losses:
                raise ValueError(
                    f'{key} must name some of {_PATCH_LOSSES + _CLS_LOSSES}, got {sorted(given)}'
                )

        backbone = _build(backbone)
        neck = _build(neck, in_channels=backbone.embed_dims)
        if 'prototype_entropy' in losses and not neck.num_prototypes:
            raise ValueError(
                f'{type(neck).__name__} has no prototypes for losses.'
                'prototype_entropy; set it to None'
            )
        head = {
            name: _build(head[name], in_channels=neck.out_channels) for name in ('patch', 'cls')
        }
        super().__init__(
            backbone=backbone,
            neck=neck,
            head=nn.ModuleDict(head),
            data_preprocessor=_build(data_preprocessor or dict(type='CoTAPDataPreprocessor')),
            init_cfg=init_cfg,
        )
        self.losses = nn.ModuleDict({name: _build(cfg) for name, cfg in losses.items()})
        self.loss_weights = dict(loss_weights or {})
        self.pairs = PatchPairSampler(**(pairs or {}))
        self.teacher = EMATeacher(self.student)
        self.patch_queue = AssignmentQueue(
            num_clusters=self.head['patch'].num_clusters, **memory['patch_queue']
        )
        self.cls_queue = AssignmentQueue(
            num_clusters=self.head['cls'].num_clusters, **memory['cls_queue']
        )
        self.template_bank = TemplateBank(
            channels=self.backbone.embed_dims, **memory['template_bank']
        )
        if self.template_bank.size < neck.num_prototypes:
            raise ValueError(
                f'memory.template_bank.size must be at least neck.num_prototypes='
                f'{neck.num_prototypes}, which start from it, got '
                f'{self.template_bank.size}'
            )
        self._freeze_what_no_loss_reads()
        self.draws = RandomDraws()
        self.monitor_now = False  # set by the monitor hook for the steps that it logs
        self._idle_steps = 0

    def _freeze_what_no_loss_reads(self) -> None:
        """With several ranks DDP would wait for gradients that never come."""
        for branch, losses in (('patch', _PATCH_LOSSES), ('cls', ('cls_cluster', 'cls_neighbor'))):
            if not any(name in self.losses for name in losses):
                self.head[branch].requires_grad_(False)
                getattr(self.neck, f'norm_{branch}').requires_grad_(False)
        if 'prototype_entropy' not in self.losses and self.neck.num_prototypes:
            self.neck.prototypes.requires_grad_(False)

    @property
    def student(self) -> dict[str, nn.Module]:
        """The parts that the optimiser moves and the teacher copies."""
        return dict(backbone=self.backbone, neck=self.neck, head=self.head)

    def init_weights(self) -> None:
        """Initialise the student, load ``PretrainedViT`` weights, and copy to the teacher."""

        def init_all() -> None:
            super(CoTAP, self).init_weights()
            self.teacher.copy_from(self.student)

        if not (init_then_load(self, init_all) or self.init_cfg or self.backbone.init_cfg):
            print_log(
                'CoTAP is post-pretraining, but no init checkpoint is set: training starts '
                'from random weights. Expect little in short runs; give '
                "init_cfg=dict(type='PretrainedViT', checkpoint=...) or --init FILE.",
                logger='current',
                level=30,
            )

    # ---- one training step -------------------------------------------------------------

    @skip_finite_checks()
    def loss(self, inputs: dict[str, Views], data_samples: Optional[list] = None) -> dict:
        """The named losses of one step; memories are updated afterwards.

        Args:
            inputs (dict): For ``patch`` and ``cls`` the views that
                :class:`CoTAPDataPreprocessor` returns.
            data_samples (list, optional): Unused.

        Returns:
            dict[str, Tensor]: ``loss_*`` scalars, and ``monitor/*`` when asked for.
        """
        self._check_teacher_moves()
        branches = [
            name
            for name, names in (('patch', _PATCH_LOSSES), ('cls', _CLS_LOSSES))
            if any(loss in self.losses for loss in names)
        ]
        views = {name: inputs[name] for name in branches}
        patch, cls = self._score(views)
        if 'prototype_entropy' in self.losses:
            self.template_bank.start_prototypes(self.neck.prototypes.data)
        results: dict[str, Tensor] = {}
        if patch is not None:
            results.update(self._patch_losses(patch, views['patch']))
        if cls is not None:
            results.update(self._cls_losses(cls))
        if 'prototype_entropy' in self.losses:
            results['loss_prototype_entropy'] = self.losses['prototype_entropy'](
                self.neck.prototypes, self.template_bank.contents()
            )
        for name, weight in self.loss_weights.items():
            if name in self.losses:
                results[f'loss_{name}'] = weight * results[f'loss_{name}']
        return results

    def _score(self, views: dict[str, Views]) -> tuple[Optional[PatchScores], Optional[ClsScores]]:
        """All forward passes: globals of both branches together, then the locals."""
        patch_t, cls_t, foreground = self._score_teacher(views)
        patch_g, cls_g = self._score_student(views, 'student_global', fill_bank=True)
        patch_l, cls_l = self._score_student(views, 'student_local')
        patch = cls = None
        if patch_g is not None:
            patch = PatchScores(patch_g, patch_l, patch_t, foreground)
        if cls_g is not None:
            student = cls_g if cls_l is None else torch.cat([cls_g, cls_l], dim=1)
            cls = ClsScores(student, cls_t)
        return patch, cls

    @torch.no_grad()
    def _score_teacher(self, views: dict[str, Views]):
        crops = self._stack(views, 'teacher_global')
        backbone = self.teacher.backbone
        entering, grid = backbone.forward_entering(crops)
        patch, cls = self._heads(self.teacher, views, 'teacher_global', entering, grid)
        foreground = None
        if patch is not None:
            count = patch.shape[0] * patch.shape[1]
            attention = backbone.cls_attention(entering[:count]).unflatten(2, grid)
            foreground = foreground_mask(attention).unflatten(0, patch.shape[:2])
        return patch, cls, foreground

    def _score_student(self, views: dict[str, Views], key: str, fill_bank: bool = False):
        crops = self._stack(views, key)
        if crops is None:
            return None, None
        entering, grid = self.backbone.forward_entering(crops)
        if fill_bank and 'prototype_entropy' in self.losses:
            whole = entering[-views['cls'][key].shape[:2].numel() :, 1:]
            order = self.draws.order('template_bank', len(whole))
            self.template_bank.collect(whole, grid, order)
        return self._heads(self, views, key, entering, grid)

    @staticmethod
    def _stack(views: dict[str, Views], key: str) -> Optional[Tensor]:
        """Crops of the branches behind one another, (sum of I*V, 3, h, w)."""
        crops = [view[key].flatten(0, 1) for view in views.values() if view[key].shape[1]]
        return torch.cat(crops) if crops else None

    @staticmethod
    def _heads(net, views: dict[str, Views], key: str, entering: Tensor, grid: tuple[int, int]):
        """Last block, filter and heads, only for the tokens that a loss reads."""
        backbone, block, patch, cls = net.backbone, net.backbone.last_block, None, None
        if 'patch' in views:
            shape = views['patch'][key].shape[:2]
            leaving = backbone.run_block(block, entering[: shape.numel()])
            features = net.neck.filter_patches(leaving[:, 1:], grid, block)
            maps = net.head['patch'](features).transpose(1, 2).unflatten(2, grid)
            patch = maps.unflatten(0, shape)  # (I*V, N, K) -> (I, V, K, H, W)
        if 'cls' in views:
            shape = views['cls'][key].shape[:2]
            leaving = backbone.leaving_cls(entering[-shape.numel() :])
            features = net.neck.filter_cls(leaving, block)
            cls = net.head['cls'](features).unflatten(0, shape)  # (I, V, K)
        return patch, cls

    def _patch_losses(self, patch: PatchScores, views: Views) -> dict[str, Tensor]:
        results = {}
        scores = patch.teacher.flatten(3).transpose(2, 3)  # (I, G, N, K)
        if 'patch_cluster' in self.losses:
            assignment, ready = self.patch_queue.assign(scores.flatten(0, 2))
            maps = assignment.view_as(scores).transpose(2, 3).reshape(patch.teacher.shape)
            results['loss_patch_cluster'] = ready * self.losses['patch_cluster'](
                patch.student_global,
                patch.student_local,
                maps,
                patch.foreground,
                (views['common_global'], views['common_other']),
                self.patch_size,
            )
            if self.monitor_now:
                results.update(self._monitors('patch', assignment))
        if 'patch_ranking' in self.losses:
            pairs = self.pairs(patch.student_global, patch.teacher, patch.foreground, self.draws)
            results['loss_patch_ranking'] = torch.stack(
                [self.losses['patch_ranking'](*each) for each in pairs]
            ).mean()
        if 'patch_cluster' in self.losses:
            chosen = self.draws.foreground_patches(
                patch.foreground.flatten(), self.patch_queue.per_step
            )
            self.patch_queue.remember(scores.flatten(0, 2), *chosen)
        if self.monitor_now:
            results['monitor/foreground_share'] = patch.foreground.float().mean()
        return results

    def _cls_losses(self, cls: ClsScores) -> dict[str, Tensor]:
        results: dict[str, Tensor] = {}
        if 'cls_cluster' not in self.losses and 'cls_neighbor' not in self.losses:
            return results
        scores = cls.teacher.flatten(0, 1)
        assignment, ready = self.cls_queue.assign(scores)
        target = assignment.view_as(cls.teacher)
        if 'cls_cluster' in self.losses:
            results['loss_cls_cluster'] = ready * self.losses['cls_cluster'](cls.student, target)
        if 'cls_neighbor' in self.losses:
            results['loss_cls_neighbor'] = ready * self.losses['cls_neighbor'](
                cls.student[:, : target.shape[1]], target
            )
        self.cls_queue.remember(scores, self.draws.order('cls_queue', len(scores)))
        if self.monitor_now:
            results.update(self._monitors('cls', assignment))
        return results

    def _monitors(self, name: str, assignment: Tensor) -> dict[str, Tensor]:
        return {
            f'monitor/{name}_{key}': value for key, value in assignment_monitors(assignment).items()
        }

    def _check_teacher_moves(self) -> None:
        if not self.training:
            return
        self._idle_steps += 1
        if self._idle_steps == self.teacher_patience and not self.teacher.num_updates:
            raise RuntimeError(
                f'the teacher has not moved in {self.teacher_patience} steps: nobody calls '
                "teacher.update(). Add teacher=dict(type='cotap_mm.TeacherHook') to default_hooks."
            )
