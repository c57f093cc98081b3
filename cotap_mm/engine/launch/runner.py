"""Build the Runner of a config and train with it."""

from __future__ import annotations

import argparse
import os
import time
import warnings
from typing import Callable, Optional

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.logging import print_log
from mmengine.registry import RUNNERS
from mmengine.runner import FlexibleRunner, Runner

from cotap_mm import signals
from cotap_mm.command_line.tool import report_user_errors
from cotap_mm.datasets.loader_watch import report_dead_worker, watch_loader
from cotap_mm.distributed.collectives import world_size
from cotap_mm.distributed.failures import current_watch, report_unresponsive_ranks
from cotap_mm.distributed.process_group import start_processes
from cotap_mm.distributed.timeouts import limit_of, timeout_of
from cotap_mm.engine.hooks import (
    LoopPreemptionHook,
    PreemptionHook,
    last_checkpoint,
    stopped_by,
)
from cotap_mm.engine.resume.work_folder import (
    abandon_folder,
    claim_folder,
    release_folder,
)
from cotap_mm.errors import UserError

from .preflight import SetNeighbors, prepare
from .stops import explained_stops, is_before_first_step
from .values import explained_options
from .writers import explained_services, guard_writers


def build_runner(
    args: argparse.Namespace,
    make_config: Callable[[], Config],
    claims: bool = False,
    before_build: Callable[[Config], None] = lambda config: None,
    set_neighbors: Optional[SetNeighbors] = None,
) -> Runner | FlexibleRunner:
    """Build the Runner of a command-line tool; report user errors in one line.

    Args:
        args (argparse.Namespace): With ``local_rank``, and with ``overwrite`` and ``force`` if
            ``claims``.
        make_config (callable): Makes the config; its errors are reported in one line, too.
        claims (bool): Whether to claim the work folder for a training, see
            :func:`.claim_folder`. Defaults to False.
        before_build (callable): Called with the complete config before the model is built.
        set_neighbors (callable, optional): See :func:`.prepare`. Defaults to None.

    Returns:
        Runner: Ready to train or test.

    Raises:
        SystemExit: If the config, its data or its checkpoints cannot be used.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    with report_user_errors(UserError):
        config = make_config()
        start_processes(config)
        try:
            with report_unresponsive_ranks():
                if claims:
                    claim_folder(config, args.overwrite, args.force)
                with explained_options(args.cfg_options):
                    initial_weights = prepare(config, set_neighbors)
                    before_build(config)
                    runner = runner_of(config)
                    initial_weights.hand_on(runner.model)
                    return runner
        except BaseException:
            abandon_folder()
            raise


def runner_of(config: Config) -> Runner | FlexibleRunner:
    """Build MMEngine's FlexibleRunner if the config has a ``strategy``, else its Runner.

    A strategy such as FSDP shards the model over several processes; a single
    process drops it, because it has nothing to shard.

    Args:
        config (Config): Prepared by :func:`.prepare`; changed in place.

    Returns:
        Runner: With a log, a visualizer and data loaders that survive or report failures, see
        :func:`.guard_writers` and :func:`.watch_loader`.
    """
    # True in configs for GPUs; on a CPU it has no effect.
    warnings.filterwarnings('ignore', "'pin_memory' argument is set as true but no accelerator")
    patience = limit_loader_waits(config)
    if config.get('strategy') and config.get('launcher', 'none') == 'none':
        print_log(
            f'strategy {config.strategy.type} needs several processes '
            '(tools/dist_train.sh); this single process trains without it',
            logger='current',
        )
        config.strategy = None
    with explained_services():
        if config.get('runner_type'):  # a runner of another library, built as mim does
            runner = RUNNERS.build(config)
        else:
            runner = (FlexibleRunner if config.get('strategy') else Runner).from_cfg(config)
    guard_writers(runner.logger, runner.visualizer)
    build_loader = runner.build_dataloader  # loops call it when they are built
    runner.build_dataloader = lambda *args, **kwargs: watch_loader(
        build_loader(*args, **kwargs), patience
    )
    return runner


def train(runner: Runner | FlexibleRunner) -> None:
    """Train; raise :class:`.Stopped` if a signal has stopped the training.

    Args:
        runner (Runner): Ready to train.

    Raises:
        UserError: If the training has to stop for a reason that the user can act on: bad
            images, a diverged loss, a full memory or disk, a loader process that died, a rank
            that does not respond.
        Stopped: After a signal, on rank 0, with status 75, or 130 after Ctrl-C. The other ranks
            have exited before, since a launcher kills the remaining ranks when one exits with an
            error.
    """
    signals.set_advice(lambda: last_checkpoint(runner))
    try:
        with (
            explained_stops(lambda: last_checkpoint(runner)),
            report_unresponsive_ranks(lambda: runner.iter),
            report_dead_worker(lambda: getattr(runner.train_dataloader.dataset, 'being_read', [])),
        ):
            _train(runner)
    except Exception:
        if is_before_first_step(runner):
            abandon_folder()
        raise
    finally:
        for hook in runner.hooks:
            if isinstance(hook, PreemptionHook):
                hook.close()
        release_folder()
    signal_name = stopped_by(runner)
    if signal_name and is_main_process():
        watch = current_watch()
        if watch is not None:
            watch.wait_to_be_last()
        elif world_size() > 1:
            time.sleep(5)
        raise signals.Stopped(signal_name, last_checkpoint(runner))


def _train(runner: Runner | FlexibleRunner) -> None:
    """Train; if a signal interrupts MMEngine's own loop between two steps, save if possible."""
    try:
        runner.train()
    except signals.Stopped:
        stoppers = [
            hook
            for hook in runner.hooks
            if isinstance(hook, LoopPreemptionHook) and hook.is_between_steps
        ]
        if not stoppers or world_size() > 1:
            raise
        stoppers[0].stop_between_steps(runner)


def limit_loader_waits(config: Config) -> float:
    """Limit how long a run waits for a loader worker that was stopped or hangs.

    PyTorch's loaders wait without limit. Here the limit is the same as for other ranks. It
    applies to signs of life (:class:`.LoaderWatch`) and is the loader's ``timeout``, except in
    pre-training, whose workers may wait longer for an unreachable disk.

    Args:
        config (Config): Changed in place.

    Returns:
        float: The limit in seconds.
    """
    limit = limit_of(timeout_of(config.get('env_cfg', {}).get('dist_cfg', {}).get('timeout', 1800)))
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loader = config.get(name)
        if not isinstance(loader, dict):
            continue
        if not loader.get('num_workers'):
            loader.pop('timeout', None)  # PyTorch rejects it without workers
        elif name != 'train_dataloader' or not str(
            config.get('train_cfg', {}).get('type')
        ).endswith('ResumableTrainLoop'):
            loader.setdefault('timeout', limit)
    return limit
