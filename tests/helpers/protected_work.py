"""Trainings of two ranks that protect the backbone in all ways; importable by the processes."""

from __future__ import annotations

from tests.helpers.sharding_work import STRATEGY, held, train

OPTIONS = {
    'model.backbone.type': 'LoRAViT',
    'model.backbone.lora': dict(rank=2),
    'model.losses.gram': dict(type='GramLoss'),
    'optim_wrapper.paramwise_cfg.freeze_backbone_iters': 3,
    'optim_wrapper.paramwise_cfg.layer_decay_rate': 0.8,
}


def all_runs(rank):
    """Replicated and sharded; each killed while the backbone is frozen, and resumed."""
    weights = {}
    for name, options in (('whole', {}), ('shared', dict(strategy=STRATEGY))):
        options = dict(OPTIONS, **options)
        runner = train(name, 6, **options)
        trained = {key for key, p in runner.model.named_parameters() if p.requires_grad}
        weights[name] = sum(count for key, count in held(runner).items() if key in trained)
        assert train(f'{name}_killed', 6, kill_at=3, **options) is None
        train(f'{name}_killed', 6, resume=True, **options)
    last = train('last', 2, strategy=STRATEGY, **{'model.backbone.frozen_stages': 1})
    weights['last'] = sum(p.requires_grad for p in last.model.parameters())
    return weights
