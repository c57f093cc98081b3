"""How often the host waits for the GPU in the iterations of a training that log nothing."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity
from torch.utils.data._utils.pin_memory import pin_memory

from cotap_mm.command_line.config_file import load_config
from cotap_mm.datasets.neighbors.file import save_neighbors
from cotap_mm.engine.launch import runner as launch
from cotap_mm.engine.launch.preflight import prepare
from cotap_mm.models.modules import TemplateBank
from cotap_mm.registry import DATASETS, build

from . import measuring
from .step import fill_queues, random_batch

#: Functions of CUDA in which the host waits, by the start of their names.
WAITS = ('cudaStreamSynchronize', 'cudaDeviceSynchronize', 'cudaEventSynchronize', 'cudaMemcpy')


def is_wait(name: str) -> bool:
    """Whether a function of CUDA makes the host wait; copies with Async in their name do not."""
    return name.startswith(WAITS) and 'Async' not in name


def build_runner(args: argparse.Namespace, folder: str):
    """Runner of a config on toy scenes, with full queues, whose log never comes."""
    config = load_config(args.config)
    images = dict(type='ToyScenes', split='train', num_images=8)
    source = build(DATASETS, images)
    neighbors = str(Path(folder) / 'neighbors.npz')
    names = [source.name(index) for index in range(len(source))]
    save_neighbors(neighbors, names, (np.arange(8)[:, None] + np.arange(1, 8)) % 8)
    crops = config.train_dataloader.dataset.crops
    config.merge_from_dict(
        {
            'work_dir': folder,
            'model.init_cfg': None,
            'train_cfg.max_iters': 1,
            'train_dataloader.batch_size': 2,
            'train_dataloader.num_workers': 0,
            'train_dataloader.persistent_workers': False,
            'train_dataloader.dataset': dict(
                _delete_=True,
                type='NeighborPairs',
                neighbors=neighbors,
                patch=images,
                crops=crops.to_dict(),
            ),
            'default_hooks.logger.interval': 10**6,
            'default_hooks.monitor.interval': 10**6,
            'default_hooks.before_after': None,
            **args.cfg_options,
        }
    )
    config.custom_hooks = []
    prepare(config)
    return launch.runner_of(config)


def run(args: argparse.Namespace) -> None:
    on_gpu = args.device.startswith('cuda')
    with tempfile.TemporaryDirectory() as folder:
        runner = build_runner(args, folder)
        runner.train()  # one iteration, which builds everything
        model = runner.model
        fill_queues(model)
        for part in model.modules():
            if isinstance(part, TemplateBank):
                part.has_started_prototypes.fill_(True)
        batch = random_batch(runner.cfg, args.batch_size)
        if on_gpu:  # as a loader for a GPU does
            batch = pin_memory(batch)
        runner.optim_wrapper.initialize_count_status(model, 1, 10**6)
        for _ in range(args.warmup):
            runner.train_loop.run_iter(batch)
        measuring.synchronize(args.device)
        kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
        start = time.perf_counter()
        with torch.profiler.profile(activities=kinds) as profiler:
            for _ in range(args.steps):
                runner.train_loop.run_iter(batch)
            enqueued = time.perf_counter() - start
            measuring.synchronize(args.device)  # counted, too
        seconds = time.perf_counter() - start
    counts = Counter({event.key: event.count for event in profiler.key_averages()})
    waits = {name: count for name, count in counts.items() if is_wait(name)}
    rows: list[dict[str, Any]] = [
        {
            'steps': args.steps,
            'waits a step': round((sum(waits.values()) - on_gpu) / args.steps, 2),
            'kinds of waits, with one at the end': ', '.join(map(str, waits.items())) or 'none',
            'launches a step': round(counts['cudaLaunchKernel'] / args.steps),
            'seconds until all is enqueued': round(enqueued, 3),
            'seconds until all is done': round(seconds, 3),
        }
    ]
    measuring.report(
        'Waits of the host for the device',
        rows,
        args.device,
        args.json,
        config=args.config,
        batch_size=args.batch_size,
    )
