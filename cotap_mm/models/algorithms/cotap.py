"""CoTAP: views -> scores of student and teacher -> named losses."""

from __future__ import annotations

from typing import Any, Optional

import torch
from mmpretrain.models import BaseSelfSupervisor
from torch import Tensor, nn

from cotap_mm.models.losses.finite_check import skip_finite_checks
from cotap_mm.models.losses.named_losses import NamedLosses
from cotap_mm.models.modules import (
    AnchorNetwork,
    AssignmentQueue,
    CropBatch,
    EMATeacher,
    PatchPairSampler,
    RandomDraws,
    TemplateBank,
    assignment_monitors,
    border_excess,
)
from cotap_mm.models.step_batch import GlobalShapes, Views, ViewsBatch
from cotap_mm.ops import patch_tokens
from cotap_mm.registry import MODELS, build
from cotap_mm.weights import init_then_load

from .inference import FeatureExtractionMixin
from .scores import BranchScores, ClsScores, PatchScores, run_network


@MODELS.register_module()
class CoTAP(FeatureExtractionMixin, BaseSelfSupervisor):
    """Self-supervised post-pretraining with explicit semantic concentration.

    A student learns from its exponential moving average, the teacher, on two branches: scenes for
    patches, object-centered images for CLS. Losses that are not in ``losses`` are skipped, and a
    branch that no loss reads is not computed.

    Source: CoTAP, https://arxiv.org/abs/2509.09429.

    Args:
        backbone (dict | nn.Module): A :class:`DINOViT`.
        neck (dict | nn.Module): An :class:`ObjectAwareFilter` or :class:`NoFilter`;
            ``in_channels`` defaults to the width of the backbone.
        head (dict): ``patch`` and ``cls``, each a :class:`PrototypeHead`; ``in_channels`` defaults
            to the width of the neck.
        losses (dict): Any of ``patch_cluster``, ``cls_cluster``, ``patch_ranking``,
            ``cls_neighbor``, ``prototype_entropy``, and ``gram``, which is not part of the paper
            and anchors the patches to the initial network; each a loss module or its config.
        memory (dict): Options of ``patch_queue`` and ``cls_queue`` (:class:`AssignmentQueue`) and
            ``template_bank`` (:class:`TemplateBank`).
        pairs (dict, optional): Options of :class:`PatchPairSampler`.
        foreground (dict, optional): :class:`ClsAttention`, :class:`ClippedAttention`,
            :class:`KeyNormAttention`, :class:`MedianAttention` or :class:`PcaForeground`: which
            patches are foreground.
            Defaults to None, :class:`ClsAttention`, as in the paper.
        loss_weights (dict[str, float], optional): Factors of ``losses``. Defaults to None, 1 for
            each, as in the paper.
        **base: ``data_preprocessor`` (dict | nn.Module, defaults to
            :class:`CoTAPDataPreprocessor`) and ``init_cfg``, e.g.
            ``dict(type='PretrainedViT', checkpoint=...)`` to start from DINO or iBOT weights.

    Raises:
        ValueError: If ``losses`` has an unknown name or is empty, or the template bank is smaller
            than the number of prototypes.
        RuntimeError: In training, if the teacher is never updated.
    """

    #: Training steps after which a teacher that was never updated is an error.
    teacher_patience = 100
    #: Whether the last ``init_weights`` loaded no weights.
    is_random = False

    def __init__(
        self,
        backbone,
        neck,
        head: dict,
        losses: dict,
        memory: dict,
        pairs: Optional[dict] = None,
        foreground: Optional[dict] = None,
        loss_weights: Optional[dict[str, float]] = None,
        **base: Any,
    ) -> None:
        losses = NamedLosses(losses, loss_weights)
        backbone = _build(backbone)
        neck = _build(neck, in_channels=backbone.embed_dims)
        if 'prototype_entropy' in losses and not neck.num_prototypes:
            raise ValueError(
                f'{type(neck).__name__} has no prototypes for losses.prototype_entropy; '
                'set it to None'
            )
        patch = _build(head['patch'], in_channels=neck.out_channels)
        cls = _build(head['cls'], in_channels=neck.out_channels)
        preprocessor = base.pop('data_preprocessor', None) or dict(type='CoTAPDataPreprocessor')
        super().__init__(
            backbone=backbone,
            neck=neck,
            head=nn.ModuleDict(dict(patch=patch, cls=cls)),
            data_preprocessor=_build(preprocessor),
            **base,
        )
        self.losses = losses
        self.pairs = PatchPairSampler(**(pairs or {}))
        self.masking = _build(foreground or {}, type='ClsAttention')
        self.teacher = EMATeacher(self.student)
        self.anchor = AnchorNetwork(backbone) if 'gram' in losses else None
        self.patch_queue = AssignmentQueue(num_clusters=patch.num_clusters, **memory['patch_queue'])
        self.cls_queue = AssignmentQueue(num_clusters=cls.num_clusters, **memory['cls_queue'])
        self.template_bank = TemplateBank(channels=backbone.embed_dims, **memory['template_bank'])
        if self.template_bank.size < neck.num_prototypes:
            raise ValueError(
                'memory.template_bank.size must be at least neck.num_prototypes='
                f'{neck.num_prototypes}, which start from it, got {self.template_bank.size}'
            )
        self._freeze_untrained_parts()
        self.draws = RandomDraws()
        self.data_preprocessor.draw_ahead = self.draw_ahead
        self.run_network = run_network  # CompileHook replaces it
        self.monitor_now = False  # set by the monitor hook for the steps that it logs

    def _freeze_untrained_parts(self) -> None:
        """Freeze parameters that no loss trains, since DDP would wait for their gradients."""
        for branch in ('patch', 'cls'):
            if not self.losses.trains_head(branch):
                self.head[branch].requires_grad_(False)
                getattr(self.neck, f'norm_{branch}').requires_grad_(False)
        if 'prototype_entropy' not in self.losses and self.neck.num_prototypes:
            self.neck.prototypes.requires_grad_(False)

    @property
    def student(self) -> dict[str, nn.Module]:
        """The parts that the optimizer trains and the teacher copies."""
        return dict(backbone=self.backbone, neck=self.neck, head=self.head)

    def init_weights(self) -> None:
        """Initialize the student, copy it to the teacher, and load ``PretrainedViT`` weights."""
        is_loaded = init_then_load(self, self._init_both_networks)
        self.is_random = not (is_loaded or self.init_cfg or self.backbone.init_cfg)

    def _init_both_networks(self) -> None:
        super().init_weights()
        self.teacher.copy_from(self.student)
        if self.anchor is not None:
            self.anchor.copy_from(self.backbone)

    def draw_ahead(self, shapes: GlobalShapes) -> dict[str, Tensor]:
        """Draw the numbers of the next step, which the preprocessor copies with its own.

        Args:
            shapes (GlobalShapes): Of its global crops.

        Returns:
            dict[str, Tensor]: For ``inputs['draws']``; none before the prototypes have started,
            since their k-means draws in the middle of a step.
        """
        if 'prototype_entropy' in self.losses and not self.template_bank.has_started:
            return {}
        crops = {branch: images * count for branch, (images, count, _) in shapes.items()}
        requests: list[tuple[Any, ...]] = []  # in the order of the methods below
        if 'prototype_entropy' in self.losses:
            requests.append(('order', 'template_bank', crops['cls']))
        if 'patch_ranking' in self.losses:
            negatives = ('negatives', shapes['patch'][0] // 2, self.pairs.num_negatives)
            requests += [negatives] * len(self.pairs.pool_sizes)
        if 'patch_cluster' in self.losses:
            patches = (shapes['patch'][2] // self.patch_size) ** 2
            requests.append(('keys', crops['patch'] * patches))
        if self.losses.trains_head('cls'):
            requests.append(('order', 'cls_queue', crops['cls']))
        return self.draws.ahead(requests)

    @skip_finite_checks()
    def loss(self, inputs: ViewsBatch, data_samples: Optional[list] = None) -> dict[str, Tensor]:
        """Compute the named losses of one step, then update the queues.

        Args:
            inputs (ViewsBatch): Views of both branches from :class:`CoTAPDataPreprocessor`.
            data_samples (list, optional): Unused.

        Returns:
            dict[str, Tensor]: Scalars ``loss_*``, and ``monitor/*`` in steps that are monitored.
        """
        if self.training:
            self.teacher.check_updates(self.teacher_patience)
        self.draws.hold(inputs.get('draws'))
        views = {branch: inputs[branch] for branch in self.losses.branches}  # type: ignore
        patch, cls = self._score(views)
        if 'prototype_entropy' in self.losses:
            self.template_bank.start_prototypes(self.neck.prototypes.data)
        results: dict[str, Tensor] = {}
        if patch is not None:
            results.update(self._patch_losses(patch, views['patch']))
        if cls is not None and self.losses.trains_head('cls'):
            results.update(self._cls_losses(cls))
        if 'prototype_entropy' in self.losses:
            results['loss_prototype_entropy'] = self.losses['prototype_entropy'](
                self.neck.prototypes, self.template_bank.contents(), self.template_bank.norms()
            )
        self.losses.scale(results)
        return results

    def _score(self, views: ViewsBatch) -> tuple[Optional[PatchScores], Optional[ClsScores]]:
        """Run all forward passes; each takes the crops of both branches together."""
        teacher, foreground = self._score_teacher(views)
        student = self._score_student(views, 'student_global')
        local = self._score_student(views, 'student_local')
        patch = cls = None
        if 'patch' in student:
            patch = PatchScores(
                student['patch'],
                local.get('patch'),
                teacher['patch'],
                foreground,
                student.get('tokens'),
            )
        if 'cls' in student:
            crops = [scores['cls'] for scores in (student, local) if 'cls' in scores]
            cls = ClsScores(crops[0] if len(crops) == 1 else torch.cat(crops, 1), teacher['cls'])
        return patch, cls

    @torch.no_grad()
    def _score_teacher(self, views: ViewsBatch) -> tuple[BranchScores, Optional[Tensor]]:
        batch = CropBatch(views, 'teacher_global')
        (entering, grid, scores), foreground = self.run_network(self.teacher, batch), None
        if 'patch' in scores:
            rows = batch.rows_of('patch', entering)
            foreground = self.masking(self.teacher.backbone, rows, grid)
            foreground = batch.unflatten('patch', foreground)
        return scores, foreground

    def _score_student(self, views: ViewsBatch, key: str) -> BranchScores:
        is_global = key == 'student_global'
        batch = CropBatch(views, key)
        if not batch:
            return {}
        with_tokens = is_global and 'gram' in self.losses
        entering, grid, scores = self.run_network(self, batch, with_tokens)
        if is_global and 'prototype_entropy' in self.losses:
            patches = patch_tokens(batch.rows_of('cls', entering), grid)
            order = self.draws.order('template_bank', len(patches))
            self.template_bank.collect(patches, grid, order)
        return scores

    def _patch_losses(self, patch: PatchScores, views: Views) -> dict[str, Tensor]:
        results, foreground = {}, patch.foreground
        scores = patch.teacher.flatten(3).transpose(2, 3)  # (I, G, N, K)
        if 'patch_cluster' in self.losses:
            assignment, ready = self.patch_queue.assign(scores.flatten(0, 2))
            maps = assignment.view_as(scores).transpose(2, 3).reshape(patch.teacher.shape)
            boxes = (views['common_global'], views['common_other'])
            results['loss_patch_cluster'] = ready * self.losses['patch_cluster'](
                patch.student_global, patch.student_local, maps, foreground, boxes, self.patch_size
            )
            if self.monitor_now:
                results.update(assignment_monitors(assignment, 'monitor/patch_'))
        if 'patch_ranking' in self.losses:
            pairs = self.pairs(patch.student_global, patch.teacher, foreground, self.draws)
            of_pool_sizes = [self.losses['patch_ranking'](*ranked) for ranked in pairs]
            results['loss_patch_ranking'] = torch.stack(of_pool_sizes).mean()
        if 'gram' in self.losses:
            anchor = self.anchor(views['student_global'].flatten(0, 1))
            results['loss_gram'] = self.losses['gram'](patch.tokens, anchor)
        if 'patch_cluster' in self.losses:
            chosen = self.draws.foreground_patches(foreground.flatten(), self.patch_queue.per_step)
            self.patch_queue.remember(scores.flatten(0, 2), *chosen)
        if self.monitor_now:
            results['monitor/foreground_share'] = foreground.float().mean()
            results['monitor/foreground_border_excess'] = border_excess(foreground)
        return results

    def _cls_losses(self, cls: ClsScores) -> dict[str, Tensor]:
        results = {}
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
            results.update(assignment_monitors(assignment, 'monitor/cls_'))
        return results


def _build(cfg, **defaults) -> nn.Module:
    """Build a module from its config; ``defaults`` are widths that follow from its neighbor."""
    return cfg if isinstance(cfg, nn.Module) else build(MODELS, cfg, **defaults)
