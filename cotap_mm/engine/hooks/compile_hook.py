"""torch.compile for the parts of the networks where it pays."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import print_log

from cotap_mm.distributed.fsdp import require_unsharded
from cotap_mm.distributed.model_wrapper import unwrap
from cotap_mm.registry import HOOKS


@HOOKS.register_module()
class CompileHook(Hook):
    """Compile the transformer blocks and heads of student and teacher before training.

    Blocks one by one, not the whole step: they are alike, so the compiler works once for all
    of a shape, and hooks, queues and collectives stay plain Python. Names in the checkpoint
    do not change. The first steps are slow, one compilation for each crop size.

    ``--cfg-options default_hooks.compile.type=CompileHook`` switches it on.

    Args:
        **options: As in ``torch.compile``, such as ``mode='max-autotune-no-cudagraphs'`` or
            ``backend``. ``dynamic`` is False unless given.
    """

    priority = 'VERY_HIGH'

    def __init__(self, **options: Any) -> None:
        self.options = dict(dynamic=False, **options)

    def before_train(self, runner) -> None:
        """Compile, in place.

        Raises:
            ValueError: If the network is shared out among the ranks.
        """
        require_unsharded(runner.model, 'CompileHook')
        model = unwrap(runner.model)
        count = compile_parts(model, **self.options)
        print_log(
            f'torch.compile: {count} parts of student and teacher; the first steps will be slow',
            logger='current',
        )


def compile_parts(model, **options: Any) -> int:
    """Compile blocks and heads of a :class:`CoTAP` in place; returns how many."""
    parts = []
    for network in (model.network('student'), model.network('teacher')):
        blocks = network.backbone.layers
        parts += [*blocks, *network.head.values()]
        if network.backbone.with_cp == 'mlp':  # then they are called one by one
            parts += [part for block in blocks for part in (block.attn, block.ffn)]
    for part in parts:
        part.compile(**options)
    return len(parts)
