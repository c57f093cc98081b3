"""Measure one training step of a config on random images: time, images a second, memory.

    python tools/benchmark.py configs/cotap/vits_coco.py --batch-size 28 --device cuda
    python tools/benchmark.py configs/cotap/vits_coco.py --batch-size 2 --steps 3

Timings of one machine at one time; compare only within one run. Queues are filled before
measuring, since their length sets the cost of the assignments.
"""
import argparse
import json
import platform
import resource
import statistics
import time

import torch
from mmengine.optim import build_optim_wrapper

from cotap_mm.engine import launch
from cotap_mm.registry import MODELS, build


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config')
    parser.add_argument('--batch-size', type=int, default=2, help='images a branch')
    parser.add_argument('--steps', type=int, default=5, help='measured steps')
    parser.add_argument('--warmup', type=int, default=2)
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--dtype', default='auto', help='auto, bfloat16, float16 or float32')
    parser.add_argument('--json', help='also write the result to this file')
    return parser.parse_args()


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


def measure(model, optim_wrapper, batch: dict, warmup: int, steps: int, device: str) -> list:
    seconds = []
    for step in range(warmup + steps):
        if device == 'cuda':
            torch.cuda.synchronize()
        start = time.perf_counter()
        model.train_step(batch, optim_wrapper=optim_wrapper)
        model.teacher.update(model.student, 0.9997)
        if device == 'cuda':
            torch.cuda.synchronize()
        if step >= warmup:
            seconds.append(time.perf_counter() - start)
    return seconds


def main() -> None:
    args = parse_args()
    config = launch.load_config(args.config)
    config.model.init_cfg = None
    model = build(MODELS, config.model).to(args.device).train()
    config.optim_wrapper.dtype = args.dtype
    config.optim_wrapper.pop('accumulative_counts', None)
    optim_wrapper = build_optim_wrapper(model, config.optim_wrapper)
    fill_queues(model)
    seconds = measure(model, optim_wrapper, random_batch(config, args.batch_size), args.warmup,
                      args.steps, args.device)
    median = statistics.median(seconds)
    on_gpu = args.device == 'cuda'
    peak = (torch.cuda.max_memory_allocated() if on_gpu
            else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    result = dict(
        config=args.config, batch_size=args.batch_size, device=args.device, dtype=args.dtype,
        seconds_a_step=round(median, 4), fastest=round(min(seconds), 4),
        slowest=round(max(seconds), 4), images_a_second=round(2 * args.batch_size / median, 2),
        peak_memory_gb=round(peak / 2**30, 2), torch=torch.__version__,
        machine=torch.cuda.get_device_name() if on_gpu else
        f'{platform.machine()}, {torch.get_num_threads()} threads',
        date=time.strftime('%Y-%m-%d'))
    print(json.dumps(result, indent=2))
    if args.json:
        with open(args.json, 'w', encoding='utf-8') as file:
            json.dump(result, file, indent=2)


if __name__ == '__main__':
    main()
