"""From a config to a Runner that has trained."""
import argparse
import datetime
import logging
import os
import sys
import tempfile
import time
from typing import Any, Callable

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.dist import broadcast_object_list, init_dist, is_main_process
from mmengine.logging import print_log
from mmengine.registry import RUNNERS
from mmengine.runner import FlexibleRunner, Runner

from cotap_mm.command_line import short_errors
from cotap_mm.datasets import ensure_neighbors
from cotap_mm.datasets.meeting import OtherRankFailed
from cotap_mm.datasets.workers import explained_deaths
from cotap_mm.engine.backbones import find_backbones
from cotap_mm.engine.checkpoint_files import newest_good_checkpoint, numbered_checkpoints
from cotap_mm.engine.config_check import check_config
from cotap_mm.engine.downstream_check import prepare_downstream
from cotap_mm.engine.hooks import EXIT_STATUS, was_preempted
from cotap_mm.engine.lost_ranks import explained_losses, timeout_of
from cotap_mm.engine.network import choose_interface, meeting_place
from cotap_mm.engine.run_config import is_pretraining
from cotap_mm.engine.trial import describe_trial, run_trial, stand_in_neighbors
from cotap_mm.ops import world_size
from cotap_mm.registry import DATASETS, build
from cotap_mm.weights.reading import read_checkpoint


def build_runner(args: argparse.Namespace,
                 make_config: Callable[[], Config]) -> 'Runner | FlexibleRunner':
    """Build the Runner of a command-line tool, or end with a sentence that says what is wrong.

    Args:
        args (argparse.Namespace): With ``local_rank``.
        make_config (Callable): Makes the config, which may fail as well.

    Returns:
        Runner: Ready to train or test.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    with short_errors(OtherRankFailed):
        config = make_config()
        start_processes(config)
        prepare(config)
        return runner_of(config)


def runner_of(config: Config) -> 'Runner | FlexibleRunner':
    """MMEngine's FlexibleRunner if the config has a ``strategy``, such as FSDP, else its Runner.

    A single process shares nothing out, so there the strategy is left out.
    """
    if config.get('strategy') and config.get('launcher', 'none') == 'none':
        print_log(f'strategy {config.strategy.type} is for several processes '
                  '(tools/dist_train.sh); this one trains without it', logger='current')
        config.strategy = None
    if config.get('runner_type'):  # a library's own, as mim builds it
        return RUNNERS.build(config)
    return (FlexibleRunner if config.get('strategy') else Runner).from_cfg(config)


def train(runner: 'Runner | FlexibleRunner') -> None:
    """Train; a training that stopped because of a signal exits with ``EXIT_STATUS``.

    Raises:
        RuntimeError: If a process of the loader died, with the images it was reading; if
            another rank does not answer, with its number.
        SystemExit: In that case with status 75, on rank 0. The other ranks have ended by
            then, since a launcher kills those that are left when one has a bad status.
    """
    with explained_losses(lambda: runner.iter), explained_deaths(
            lambda: getattr(runner.train_dataloader.dataset, 'being_read', [])):
        runner.train()
    if was_preempted(runner) and is_main_process():
        if world_size() > 1:
            time.sleep(5)
        sys.exit(EXIT_STATUS)


def check(args: argparse.Namespace, make_config: Callable[[], Config]) -> None:
    """Build everything, train for some steps, tell time and memory, and leave nothing behind.

    Args:
        args (argparse.Namespace): As in :func:`build_runner`.
        make_config (Callable): Likewise.
    """
    with tempfile.TemporaryDirectory(prefix='cotap_check_') as folder, short_errors():
        missing = []

        def in_folder() -> Config:
            config = make_config()
            config.update(work_dir=folder, resume=False)
            if is_pretraining(config):
                check_config(config)
                missing.extend(stand_in_neighbors(config, folder))
            return config

        found = run_trial(build_runner(args, in_folder))
        if is_main_process():
            print(describe_trial(found, missing))


def is_restart() -> bool:
    """Whether ``torchrun`` or Slurm has started this training again."""
    return any(int(os.environ.get(name) or 0) > 0
               for name in ('TORCHELASTIC_RESTART_COUNT', 'SLURM_RESTART_COUNT'))








def start_processes(config: Config) -> None:
    """Connect the processes of one run, if there are several.

    This happens before the Runner is built, since neighbours are found once for all.
    MMEngine's launcher selects a CUDA device in each process and wraps the model for
    it; without a GPU the group is made here with gloo, and the wrapper told so. A
    collective that has no answer for ``env_cfg.dist_cfg.timeout`` seconds, or those of the
    environment variable ``COTAP_DIST_TIMEOUT``, ends the run.
    """
    launcher = config.get('launcher', 'none')
    if launcher == 'none':
        return
    options = dict(config.get('env_cfg', {}).get('dist_cfg', {}))
    options['timeout'] = timeout_of(options.get('timeout', 1800))
    if torch.cuda.is_available():
        place = meeting_place(options['timeout']) if launcher == 'pytorch' else {}
        init_dist(launcher, **options, **place)
        return
    if launcher != 'pytorch':
        raise ValueError(f'launcher {launcher!r} needs GPUs, and none is visible; use '
                         'tools/dist_train.sh to train on several CPU processes')
    choose_interface()
    dist.init_process_group('gloo', timeout=datetime.timedelta(seconds=options['timeout']),
                            **meeting_place(options['timeout']))
    config.model_wrapper_cfg = dict(type='MMDistributedDataParallel', device_ids=None,
                                    broadcast_buffers=False)
    if _replace_sync_bn(config.model):
        print_log('SyncBN needs GPUs; each CPU process normalises its own images with BN instead',
                  logger='current', level=logging.WARNING)


def _replace_sync_bn(part: Any) -> int:
    """Make every SyncBN of a model's config a BN; their number."""
    if isinstance(part, (list, tuple)):
        return sum(_replace_sync_bn(value) for value in part)
    if not isinstance(part, dict):
        return 0
    found = part.get('type') == 'SyncBN'
    if found:
        part['type'] = 'BN'
    return found + sum(_replace_sync_bn(value) for value in part.values())


def prepare(config: Config) -> None:
    """Find what is missing before training starts, and build what ``'auto'`` asks for.

    Args:
        config (Config): With ``work_dir`` set; changed in place.

    Raises:
        FileNotFoundError: If images or the init checkpoint cannot be had.
        ValueError: If there are too few images for one batch, or files do not fit.
    """
    if is_pretraining(config):
        check_config(config)
    choose_resume(config)
    if not is_pretraining(config):
        prepare_downstream(config)
        for backbone in find_backbones(config.model):
            _check_init(config, backbone)
        return
    if not (_check_init(config, config.model) or config.get('load_from')):
        print_log('training starts from random weights; CoTAP is a post-pretraining, and from '
                  'scratch it needs far more images and steps (--init names a checkpoint)',
                  logger='current', level=logging.WARNING)
    dataset = config.train_dataloader.dataset
    sizes = [len(build(DATASETS, dataset[name])) for name in ('patch', 'cls') if dataset.get(name)]
    world = world_size()
    batch = config.train_dataloader.batch_size
    if not isinstance(batch, int) or batch < 1:
        raise ValueError(f'train_dataloader.batch_size must be a number from 1 on, got {batch!r}')
    crops, patch = dataset.get('crops') or {}, config.model.backbone.get('patch_size', 16)
    for name in ('global_size', 'local_size'):
        if crops.get(name, patch) % patch:
            raise ValueError(
                f'train_dataloader.dataset.crops.{name}={crops[name]} must be a multiple of '
                f'model.backbone.patch_size={patch}, e.g. {max(crops[name] // patch, 1) * patch}')
    if max(sizes) < batch * world:
        raise ValueError(f'{max(sizes)} images do not fill one batch of {batch} on each of {world} '
                         'processes; add images, or lower it with --cfg-options '
                         f'train_dataloader.batch_size={max(max(sizes) // world, 1)}')
    if batch < 1 + config.model.get('pairs', {}).get('num_negatives', 5):
        print_log(f'with {batch} images a batch there are fewer negatives than the method ranks '
                  'against (num_negatives); a larger batch is better than accumulation',
                  logger='current', level=logging.WARNING)
    ensure_neighbors(config, config.work_dir)


def choose_resume(config: Config) -> None:
    """Where a run goes on that is to be resumed: from its newest checkpoint that is whole.

    Raises:
        ValueError: If there are checkpoints and all of them are damaged.
    """
    if not config.get('resume') or config.get('load_from'):
        return
    chosen = [newest_good_checkpoint(config.work_dir)] if is_main_process() else [None]
    broadcast_object_list(chosen)  # the others need not read it
    if chosen[0] is not None:
        config.load_from = str(chosen[0])
    elif numbered_checkpoints(config.work_dir):
        raise ValueError(f'all checkpoints in {config.work_dir} are damaged (see above); train in '
                         'another --work-dir, or without --resume')
    else:
        print_log(f'{config.work_dir} has no checkpoint; training starts from its beginning',
                  logger='current')
        config.resume = False


def _check_init(config: Config, part: dict) -> bool:
    """Read the weights that a model or backbone starts from; tell whether there are any.

    A run that goes on where it stopped does not need them, and they may be gone.
    """
    if config.get('resume'):
        part['init_cfg'] = None
        return True
    init = part.get('init_cfg')
    if not isinstance(init, dict) or 'PretrainedViT' not in str(init['type']):
        return False
    read_checkpoint(init['checkpoint'], init.get('trust', False))
    return True
