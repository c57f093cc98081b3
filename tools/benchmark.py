"""Benchmarks: the cost of a training step, and what a pre-trained backbone is worth downstream.

    python tools/benchmark.py step configs/cotap/vits_coco.py --batch-size 28 --device cuda
    python tools/benchmark.py transfer configs/downstream/camvid_linear.py \\
        --variant random init=none --variant filter init=work_dirs/camvid_small/iter_300.pth

step: one step on random images. Timings of one machine at one time; compare only within one run.
Queues are filled before measuring, since their length sets the cost of the assignments. An image
counts once in each branch that reads it.

transfer: trains a downstream config from several starts, with several seeds, and prints a table.
A run that is finished already is not repeated.
"""
import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from mmengine.optim import build_optim_wrapper

from cotap_mm.engine import launch
from cotap_mm.registry import MODELS, build

TOOLS = Path(__file__).resolve().parent


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest='kind', required=True)
    step = kinds.add_parser('step', help='time and memory of one training step')
    step.add_argument('config')
    step.add_argument('--batch-size', type=int, default=2, help='images a branch')
    step.add_argument('--steps', type=int, default=5, help='measured steps')
    step.add_argument('--warmup', type=int, default=2)
    step.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    step.add_argument('--dtype', default='auto', help='auto, bfloat16, float16 or float32')
    step.add_argument('--json', help='also write the result to this file')
    transfer = kinds.add_parser('transfer', help='a downstream config from several starts')
    transfer.add_argument('config')
    transfer.add_argument('--variant', action='append', nargs='+', required=True,
                          metavar=('NAME', 'KEY=VALUE'), help='init=FILE or init=none ({seed} '
                          'in FILE is the seed), and config keys that this start needs')
    transfer.add_argument('--metric', default='mIoU', help='as the log calls it')
    transfer.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    transfer.add_argument('--work-dir', help='work_dirs/transfer/CONFIG by default')
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


def measure_step(args: argparse.Namespace) -> None:
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


def last_metric(folder: Path, name: str) -> float:
    """The last value of a metric that a run has logged, in per cent."""
    lines = [json.loads(line) for file in sorted(folder.glob('*/vis_data/scalars.json'))
             for line in file.read_text().splitlines()]
    values = [line[name] for line in lines if name in line]
    if not values:
        known = sorted({key for line in lines for key in line})
        raise SystemExit(f'error: {folder} has logged no {name}, only {", ".join(known)}')
    # MMDetection logs shares, MMSegmentation per cent.
    return 100 * values[-1] if name.startswith('coco/') else values[-1]


def transfer(args: argparse.Namespace) -> None:
    top = Path(args.work_dir or Path('work_dirs') / 'transfer' / Path(args.config).stem)
    rows = []
    for name, *options in args.variant:
        values = []
        for seed in args.seeds:
            folder = top / f'{name}_{seed}'
            folder.mkdir(parents=True, exist_ok=True)
            done = folder / 'result.json'
            if not done.is_file():
                inits = [option[len('init='):].replace('{seed}', str(seed))
                         for option in options if option.startswith('init=')]
                keys = [option for option in options if not option.startswith('init=')]
                command = [sys.executable, '-W', 'ignore', str(TOOLS / 'train.py'), args.config,
                           '--seed', str(seed), '--work-dir', str(folder)]
                command += ['--init', inits[-1]] if inits else []
                command += ['--cfg-options', *keys] if keys else []
                with open(top.parent / f'{top.name}.log', 'a', encoding='utf-8') as log:
                    subprocess.run(command, check=True, stdout=log, stderr=log)
                done.write_text(json.dumps({args.metric: last_metric(folder, args.metric)}))
            values.append(json.loads(done.read_text())[args.metric])
            print(f'{name}, seed {seed}: {args.metric} {values[-1]:.2f}', flush=True)
        spread = f'{statistics.stdev(values):.2f}' if len(values) > 1 else '-'
        each = ' | '.join(f'{value:.2f}' for value in values)
        rows.append(f'| {name} | {each} | {statistics.mean(values):.2f} | {spread} |')
    seeds = ' | '.join(f'seed {seed}' for seed in args.seeds)
    print(f'\n| start | {seeds} | mean {args.metric} | deviation |')
    print('|---' * (len(args.seeds) + 3) + '|')
    print('\n'.join(rows))


def main() -> None:
    args = parse_args()
    measure_step(args) if args.kind == 'step' else transfer(args)


if __name__ == '__main__':
    main()
