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
    """Compile parts of student and teacher before training.

    By default each block and each head is compiled on its own: blocks have the same code, so one
    compilation per input shape serves all of them. ``scope='networks'`` makes one graph of the
    whole forward pass of a network, from crops to scores; it takes longer to compile, and allows
    ``mode='reduce-overhead'``, which replays the kernels of a pass as a CUDA graph. In both cases
    hooks, queues, losses and collectives stay plain Python, and names in the checkpoint do not
    change. The first step of each crop size is slow.

    ``--cfg-options default_hooks.compile.type=CompileHook`` enables it, and
    ``default_hooks.compile.scope=networks`` sets the scope.

    Args:
        scope (str): ``'blocks'`` or ``'networks'``. Defaults to ``'blocks'``.
        **options: Arguments of ``torch.compile``, such as ``backend`` or
            ``mode='max-autotune-no-cudagraphs'``. ``dynamic`` defaults to False.

    Raises:
        ValueError: If ``scope`` is unknown, or ``torch.compile`` refuses an option.
    """

    priority = 'VERY_HIGH'

    def __init__(self, scope: str = 'blocks', **options: Any) -> None:
        if not isinstance(scope, str) or scope not in SCOPES:
            raise ValueError(f'scope must be one of {sorted(SCOPES)}, got {scope!r}')
        self.scope = scope
        self.options = {'dynamic': False, **options}
        try:
            torch.compile(torch.nn.Identity(), **self.options)  # compiles nothing yet
        except (RuntimeError, TypeError) as error:
            raise ValueError(
                f'CompileHook: torch.compile refuses {self.options}: {error}'
            ) from error

    def before_train(self, runner) -> None:
        """Compile in place.

        Raises:
            ValueError: If the network is sharded across ranks.
        """
        require_unsharded(runner.model, 'CompileHook')
        model = unwrap(runner.model)
        count = SCOPES[self.scope](model, **self.options)
        print_log(
            f'torch.compile: {count} parts of student and teacher; the first steps will be slow',
            logger='current',
        )

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Let CUDA graphs reuse the memory of the last step."""
        if self.scope == 'networks' and torch.cuda.is_available():
            torch.compiler.cudagraph_mark_step_begin()


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


def compile_networks(model, **options: Any) -> int:
    """Compile the forward passes of a :class:`CoTAP`; return their number.

    There are three: the teacher's, and the student's on global and on local crops.
    """
    model.run_network = torch.compile(model.run_network, **options)
    return 3


#: Option ``scope`` of :class:`CompileHook` -> what compiles.
SCOPES = dict(blocks=compile_parts, networks=compile_networks)
