"""Dense retrieval's search, in blocks, against one matrix of all similarities.

And the share of a training that its evaluations take.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from pathlib import Path
from typing import Any, Callable

import torch
import torch.nn.functional as F
from mmengine.runner import Runner
from torch import Tensor

from cotap_mm.command_line.config_file import load_config
from cotap_mm.engine.auto_neighbors import ensure_neighbors
from cotap_mm.engine.launch import runner as launch
from cotap_mm.evaluation.hook import EvaluationHook
from cotap_mm.ops.nearest import nearest

from . import measuring

K = 30


def in_blocks(queries: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    return nearest(queries, memory, K)


def at_once(queries: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    return tuple((queries @ memory.T).topk(K, dim=1))


SEARCHES = dict(at_once=at_once, in_blocks=in_blocks)


def make(name: str, queries: int, memory: int, width: int, device: str) -> Callable[[], Tensor]:
    """A search among random unit features; returns the indices that it finds."""
    generator = torch.Generator().manual_seed(0)
    rows = [
        F.normalize(torch.randn(count, width, generator=generator)).to(device)
        for count in (queries, memory)
    ]
    return lambda: SEARCHES[name](*rows)[1]


def share_of_training(config_file: str, folder: Path, steps: int = 20) -> float:
    """CPU time of the evaluations of a training at its default settings, as a share of the whole.

    A few steps are trained, with an evaluation before and after them. Each evaluation of the whole
    training after the first step counts as the latter.
    """
    config = load_config(config_file)
    iterations = config.train_cfg.max_iters
    (settings,) = (hook for hook in config.custom_hooks if hook.type == 'EvaluationHook')
    later = math.ceil(iterations / settings.interval)
    settings.interval = config.train_cfg.max_iters = steps
    config.work_dir, config.log_level = str(folder), 'WARNING'
    ensure_neighbors(config, folder)
    runner = Runner.from_cfg(config)
    (hook,) = (hook for hook in runner.hooks if isinstance(hook, EvaluationHook))
    evaluate, seconds = hook.evaluate, []

    def timed(*args: Any) -> dict[str, float]:
        start = time.process_time()
        values = evaluate(*args)
        seconds.append(time.process_time() - start)
        return values

    hook.evaluate = timed
    start = time.process_time()
    launch.train(runner)
    step = (time.process_time() - start - sum(seconds)) / steps
    evaluations = seconds[0] + later * seconds[1]
    return evaluations / (evaluations + iterations * step)


def run(args: argparse.Namespace) -> None:
    if args.share_of:
        torch.set_num_threads(1)
        with tempfile.TemporaryDirectory() as folder:
            shares = [
                share_of_training(args.share_of, Path(folder) / str(run))
                for run in range(args.runs)
            ]
        shown = ', '.join(f'{share:.1%}' for share in shares)
        print(f'evaluations / whole training, CPU time of {args.share_of}: {shown}')
        return
    rows = []
    for memory in args.memory:
        sizes = (args.queries, memory, args.width, args.device)
        works = {name: make(name, *sizes) for name in SEARCHES}
        found = {name: work() for name, work in works.items()}
        times = measuring.take_turns(works, args.runs, 1, args.device)
        extra = {
            name: measuring.extra_memory(make, name, *sizes, device=args.device)
            for name in SEARCHES
        }
        for name in SEARCHES:
            rows.append(
                {
                    'memory': memory,
                    'search': name.replace('_', ' '),
                    'seconds': round(times[name].median, 3),
                    'spread': f'{times[name].spread:.0%}',
                    'extra MB': round(extra[name] / measuring.MB, 1),
                    'times faster': round(times['at_once'].median / times[name].median, 2),
                    'same neighbours': f'{(found[name] == found["at_once"]).float().mean():.2%}',
                }
            )
    measuring.report(
        f'{K} nearest patches',
        rows,
        args.device,
        args.json,
        queries=args.queries,
        width=args.width,
        dtype='float32',
        runs=args.runs,
    )
