"""Values that parts of a config must refuse, and unusual ones that have a meaning."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

import cotap_mm.downstream  # noqa: F401  (registers its parts)
from cotap_mm import registry as registries
from cotap_mm.datasets import SearchOptions
from cotap_mm.evaluation import LabeledSet
from cotap_mm.evaluation.data.subset import Subset
from cotap_mm.models.losses.named_losses import NamedLosses
from cotap_mm.models.modules import AssignmentQueue, PatchPairSampler, TemplateBank

NAN, INF = math.nan, math.inf
NO_NUMBER = (NAN, INF, -INF, 'x', True, [1])
WHOLE = (-5, 0, 1.5, None, *NO_NUMBER)  # for an integer >= 1
MAY_BE_0 = (-5, 1.5, None, *NO_NUMBER)
OPTIONAL = (-5, 0, 1.5, *NO_NUMBER)
POSITIVE = (-0.1, 0, None, *NO_NUMBER)
FROM_0 = (-0.1, None, *NO_NUMBER)
SHARE = (-0.1, 1.1, None, *NO_NUMBER)
FLAG = ('x', 1, None)
NAME = ('x', '', 3, None, ['x'])
PAIR = ((), (0.5,), (0.1, 0.2, 0.3), (0.1, 'x'), (0.1, None), (NAN, 0.5), (0.1, NAN), 'ab', 3, None)
VIT = dict(
    arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32),
    img_size=32,
    patch_size=8,
)
OF_VIT = dict(
    patch_size=WHOLE,
    img_size=(-5, 0, 1.5, (32,), (32, 0), *NO_NUMBER),
    in_channels=WHOLE,
    fused_attention=FLAG,
    channels_last=FLAG,
    drop_rate=(-0.1, 1, *NO_NUMBER),
    drop_path_rate=(-0.1, 1, *NO_NUMBER),
    num_registers=(-1, 17, 1.5, 'x', True),
    frozen_stages=(-2, 3, 1.5, None, *NO_NUMBER),
    with_cp=('x', 3, None),
    pos_resize=('x', 3),
)
FOREGROUND = dict(mass=(0, *SHARE), sigma=POSITIVE)
TEMPERATURE = dict(temperature=POSITIVE)


def named(kind, name, **fixed):
    """Builder of a registered part."""
    return lambda **options: registries.build(
        getattr(registries, kind), dict(type=name, **{**fixed, **options})
    )


def model(name, **fixed):
    return named('MODELS', name, **fixed)


def hook(name, **fixed):
    return named('HOOKS', name, **fixed)


def optimizer_groups(name):
    optimizer = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.1))
    kind = registries.OPTIM_WRAPPER_CONSTRUCTORS.get(name)
    return lambda **options: kind(optimizer, options)


def optimizer_wrapper(**options):
    own = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
    return registries.OPTIM_WRAPPERS.get('MixedPrecisionOptimWrapper')(optimizer=own, **options)


def partly(kind, **fixed):
    return lambda **options: kind(**{**fixed, **options})


QUEUE = dict(size=16, num_clusters=4, temperature=0.1, per_step=2)
#: Part -> how it is built, and its arguments with values that must be refused.
NONSENSE = {
    'PatchPairSampler': (
        PatchPairSampler,
        dict(
            pool_sizes=((), (7, 0), (7, -5), (7, 1.5), (7, None), 7, 'x', None),
            topk=OPTIONAL,
            num_negatives=MAY_BE_0,
        ),
    ),
    'AssignmentQueue': (
        partly(AssignmentQueue, **QUEUE),
        dict(
            size=WHOLE,
            num_clusters=WHOLE,
            temperature=POSITIVE,
            per_step=WHOLE,
            num_iters=WHOLE,
            dtype=NAME,
        ),
    ),
    'TemplateBank': (
        partly(TemplateBank, size=16, channels=4),
        dict(size=WHOLE, channels=WHOLE, per_step=WHOLE),
    ),
    'NamedLosses': (
        lambda weight=1.0: NamedLosses(dict(gram=dict(type='GramLoss')), dict(gram=weight)),
        dict(weight=FROM_0),
    ),
    **{
        name: (model(name), FOREGROUND)
        for name in ('ClsAttention', 'ClippedAttention', 'KeyNormAttention', 'MedianAttention')
    },
    'PcaForeground': (model('PcaForeground'), dict(steps=WHOLE)),
    **{
        name: (model(name), TEMPERATURE)
        for name in (
            'ClusterAssignmentLoss',
            'ClsClusterLoss',
            'NeighborClusterLoss',
            'PrototypeEntropyLoss',
        )
    },
    'PatchClusterLoss': (
        model('PatchClusterLoss'),
        dict(TEMPERATURE, roi_size=WHOLE, foreground_threshold=SHARE),
    ),
    'PatchRankingLoss': (
        model('PatchRankingLoss'),
        dict(
            tau=POSITIVE,
            threshold=(1, None, *NO_NUMBER),
            negative_weight=FROM_0,
            method=NAME,
        ),
    ),
    'PrototypeHead': (
        model('PrototypeHead', in_channels=4, num_clusters=4, hidden_channels=4, out_channels=4),
        dict(in_channels=WHOLE, num_clusters=WHOLE, hidden_channels=WHOLE, out_channels=WHOLE),
    ),
    'NoFilter': (model('NoFilter', in_channels=4), dict(in_channels=WHOLE)),
    'ObjectAwareFilter': (
        model('ObjectAwareFilter', in_channels=4),
        dict(in_channels=WHOLE, num_prototypes=WHOLE, detach_prototypes=FLAG),
    ),
    'SimpleFeaturePyramid': (
        model('SimpleFeaturePyramid', in_channels=8, out_channels=8),
        dict(in_channels=WHOLE, out_channels=WHOLE, num_outs=(3, *WHOLE), scale_factors=((), (3,))),
    ),
    'DINOViT': (model('DINOViT', **VIT), OF_VIT),
    'CoTAPViT': (
        model('CoTAPViT', **VIT),
        dict(
            OF_VIT,
            use_filter=FLAG,
            num_prototypes=WHOLE,
            train_prototypes=FLAG,
            window_size=MAY_BE_0,
            global_blocks=((-1,), (2,), (0.5,), 'x', 3),
            out_indices=(2, (0, 2), 'x', None),
            out_type=NAME,
        ),
    ),
    'LoRAViT': (
        lambda **lora: model('LoRAViT', **VIT)(lora=dict(rank=2, **lora) if lora else dict(rank=2)),
        dict(alpha=(-1, 0, *NO_NUMBER), targets=((), ('x',))),
    ),
    'rank of LoRAViT': (
        lambda rank=2: model('LoRAViT', **VIT)(lora=dict(rank=rank)),
        dict(rank=(17, *WHOLE)),
    ),
    'arch of DINOViT': (
        lambda **sizes: model('DINOViT', **dict(VIT, arch=dict(VIT['arch'], **sizes)))(),
        dict(
            embed_dims=WHOLE,
            num_layers=WHOLE,
            num_heads=WHOLE,
            feedforward_channels=WHOLE,
            ffn=NAME,
        ),
    ),
    'CoTAPDataPreprocessor': (
        model('CoTAPDataPreprocessor'),
        dict(
            mean=((1, 2), (1, 2, NAN), (1, 2, 'x'), 'abc', 3, None),
            std=((1, 2), (1, 2, 0), (1, 2, -3), (1, 2, NAN), 3, None),
            color=('x', 3, dict(hues=1)),
        ),
    ),
    'color of CoTAPDataPreprocessor': (
        lambda **color: model('CoTAPDataPreprocessor')(color=color),
        dict(
            **dict.fromkeys(
                ('brightness', 'contrast', 'saturation'), (-0.1, (1, 0.5), (-1, 2), *FROM_0)
            ),
            hue=(-0.1, 0.6, (0.2, 0.1), (-0.6, 0.1), None, *NO_NUMBER),
            **dict.fromkeys(('jitter_prob', 'gray_prob', 'blur_prob'), SHARE),
            blur_sigma=(0.1, (0, 2), (2, 1), *PAIR),
        ),
    ),
    'MultiCrop': (
        named('TRANSFORMS', 'MultiCrop'),
        dict(
            **dict.fromkeys(('global_size', 'local_size', 'num_global', 'max_draws'), WHOLE),
            num_local=MAY_BE_0,
            global_scale=((0, 1), (0.5, 0.1), (0.5, 1.5), *PAIR),
            local_scale=((0, 1), (0.5, 0.1), (0.5, 1.5), *PAIR),
            min_overlap=((-0.1, 0), (0, 1), *PAIR),
        ),
    ),
    'LoadImage': (named('TRANSFORMS', 'LoadImage'), dict(to_float32=FLAG, ignore_empty=FLAG)),
    'RandomResizedCropSeg': (
        named('TRANSFORMS', 'RandomResizedCropSeg', scale=32),
        dict(
            scale=((32, 0), (32,), *WHOLE),
            area=((0, 1), (0.5, 0.1), (0.5, 1.5), *PAIR),
            ratio=((0, 1), (2, 1), *PAIR),
        ),
    ),
    'VisitSampler': (
        partly(registries.DATA_SAMPLERS.get('VisitSampler'), dataset=[1, 2]),
        dict(seed=(-5, 1.5, *NO_NUMBER), order=NAME),
    ),
    'NeighborPairs': (
        None,
        dict(
            num_neighbors=WHOLE,
            max_bad_fraction=SHARE,
            reduce_jpeg=FLAG,
            patience=(-1, None, NAN, -INF, 'x', True),
        ),
    ),
    'ToyScenes': (
        named('DATASETS', 'ToyScenes', num_images=2, image_size=32),
        dict(
            num_images=WHOLE,
            image_size=(31, *WHOLE),
            seed=(2**32, *MAY_BE_0),
            split=NAME,
            scene=NAME,
        ),
    ),
    'ShardedImages': (None, dict(cache_gb=(-1, 0, *NO_NUMBER))),
    'ImageMaskFolder': (
        None,
        dict(image_size=((32, 0), (32,), *OPTIONAL), limit=OPTIONAL),
    ),
    'ClassFolder': (None, dict(crop=WHOLE)),
    'EvaluationHook': (None, dict(num_classes=WHOLE, interval=WHOLE)),
    'LabeledSet': (
        partly(LabeledSet, dataset=[1], num_classes=2),
        dict(num_classes=WHOLE, image_size=((32, 0), *OPTIONAL), batch_size=WHOLE),
    ),
    'Subset': (partly(Subset, dataset=[1], limit=1), dict(limit=WHOLE)),
    'SearchOptions': (SearchOptions, dict(search=NAME, nprobe=WHOLE, feature_dtype=NAME)),
    'TeacherHook': (hook('TeacherHook'), dict(start=SHARE, end=SHARE)),
    'MonitorHook': (
        hook('MonitorHook'),
        dict(
            interval=WHOLE,
            num_images=WHOLE,
            limits=(dict(x=(0, 1)), *(dict(feature_std=pair) for pair in ((2, 1), *PAIR))),
        ),
    ),
    'BeforeAfterHook': (hook('BeforeAfterHook'), dict(num_images=WHOLE, window=WHOLE)),
    'NonFiniteHook': (hook('NonFiniteHook'), dict(patience=WHOLE)),
    **{
        name: (
            hook(name),
            dict(
                signals=(('SIGTREM',), ('SIGKILL',), ('SIG_DFL',), 'SIGTERM', (3,)),
                agree_seconds=(-1, *NO_NUMBER),
            ),
        )
        for name in ('PreemptionHook', 'LoopPreemptionHook')
    },
    'CompileHook': (hook('CompileHook'), dict(scope=NAME)),
    'LossWeightHook': (
        lambda gram=(1, 0): hook('LossWeightHook')(weights=dict(gram=gram)),
        dict(gram=((-1, 0), *PAIR)),
    ),
    'AtomicCheckpointHook': (
        hook('AtomicCheckpointHook'),
        dict(
            interval=WHOLE,
            max_keep_ckpts=WHOLE,
            retry_interval=WHOLE,
            interval_minutes=(-1, 0, *NO_NUMBER),
            final_wait=(-1, None, NAN, -INF, 'x', True),
        ),
    ),
    'CoTAPOptimWrapperConstructor': (
        optimizer_groups('CoTAPOptimWrapperConstructor'),
        dict(head_lr_mult=FROM_0, layer_decay_rate=(0, *SHARE), freeze_backbone_iters=MAY_BE_0),
    ),
    'LayerDecayOptimWrapperConstructor': (
        optimizer_groups('LayerDecayOptimWrapperConstructor'),
        dict(
            layer_decay_rate=(0, *SHARE),
            **dict.fromkeys(
                ('norm_decay_mult', 'bias_decay_mult', 'flat_decay_mult'), (-1, *NO_NUMBER)
            ),
        ),
    ),
    'MixedPrecisionOptimWrapper': (
        optimizer_wrapper,
        dict(dtype=NAME, accumulative_counts=WHOLE),
    ),
    'BottleneckFCNHead': (
        model(
            'BottleneckFCNHead',
            in_channels=8,
            num_classes=3,
            loss_decode=dict(type='mmseg.CrossEntropyLoss'),
        ),
        dict(in_channels=WHOLE, hidden_channels=((), (8, 0), (8, -1), (8, 1.5), 8, None)),
    ),
}
#: Unusual values that have a meaning.
ACCEPTED = [
    ('PatchPairSampler', dict(topk=None, num_negatives=0)),
    ('AssignmentQueue', dict(size=1, temperature=1)),
    ('PatchClusterLoss', dict(foreground_threshold=0)),
    ('PatchRankingLoss', dict(threshold=-2, negative_weight=0)),
    ('CoTAPViT', dict(use_filter=False, num_prototypes=0, window_size=2, global_blocks=[])),
    ('DINOViT', dict(img_size=(32, 64), frozen_stages=2)),
    ('CoTAPDataPreprocessor', dict(color=None, mean=[0, 0, 0], std=(1, 1, 1))),
    ('color of CoTAPDataPreprocessor', dict(hue=(-0.5, 0.5), brightness=1.5, blur_prob=0)),
    ('MultiCrop', dict(num_local=0, min_overlap=(0, 0), global_scale=(1, 1))),
    ('VisitSampler', dict(seed=0)),
    ('ToyScenes', dict(num_images=np.int64(1), seed=2**32 - 1)),
    ('LabeledSet', dict(image_size=(8, np.int64(8)))),
    ('TeacherHook', dict(start=0, end=1)),
    ('MonitorHook', dict(limits=dict(feature_std=(0, 2)))),
    ('PreemptionHook', dict(signals=(), agree_seconds=0)),
    ('AtomicCheckpointHook', dict(interval=-1, interval_minutes=None, final_wait=INF)),
    ('CoTAPOptimWrapperConstructor', dict(head_lr_mult=np.float64(0))),
    ('LayerDecayOptimWrapperConstructor', dict(norm_decay_mult=0)),
    ('NamedLosses', dict(weight=0)),
]
#: Numbers and flags without a rule: argument -> reason.
WITHOUT_RULE = {
    ('EvaluationHook', 'measure'): 'checked by its encoders',
    ('DINOViT', 'with_cp'): 'checked by its constructor',
    ('DINOViT', 'num_registers'): 'checked with those of the architecture',
    ('SimpleFeaturePyramid', 'scale_factors'): 'checked by its constructor',
    ('PreemptionHook', 'signals'): 'checked by its constructor',
    ('CoTAPFSDPStrategy', 'version'): 'checked by strategy_version',
}
