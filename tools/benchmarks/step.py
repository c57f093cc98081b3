"""One training step against a plain restatement of the released one: time, memory, operations."""

from __future__ import annotations

import argparse
import copy
import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Callable

import torch
from mmengine.optim import build_optim_wrapper
from torch.profiler import ProfilerActivity
from torch.utils.flop_counter import FlopCounterMode

from cotap_mm.command_line.config_file import load_config
from cotap_mm.engine import compile_networks, compile_parts
from cotap_mm.registry import MODELS, build

from . import measuring
from .kernels import count_kernels
from .released_step import ReleasedStep

DECAY = 0.9997
COMPILED: dict[str, dict[str, Any]] = dict(networks={}, graphs=dict(mode='reduce-overhead'))
Step = Callable[[], dict[str, torch.Tensor]]


def random_batch(config, batch_size: int) -> dict:
    """What the loader would give: uint8 crops and boxes."""
    crops = config.train_dataloader.dataset.crops
    sizes = (2, crops.global_size), (crops.num_local, crops.local_size)

    def branch() -> dict:
        globals_, locals_ = (
            torch.randint(0, 256, (batch_size, 2, count, size, size, 3), dtype=torch.uint8)
            for count, size in sizes
        )
        low = torch.rand(batch_size, 2, 2 + crops.num_local, 2) * 100
        return dict(
            global_crops=globals_, local_crops=locals_, boxes=torch.cat([low, low + 300], dim=-1)
        )

    return dict(patch=branch(), cls=branch())


def fill_queues(model) -> None:
    for queue in (model.patch_queue, model.cls_queue):
        for start in range(0, queue.size, 4096):
            scores = torch.rand(min(4096, queue.size - start), queue.features.shape[1]) * 2 - 1
            queue.push(queue.to_rows(scores.to(queue.features.device)))
    bank = model.template_bank
    bank.push(torch.randn_like(bank.features))


def prepare(args: argparse.Namespace, kind: str) -> tuple[Step, torch.dtype]:
    """Build one kind of step on augmented, normalized crops, and return it with its dtype.

    Two kinds made from the same arguments start from equal weights, queues and crops.
    """
    torch.manual_seed(0)
    config = load_config(args.config)
    config.model.init_cfg = None
    if kind == 'ours':
        config.merge_from_dict(args.cfg_options)
    model = build(MODELS, config.model)
    logging.disable(logging.INFO)  # MMEngine prints three lines per parameter
    try:
        model.init_weights()
    finally:
        logging.disable(logging.NOTSET)
    model = model.to(args.device).train()
    fill_queues(model)
    model.template_bank.start_prototypes(model.neck.prototypes.data)
    batch = random_batch(config, args.batch_size)
    views = model.data_preprocessor(batch, training=True)['inputs']

    wrapper = copy.deepcopy(config.optim_wrapper)
    wrapper.dtype = args.dtype
    wrapper.pop('accumulative_counts', None)
    if kind == 'released':
        wrapper.dtype = 'float16' if args.device.startswith('cuda') else 'float32'
        wrapper.optimizer.update(foreach=False, fused=False)
        # The whole queues live in it; ours are not needed.
        step = ReleasedStep(model)
        for queue in (model.patch_queue, model.cls_queue):
            queue.features = torch.zeros(0, device=args.device)
        compute, move = step.loss, lambda: step.move_teacher(DECAY)
    else:
        if args.compile == 'blocks':
            compile_parts(model)
        elif args.compile:
            compile_networks(model, dynamic=False, **COMPILED[args.compile])
        compute = model.loss
        move = lambda: model.teacher.update(model.student, DECAY)  # noqa: E731
    optim_wrapper = build_optim_wrapper(model, wrapper)

    def work() -> dict[str, torch.Tensor]:
        if args.compile == 'graphs' and kind == 'ours':
            # As CompileHook does: what the teacher computed stays valid until the next step.
            torch.compiler.cudagraph_mark_step_begin()
        with optim_wrapper.optim_context(model):
            losses = compute(views)
            total = sum(value for name, value in losses.items() if name.startswith('loss'))
        optim_wrapper.update_params(total)
        move()
        return losses

    return work, getattr(optim_wrapper, 'cast_dtype', None) or torch.float32


def peak(args: argparse.Namespace, kind: str) -> Callable[[], Any]:
    """Two steps, for :func:`measuring.peak_memory`; the second has the optimiser's state."""
    work = prepare(args, kind)[0]

    def twice() -> None:
        work()
        work()

    return twice


def plain_attention() -> AbstractContextManager:
    """Context in which attention is computed with matrix products, which are counted."""
    try:
        from torch.nn.attention import SDPBackend, sdpa_kernel
    except ImportError:  # torch < 2.3
        return torch.backends.cuda.sdp_kernel(
            enable_flash=False, enable_math=True, enable_mem_efficient=False
        )
    return sdpa_kernel(SDPBackend.MATH)


def count_flops(work: Step, device: str) -> int:
    """Operations of one step in matrix products and convolutions, a multiply-add being two."""
    # The counter does not know fused attention everywhere; the plain one does the same products.
    with plain_attention(), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def profile(works: dict[str, Step], count: int, device: str) -> list[dict[str, Any]]:
    """Rows: the operators that take the most time of one step of each kind."""
    on_gpu = device.startswith('cuda')
    activities = [ProfilerActivity.CUDA] if on_gpu else [ProfilerActivity.CPU]
    rows = []
    for kind, work in works.items():
        with torch.profiler.profile(activities=activities) as profiler:
            work()
            measuring.synchronize(device)

        def spent(event: Any) -> float:
            return event.self_device_time_total if on_gpu else event.self_cpu_time_total

        events = sorted(profiler.key_averages(), key=spent, reverse=True)
        total = sum(map(spent, events))
        rows += [
            {
                'step': kind,
                'operator': event.key[:60],
                'calls': event.count,
                'seconds': round(spent(event) / 1e6, 4),
                'share': f'{spent(event) / total:.0%}',
            }
            for event in events[:count]
        ]
    return rows


def matmul_rate(dtype: torch.dtype, device: str) -> float:
    """Operations a second of one large matrix product, the bound that shares refer to."""
    size = 8192 if device.startswith('cuda') else 2048
    a, b = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    times = measuring.take_turns({'product': lambda: a @ b}, 5, 2, device)['product']
    return 2 * size**3 / min(times.seconds)


def largest_gap(ours: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Largest relative difference of the losses."""
    return max(
        abs(float(ours[name]) - float(value)) / max(abs(float(value)), 1e-12)
        for name, value in other.items()
        if name.startswith('loss')
    )


def run(args: argparse.Namespace) -> None:
    kinds = [args.only] if args.only else ['released', 'ours']
    works: dict[str, Step] = {}
    first: dict[str, dict[str, torch.Tensor]] = {}
    flops: dict[str, int] = {}
    kernels: dict[str, int] = {}
    dtypes: dict[str, torch.dtype] = {}
    for kind in kinds:
        works[kind], dtypes[kind] = prepare(args, kind)
        torch.manual_seed(1)
        first[kind] = {name: value.detach() for name, value in works[kind]().items()}
        context = nullcontext() if not args.compile else torch.compiler.set_stance('force_eager')
        with context:
            flops[kind] = count_flops(works[kind], args.device)
            kernels[kind] = count_kernels(works[kind])
    times = measuring.take_turns(works, args.steps, args.warmup, args.device)
    operators = profile(works, args.profile, args.device) if args.profile else []
    works.clear()
    memory = {kind: measuring.peak_memory(peak, args, kind, device=args.device) for kind in kinds}
    bounds = {dtype: matmul_rate(dtype, args.device) for dtype in set(dtypes.values())}

    rows = []
    for kind in kinds:
        bound = bounds[dtypes[kind]]
        row = {
            'step': kind,
            'dtype': str(dtypes[kind]).replace('torch.', ''),
            'seconds': round(times[kind].median, 4),
            'spread': f'{times[kind].spread:.0%}',
            'images/s': round(2 * args.batch_size / times[kind].median, 2),
            'peak GB': round(memory[kind] / measuring.GB, 2),
            'TFLOP': round(flops[kind] / 1e12, 3),
            'TFLOP/s': round(flops[kind] / times[kind].median / 1e12, 2),
            'kernels, eager': kernels[kind],
            'share of the bound': f'{flops[kind] / times[kind].median / bound:.0%}',
        }
        if len(kinds) > 1:
            row['time ratio'] = round(times[kind].median / times['released'].median, 2)
            row['memory ratio'] = round(memory[kind] / memory['released'], 2)
            row['FLOP ratio'] = round(flops[kind] / flops['released'], 2)
            row['losses, largest relative difference'] = (
                f'{largest_gap(first[kind], first["released"]):.0e}'
            )
        rows.append(row)
    measuring.report(
        'One training step',
        rows,
        args.device,
        args.json,
        config=args.config,
        batch_size=args.batch_size,
        compile=args.compile,
        **args.cfg_options,
        bound=', '.join(
            f'{bound / 1e12:.2f} TFLOP/s ({dtype})'.replace('torch.', '')
            for dtype, bound in bounds.items()
        ),
    )
    if operators:
        measuring.report(
            'Where the time goes',
            operators,
            args.device,
            args.json and f'{args.json}.profile.json',
            config=args.config,
        )
