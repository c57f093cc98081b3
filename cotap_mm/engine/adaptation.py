"""Which parts of a network a pre-training changes: the last blocks, or low-rank updates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

from cotap_mm.weights.zoo import architecture

#: Key of a config: number of blocks that are trained.
TRAINABLE = 'trainable_blocks'
#: Key of a config: rank of the updates of all other blocks.
LORA = 'lora_rank'


def limit_training(config: Config) -> None:
    """Freeze all blocks but the last ``trainable_blocks``, with the embeddings.

    With ``lora_rank`` the other blocks, by default all, are adapted by updates of that rank.

    Args:
        config (Config): After its network has been shaped; changed in place.

    Raises:
        ValueError: If the network has fewer blocks, no block is left for LoRA, or the backbone
            is none of ours.
    """
    count, rank = config.get(TRAINABLE), config.get(LORA)
    if count is None and rank is None:
        return
    backbone = config.model.backbone
    blocks = architecture(backbone.get('arch', 'deit-small'))['num_layers']
    if count is not None:
        if not 0 <= count <= blocks:
            raise ValueError(f'--trainable-blocks must be in 0..{blocks}, got {count}')
        backbone.frozen_stages = blocks - count or -1
        trained = f'the last {count} of {blocks} blocks, '
    else:
        trained = ''
    if rank is None:
        rest = 'the rest is frozen'
    else:
        _adapt(backbone, rank, all_trained=count == blocks)
        rest = f'the rest is frozen and adapted by LoRA of rank {rank}'
    print_log(f'training {trained}filter and heads; {rest}', logger='current')


def restore_adaptation(config: Config, stored: Mapping[str, Any]) -> None:
    """Adapt the network of a resumed run as before.

    Args:
        config (Config): Changed in place.
        stored (Mapping): Config of the run; empty if it is unknown.

    Raises:
        ValueError: If the command line asks for something else, or for an anchor to initial
            weights that the run has not stored.
    """
    for key, option in ((TRAINABLE, '--trainable-blocks'), (LORA, '--lora')):
        before, wanted = stored.get(key), config.get(key)
        if stored and wanted not in (None, before):
            raise ValueError(
                f'a resumed run must train what it has trained before, {option} '
                f'{"unset" if before is None else before}, got {wanted}; drop the option, or start '
                'a new run from the checkpoint with --init'
            )
        if isinstance(before, int):
            config[key] = before
    has_anchor, had_anchor = (_has_anchor(each) for each in (config, stored))
    if stored and has_anchor and not had_anchor:
        raise ValueError(
            'model.losses.gram needs the initial weights, which the resumed run has not stored; '
            'drop it, or start a new run from the checkpoint with --init'
        )


def _has_anchor(config: Mapping[str, Any]) -> bool:
    losses = (config.get('model') or {}).get('losses') or {}
    return bool(losses.get('gram'))


def _adapt(backbone: Any, rank: int, all_trained: bool) -> None:
    """Turn the config of a backbone into one with LoRA, in place."""
    if all_trained:
        raise ValueError(
            f'--lora {rank} adapts blocks that are frozen, but --trainable-blocks trains all of '
            'them; lower it or drop one of the two'
        )
    scope, _, name = backbone.type.rpartition('.')
    if name not in ('DINOViT', 'LoRAViT'):
        raise ValueError(f'--lora {rank} needs the backbone DINOViT, got {backbone.type}')
    backbone.type = f'{scope}.LoRAViT' if scope else 'LoRAViT'
    backbone.lora = dict(backbone.get('lora') or {}, rank=rank)
