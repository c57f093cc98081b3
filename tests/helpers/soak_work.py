"""Long training that records its resources; run as ``python soak_work.py FOLDER STEPS``."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from cotap_mm.models.modules import FeatureQueue

PAGE = os.sysconf('SC_PAGE_SIZE')
LOG_INTERVAL = 5  # iterations between two lines of the log


def resident(process):
    """Resident memory of a process in bytes."""
    return int(Path(f'/proc/{process}/statm').read_text().split()[1]) * PAGE


@HOOKS.register_module()
class VitalsHook(Hook):
    """Write a line of JSON every ``interval`` iterations."""

    priority = 'LOWEST'  # after the checkpoint

    def __init__(self, interval, folder):
        self.interval, self.folder = interval, Path(folder)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if not self.every_n_train_iters(runner, self.interval):
            return
        loader = runner.train_loop.dataloader_iterator._iterator
        workers = [worker.pid for worker in loader._workers]
        logs = [*self.folder.rglob('*.log'), *self.folder.rglob('scalars.json')]
        queues = [part for part in runner.model.modules() if isinstance(part, FeatureQueue)]
        record = dict(
            step=runner.iter + 1,
            time=time.monotonic(),
            memory=resident(os.getpid()),
            memory_of_workers=sum(map(resident, workers)),
            workers=len(workers),
            files=len(os.listdir('/proc/self/fd')),
            threads=threading.active_count(),
            system_threads=len(os.listdir('/proc/self/task')),
            log_lines=sum(path.read_text().count('\n') for path in logs),
            log_bytes=sum(path.stat().st_size for path in logs),
            checkpoint=max(
                (path.stat().st_size for path in self.folder.glob('iter_*.pth')), default=0
            ),
            work_files=sum(1 for _ in self.folder.rglob('*')),
            queues=sum(value.numel() for queue in queues for value in queue.buffers()),
            history=max(len(values.data[0]) for values in runner.message_hub.log_scalars.values()),
        )
        with open(self.folder / 'vitals.jsonl', 'a') as file:
            file.write(json.dumps(record) + '\n')


def main(folder, steps):
    """Train with everything that a real run has: workers, hooks, logs, two kept checkpoints."""
    from tests.helpers import resume_work

    torch.set_num_threads(1)
    points = 50  # measurements
    options = {
        'default_hooks.checkpoint.interval': max(steps // points, 2),
        'default_hooks.checkpoint.max_keep_ckpts': 2,
        'default_hooks.logger.interval': LOG_INTERVAL,
        'log_processor.window_size': 10,
        'train_cfg.log_history': 20,
    }
    resume_work.train(
        folder,
        steps,
        num_workers=2,
        **options,
        hooks=[
            dict(type='NonFiniteHook'),
            dict(type='PreemptionHook'),
            dict(
                type='VitalsHook',
                interval=max(steps // points, 2),
                folder=folder,
                _scope_='mmengine',
            ),
        ],
    )


if __name__ == '__main__':
    main(sys.argv[1], int(sys.argv[2]))
