"""From a config to a Runner that has trained."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable, Optional

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.registry import RUNNERS
from mmengine.runner import FlexibleRunner, Runner

from cotap_mm import signals
from cotap_mm.command_line.tool import report_user_errors
from cotap_mm.datasets.loader_watch import report_dead_worker, watch_loader
from cotap_mm.datasets.workers import keep_workers
from cotap_mm.distributed.collectives import world_size
from cotap_mm.distributed.failures import current_watch, report_unresponsive_ranks
from cotap_mm.distributed.process_group import start_processes
from cotap_mm.distributed.timeouts import limit_of, timeout_of
from cotap_mm.engine.auto_neighbors import ensure_neighbors, warn_of_changed_images
from cotap_mm.engine.backbones import find_backbones
from cotap_mm.engine.data_checks.downstream import prepare_downstream
from cotap_mm.engine.hooks import (
    EXIT_STATUS,
    LoopPreemptionHook,
    PreemptionHook,
    last_checkpoint,
    was_preempted,
)
from cotap_mm.engine.hooks.required import complete_downstream_hooks, complete_hooks
from cotap_mm.engine.resume.choice import choose_resume
from cotap_mm.engine.resume.work_folder import (
    abandon_folder,
    claim_folder,
    note_folder,
    release_folder,
)
from cotap_mm.errors import UserError
from cotap_mm.registry import DATASETS, build
from cotap_mm.weights.reading import read_checkpoint

from .config import is_pretraining
from .dry_run import describe_trial, dry_run, placeholder_neighbors
from .stops import explained_stops
from .validation import check_config
from .values import explained_options
from .writers import check_work_dir, guard_writers


def build_runner(
    args: argparse.Namespace, make_config: Callable[[], Config], claims: bool = False
) -> Runner | FlexibleRunner:
    """Build the Runner of a command-line tool, or end with a sentence that says what is wrong.

    Args:
        args (argparse.Namespace): With ``local_rank``; ``overwrite`` and ``force`` with ``claims``.
        make_config (Callable): Makes the config, which may fail as well.
        claims (bool): Whether to claim the work folder for a training; see
            :func:`.claim_folder`. Defaults to False.

    Returns:
        Runner: Ready to train or test.
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
                    prepare(config)
                    return runner_of(config)
        except BaseException:
            abandon_folder()
            raise


def runner_of(config: Config) -> Runner | FlexibleRunner:
    """MMEngine's FlexibleRunner if the config has a ``strategy``, such as FSDP, else its Runner.

    A single process shares nothing out, so there the strategy is left out.
    """
    patience = limit_loader_waits(config)
    if config.get('strategy') and config.get('launcher', 'none') == 'none':
        print_log(
            f'strategy {config.strategy.type} is for several processes '
            '(tools/dist_train.sh); this one trains without it',
            logger='current',
        )
        config.strategy = None
    if config.get('runner_type'):  # a library's own, as mim builds it
        runner = RUNNERS.build(config)
    else:
        runner = (FlexibleRunner if config.get('strategy') else Runner).from_cfg(config)
    guard_writers(runner.logger, runner.visualizer)
    build_loader = runner.build_dataloader  # loops call it when they are needed
    runner.build_dataloader = lambda *args, **kwargs: watch_loader(
        build_loader(*args, **kwargs), patience
    )
    return runner


def train_command(args: argparse.Namespace, make_config: Callable[[], Config]) -> None:
    """The whole of ``tools/train.py``: build, train or check, and end in a sentence.

    Signals are obeyed all along, see :mod:`cotap_mm.signals`.

    Args:
        args (argparse.Namespace): As in :func:`build_runner`, and ``check``.
        make_config (Callable): Likewise.

    Raises:
        UserError: Where the user has to act.
        SystemExit: Status 75 after a signal.
        KeyboardInterrupt: After Ctrl-C, with what to do.
    """

    def writable_config() -> Config:
        config = make_config()
        note_folder(config)
        check_work_dir(config.work_dir)
        return config

    keep_workers(True)
    try:
        with signals.listening(), explained_stops():
            if args.dry_run:
                check(args, make_config)
            else:
                runner = build_runner(args, writable_config, claims=True)
                with _short_until_first_step(runner, args.cfg_options):
                    train(runner)
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt('--resume continues from the last checkpoint') from interrupt
    finally:
        keep_workers(False)


class _Progress(Hook):
    """Notice when the set-up of a training, which builds its parts when needed, is over."""

    has_started = False

    def before_train_iter(self, *args: Any, **kwargs: Any) -> None:
        """Remember that the first step has begun."""
        self.has_started = True

    before_val_iter = before_test_iter = before_train_iter


@contextmanager
def _short_until_first_step(
    runner: Runner | FlexibleRunner, options: Optional[dict] = None
) -> Iterator[None]:
    """Sentences for errors of what a Runner builds only when it starts.

    Args:
        runner (Runner): Ready to train or test.
        options (dict, optional): Of ``--cfg-options``, which may be what is wrong.
    """
    progress = _Progress()
    runner.register_hook(progress)

    def has_started() -> bool:
        return progress.has_started

    with report_user_errors(until=has_started), explained_options(options, has_started):
        yield


def train(runner: Runner | FlexibleRunner) -> None:
    """Train; a training that stopped because of a signal exits with ``EXIT_STATUS``.

    Raises:
        UserError: If the training has to stop for a reason that the user can act on: bad
            images, a diverged loss, memory or a disk that is full, a process of the loader
            that died, another rank that does not answer.
        SystemExit: After a signal, with status 75, on rank 0. The other ranks have ended by
            then, since a launcher kills those that are left when one has a bad status.
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
        if any(isinstance(hook, _Progress) and not hook.has_started for hook in runner.hooks):
            abandon_folder()
        raise
    finally:
        for hook in runner.hooks:
            if isinstance(hook, PreemptionHook):
                hook.close()
        release_folder()
    if was_preempted(runner) and is_main_process():
        watch = current_watch()
        if watch is not None:
            watch.wait_to_be_last()
        elif world_size() > 1:
            time.sleep(5)
        sys.exit(EXIT_STATUS)


def _train(runner: Runner | FlexibleRunner) -> None:
    """Train; where a signal interrupts MMEngine's own loop between two steps, save if possible."""
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


def test(runner: Runner | FlexibleRunner, run: Callable[[], Any]) -> None:
    """Test with the checkpoint of the config.

    MMEngine only warns of weights that a checkpoint lacks, and measures random ones.

    Args:
        runner (Runner): Ready to test.
        run (callable): Tests.

    Raises:
        SystemExit: If the checkpoint does not fit the model, or data are missing.
    """
    with _short_until_first_step(runner):
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        checkpoint = runner._load_from
        found = read_checkpoint(checkpoint)
        names = {
            name[7:] if name.startswith('module.') else name
            for name in found.get('state_dict', found)
        }
        wanted = [
            name[7:] if name.startswith('module.') else name for name, _ in model.named_parameters()
        ]
        missing = [name for name in wanted if name not in names]
        if missing:
            raise ValueError(
                f'{checkpoint} does not fit the config: it lacks {len(missing)} of '
                f'{len(wanted)} weights, the first is {missing[0]}; give what '
                'training with this config has saved'
            )
        with report_dead_worker(lambda: getattr(runner.test_dataloader.dataset, 'being_read', [])):
            run()


def check(args: argparse.Namespace, make_config: Callable[[], Config]) -> None:
    """Build everything, train for some steps, tell time and memory, and leave nothing behind.

    Args:
        args (argparse.Namespace): As in :func:`build_runner`.
        make_config (Callable): Likewise.
    """
    with tempfile.TemporaryDirectory(prefix='cotap_check_') as folder, report_user_errors():
        missing = []

        def in_folder() -> Config:
            config = make_config()
            config.update(work_dir=folder, resume=False)
            if is_pretraining(config):
                complete_hooks(config)
                check_config(config)
                missing.extend(placeholder_neighbors(config, folder))
            return config

        found = dry_run(build_runner(args, in_folder))
        if is_main_process():
            print(describe_trial(found, missing))


def limit_loader_waits(config: Config) -> float:
    """End a run whose loader waits for a worker that was stopped or hangs.

    PyTorch's loaders wait without limit. Here the limit is that for other ranks, for signs of
    life (:class:`.LoaderWatch`) and as the loader's ``timeout``; not for the images of a
    pre-training, whose workers may wait longer for a disk that is out of reach.

    Args:
        config (Config): Changed in place.

    Returns:
        float: The limit, in seconds.
    """
    limit = limit_of(timeout_of(config.get('env_cfg', {}).get('dist_cfg', {}).get('timeout', 1800)))
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loader = config.get(name)
        if not isinstance(loader, dict):
            continue
        if not loader.get('num_workers'):
            loader.pop('timeout', None)  # PyTorch refuses it without workers
        elif name != 'train_dataloader' or not str(
            config.get('train_cfg', {}).get('type')
        ).endswith('ResumableTrainLoop'):
            loader.setdefault('timeout', limit)
    return limit


def prepare(config: Config) -> None:
    """Find what is missing before training starts, and build what ``'auto'`` asks for.

    Args:
        config (Config): With ``work_dir`` set; changed in place.

    Raises:
        FileNotFoundError: If images or the init checkpoint cannot be had.
        ValueError: If there are too few images for one batch, or files do not fit.
    """
    if is_pretraining(config):
        complete_hooks(config)
        check_config(config)
    elif config.get('train_dataloader'):
        complete_downstream_hooks(config)
    gone = choose_resume(config)
    if not is_pretraining(config):
        prepare_downstream(config)
        for backbone in find_backbones(config.model):
            _check_init(config, backbone)
            _forget_init(config, backbone)
        return
    if not (_check_init(config, config.model) or config.get('load_from')):
        print_log(
            'training starts from random weights; CoTAP is a post-pretraining, and from '
            'scratch it needs far more images and steps (--init names a checkpoint)',
            logger='current',
            level=logging.WARNING,
        )
    dataset = config.train_dataloader.dataset
    sources = {
        name: build(DATASETS, dataset[name]) for name in ('patch', 'cls') if dataset.get(name)
    }
    _check_batches(config, max(map(len, sources.values())))
    for key, branch in (('neighbors', 'patch'), ('cls_neighbors', 'cls')):
        if config.get('resume') and branch in sources and is_main_process():
            warn_of_changed_images(dataset.get(key) or '', sources[branch])
    ensure_neighbors(config, config.work_dir, used_before=gone)
    _forget_init(config, config.model)


def _check_batches(config: Config, num_images: int) -> None:
    """Whether the images fill a batch, and crops are of whole patches.

    Args:
        config (Config): Of a pre-training.
        num_images (int): Of the larger branch.

    Raises:
        ValueError: If not.
    """
    dataset = config.train_dataloader.dataset
    world = world_size()
    batch = config.train_dataloader.batch_size
    if not isinstance(batch, int) or batch < 1:
        raise ValueError(f'train_dataloader.batch_size must be a number from 1 on, got {batch!r}')
    crops, patch = dataset.get('crops') or {}, config.model.backbone.get('patch_size', 16)
    for name in ('global_size', 'local_size'):
        if crops.get(name, patch) % patch:
            raise ValueError(
                f'train_dataloader.dataset.crops.{name}={crops[name]} must be a multiple of '
                f'model.backbone.patch_size={patch}, e.g. {max(crops[name] // patch, 1) * patch}'
            )
    if num_images < batch * world:
        raise ValueError(
            f'{num_images} images do not fill one batch of {batch} on each of {world} '
            'processes; add images, or lower it with --cfg-options '
            f'train_dataloader.batch_size={max(num_images // world, 1)}'
        )
    if batch < 1 + config.model.get('pairs', {}).get('num_negatives', 5):
        print_log(
            f'with {batch} images a batch there are fewer negatives than the method ranks '
            'against (num_negatives); a larger batch is better than accumulation',
            logger='current',
            level=logging.WARNING,
        )


def _check_init(config: Config, part: dict) -> bool:
    """Read the weights that a model or backbone starts from; tell whether there are any.

    A run that continues where it stopped does not need them, and they may be gone.
    """
    if config.get('resume'):
        return True
    init = part.get('init_cfg')
    if not isinstance(init, dict) or 'PretrainedViT' not in str(init['type']):
        return False
    read_checkpoint(init['checkpoint'], init.get('trust', False))
    return True


def _forget_init(config: Config, part: dict) -> None:
    """A resumed run loads its checkpoint only. After all that is derived from the init."""
    if config.get('resume'):
        part['init_cfg'] = None
