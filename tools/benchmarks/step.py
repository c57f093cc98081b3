"""One training step on random images: seconds, images a second, peak memory."""
from __future__ import annotations

import argparse

import torch
from mmengine.optim import build_optim_wrapper

from cotap_mm.engine import launch
from cotap_mm.registry import MODELS, build

from . import measuring


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('config')
    parser.add_argument('--batch-size', type=int, default=2, help='images a branch')
    parser.add_argument('--steps', type=int, default=5, help='measured steps')
    parser.add_argument('--warmup', type=int, default=2)
    parser.add_argument('--dtype', default='auto', help='auto, bfloat16, float16 or float32')


def random_batch(config, batch_size: int) -> dict:
    """What the loader would give: uint8 crops and boxes."""
    crops = config.train_dataloader.dataset.crops
    sizes = (2, crops.global_size), (crops.num_local, crops.local_size)

    def branch() -> dict:
        globals_, locals_ = (torch.randint(0, 256, (batch_size, 2, count, 3, size, size),
                                           dtype=torch.uint8) for count, size in sizes)
        low = torch.rand(batch_size, 2, 2 + crops.num_local, 2) * 100
        return dict(global_crops=globals_, local_crops=locals_,
                    boxes=torch.cat([low, low + 300], dim=-1))

    return dict(patch=branch(), cls=branch())


def fill_queues(model) -> None:
    for queue in (model.patch_queue, model.cls_queue):
        queue.push(torch.rand_like(queue.features) * 2 - 1)


def run(args: argparse.Namespace) -> None:
    config = launch.load_config(args.config)
    config.model.init_cfg = None
    model = build(MODELS, config.model).to(args.device).train()
    config.optim_wrapper.dtype = args.dtype
    config.optim_wrapper.pop('accumulative_counts', None)
    optim_wrapper = build_optim_wrapper(model, config.optim_wrapper)
    fill_queues(model)
    batch = random_batch(config, args.batch_size)

    def step() -> None:
        model.train_step(batch, optim_wrapper=optim_wrapper)
        model.teacher.update(model.student, 0.9997)

    times = measuring.take_turns({'step': step}, args.steps, args.warmup, args.device)['step']
    peak = (torch.cuda.max_memory_allocated() if args.device.startswith('cuda')
            else measuring.peak_bytes())
    measuring.report(
        'One training step', [{
            'seconds': round(times.median, 4), 'spread': f'{times.spread:.0%}',
            'fastest': round(min(times.seconds), 4), 'slowest': round(max(times.seconds), 4),
            'images/s': round(2 * args.batch_size / times.median, 2),
            'peak GB': round(peak / measuring.GB, 2)}],
        measuring.machine(args.device), args.json, config=args.config,
        batch_size=args.batch_size, device=args.device, dtype=args.dtype)
