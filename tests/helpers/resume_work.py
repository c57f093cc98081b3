"""A tiny training on one or two processes that can be killed and resumed."""

from __future__ import annotations

import os
import signal
import uuid
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import barrier
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch.utils.data import get_worker_info

from cotap_mm.datasets import ToyScenes
from cotap_mm.distributed.model_wrapper import unwrap
from cotap_mm.engine.hooks import EXIT_STATUS, was_preempted
from cotap_mm.engine.launch import runner as launch
from cotap_mm.engine.launch.preflight import prepare
from cotap_mm.engine.resume.work_folder import claim_folder
from cotap_mm.registry import DATASETS
from tests.helpers.toy_config import as_text, toy_options

ROOT = Path(__file__).resolve().parents[2]


class Killed(Exception):
    """Simulates a power failure."""


@HOOKS.register_module(force=True)
class KillHook(Hook):
    """Abort the training in the middle of an iteration."""

    def __init__(self, at):
        self.at = at

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.at:
            raise Killed


@HOOKS.register_module(force=True)
class PoisonHook(Hook):
    """Make a loss NaN in some iterations of one rank."""

    def __init__(self, at, rank=0):
        self.at, self.rank = at, rank

    def before_train(self, runner):
        model = unwrap(runner.model)
        model.losses['patch_ranking'].register_forward_hook(
            lambda module, inputs, loss: (
                loss * float('nan') if runner.iter in self.at and runner.rank == self.rank else loss
            )
        )


@HOOKS.register_module(force=True)
class SignalHook(Hook):
    """Send a signal to this process and its workers in the middle of an iteration."""

    def __init__(self, at, name='SIGTERM', rank=0):
        self.at, self.name, self.rank = at, name, rank

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.at and runner.rank == self.rank:
            workers = getattr(runner.train_loop.dataloader_iterator._iterator, '_workers', [])
            for process in (os.getpid(), *(worker.pid for worker in workers)):
                os.kill(process, getattr(signal, self.name))


@HOOKS.register_module(force=True)
class ReportHook(Hook):
    """Report completed iterations before they are saved.

    ``tell`` is set by the process that trains, since a config cannot hold a pipe.
    """

    tell = None

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        type(self).tell(runner.iter + 1)


@DATASETS.register_module(force=True)
class CrashingScenes(ToyScenes):
    """Kill or stop the worker process that reads the sixth image.

    ``COTAP_TEST_CRASH`` says when and by which signal.
    """

    def read(self, index, enough=None):
        when, name = os.environ['COTAP_TEST_CRASH'].split()
        in_training = when == 'training'
        is_crop = enough is not None and 'MultiCrop' in str(enough)
        if index == 5 and is_crop is in_training and get_worker_info() is not None:
            os.kill(os.getpid(), getattr(signal, name))
        return super().read(index, enough)


def plain_text(config):
    """Replacement for ``config.pretty_text``, which takes longer than the training."""
    return as_text(config._cfg_dict.to_dict())


def tiny_config(
    folder,
    iters,
    batch_size=4,
    num_workers=0,
    kill_at=None,
    hooks=(),
    checkpoint_interval=2,
    **options,
):
    """Config with 13 images, so that an epoch of 3.25 iterations ends within a batch."""
    config = Config.fromfile(ROOT / 'configs' / 'cotap' / 'demo.py')
    config.merge_from_dict(toy_options(batch_size, iters, num_workers=num_workers))
    config.merge_from_dict(
        dict(
            train_dataloader=dict(dataset=dict(patch=dict(num_images=13, image_size=32))),
            work_dir=str(folder),
            default_hooks=dict(
                logger=dict(interval=1),
                checkpoint=dict(interval=checkpoint_interval, max_keep_ckpts=-1),
            ),
            **options,
        )
    )
    config.model.init_cfg = options.get('model.init_cfg')
    config.custom_hooks = [
        dict(type='TeacherHook'),
        dict(type='MonitorHook', interval=2),
        dict(type='ScheduleLengthHook'),
        *hooks,
    ]
    if kill_at is not None:
        config.custom_hooks.append(dict(type='KillHook', at=kill_at, _scope_='mmengine'))
    return config


def train(folder, iters, resume=False, claims=False, **options):
    """Train; return the Runner, or None if it was killed."""
    config = tiny_config(folder, iters, **options)
    config.resume = resume
    # MMEngine keeps one logger per experiment name in a process.
    config.experiment_name = f'resume_{uuid.uuid4().hex}'
    if int(os.environ.get('WORLD_SIZE', 1)) > 1:
        config.launcher = 'pytorch'
        os.environ.setdefault('LOCAL_RANK', '0')  # MMEngine reads it before device_ids
        config.model_wrapper_cfg = dict(
            type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False
        )
    if claims:
        claim_folder(config)
    prepare(config)
    runner = launch.runner_of(config)
    try:
        launch.train(runner)
    except Killed:
        return None
    except SystemExit as stopped:
        assert stopped.code == EXIT_STATUS
    return runner


def poison(at, rank=0):
    return dict(type='PoisonHook', at=at, rank=rank, _scope_='mmengine')


def two_runs(rank):
    """One training without and one with a kill, on two processes."""
    folder = os.environ['COTAP_TEST_FOLDER']
    train(f'{folder}/whole', 6)
    assert train(f'{folder}/killed', 6, kill_at=5) is None
    train(f'{folder}/killed', 6, resume=True)
    return rank


def poisoned_on_one(rank):
    """One of two processes has a NaN loss in iteration 2."""
    runner = train(
        os.environ['COTAP_TEST_FOLDER'], 4, hooks=[dict(type='NonFiniteHook'), poison([2], rank=1)]
    )
    model = runner.model.module
    return dict(
        weights={name: value.detach() for name, value in model.named_parameters()},
        moved=model.teacher.num_updates,
        total=runner.message_hub.get_scalar('train/skipped_steps').current(),
    )


def stopped_by_signal(rank):
    """Only rank 1 receives a signal, in iteration 2 of 6."""
    runner = train(
        os.environ['COTAP_TEST_FOLDER'],
        6,
        hooks=[
            dict(type='PreemptionHook'),
            dict(type='SignalHook', at=2, rank=1, name='SIGUSR1', _scope_='mmengine'),
        ],
    )
    return dict(done=runner.iter, stopped=was_preempted(runner))


def stopped_late(rank):
    """As :func:`stopped_by_signal`, but the ranks agree every few steps, between the steps."""
    found = []
    for seconds in (1e-9, 1e9):
        runner = train(
            f'{os.environ["COTAP_TEST_FOLDER"]}/{seconds}',
            9,
            hooks=[
                dict(type='PreemptionHook', agree_seconds=seconds),
                dict(type='SignalHook', at=2, rank=1, name='SIGUSR1', _scope_='mmengine'),
            ],
        )
        found.append((runner.iter, was_preempted(runner)))
    return found


def two_default_runs(rank):
    """:func:`two_runs` with an init checkpoint, which is deleted later, and computed neighbors."""
    Config.pretty_text = property(plain_text)
    folder = Path(os.environ['COTAP_TEST_FOLDER'])
    init = {'model.init_cfg': dict(type='PretrainedViT', checkpoint=str(folder / 'init.pth'))}
    for name, options in (
        ('whole', {}),
        ('killed', dict(kill_at=5)),
        ('killed', dict(resume=True)),
    ):
        if 'resume' in options:
            barrier()
            if rank == 0:
                (folder / 'init.pth').unlink()
            barrier()
        train(folder / name, 6, claims=True, **options, **init)
    return rank
