"""torch.compile for the parts of the networks that benefit from it."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log

from cotap_mm.distributed.fsdp import require_unsharded
from cotap_mm.distributed.model_wrapper import unwrap
from cotap_mm.registry import HOOKS


@HOOKS.register_module()
class CompileHook(Hook):
    """Compile the transformer blocks and heads of student and teacher before training.

    Each block is compiled on its own, not the whole step: blocks have the same code, so one
    compilation per input shape serves all of them, and hooks, queues and collectives stay plain
    Python. Names in the checkpoint do not change. The first step of each crop size is slow.

    ``--cfg-options default_hooks.compile.type=CompileHook`` enables it.

    Args:
        **options: Arguments of ``torch.compile``, such as ``backend`` or
            ``mode='max-autotune-no-cudagraphs'``. ``dynamic`` defaults to False.
    """

    priority = 'VERY_HIGH'

    def __init__(self, **options: Any) -> None:
        self.options = dict(dynamic=False, **options)

    def before_train(self, runner) -> None:
        """Compile in place.

        Raises:
            ValueError: If the network is sharded across ranks.
        """
        require_unsharded(runner.model, 'CompileHook')
        model = unwrap(runner.model)
        count = compile_parts(model, **self.options)
        print_log(
            f'torch.compile: {count} parts of student and teacher; the first steps will be slow',
            logger='current',
        )


#: Compilations of a piece of code before PyTorch runs it without. With ``with_cp='mlp'``, an MLP is
#: called with more than its default of 8 shapes: global and local crops, with and without gradient,
#: by blocks and filter, for patches and CLS.
_MOST_SHAPES = 32


def compile_parts(model, **options: Any) -> int:
    """Compile blocks and heads of a :class:`CoTAP` in place; return the number of parts."""
    parts = []
    for network in (model.network('student'), model.network('teacher')):
        blocks = network.backbone.layers
        parts += [*blocks, *network.head.values()]
        if network.backbone.with_cp == 'mlp':  # attention and MLP are called separately
            parts += [part for block in blocks for part in (block.attn, block.ffn)]
    limits = torch._dynamo.config
    name = 'recompile_limit' if hasattr(limits, 'recompile_limit') else 'cache_size_limit'
    setattr(limits, name, max(getattr(limits, name), _MOST_SHAPES))
    for part in parts:
        part.compile(**options)
    return len(parts)
