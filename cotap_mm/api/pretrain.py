"""Pre-training as a function of Python, with the code of ``cotap train``."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional, Union

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.runner import Runner

from cotap_mm.cli.train import build_parser
from cotap_mm.command_line.choices import LOGS
from cotap_mm.commands.train import build_config
from cotap_mm.engine.hooks import last_checkpoint
from cotap_mm.engine.launch.commands import train_command
from cotap_mm.progress import is_interactive

from .instances import own_instances
from .messages import raised_in_python
from .progress_hook import ProgressHook
from .run import PretrainedRun, describe_run
from .run_report import draw_report

#: Options of ``cotap train`` whose argument has another name.
RENAMED = {'work-dir': 'out', 'cfg-options': 'options'}
#: Arguments that set a key of the config.
_KEYS = {
    'iterations': 'train_cfg.max_iters',
    'batch_size': 'train_dataloader.batch_size',
    'num_workers': 'train_dataloader.num_workers',
}
_FEWEST_LOGS = 10


def pretrain(
    images: Union[str, Path],
    out: Union[str, Path],
    *,
    init: Optional[Union[str, Path]] = None,
    config: Union[str, Path] = 'vits_folder',
    iterations: Optional[int] = None,
    batch_size: Optional[int] = None,
    num_workers: Optional[int] = None,
    patch_size: Optional[int] = None,
    trainable_blocks: Optional[int] = None,
    lora: Optional[int] = None,
    seed: Optional[int] = None,
    amp: bool = False,
    auto_scale_lr: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    force: bool = False,
    cls_images: Optional[Union[str, Path]] = None,
    ann_file: Optional[Union[str, Path]] = None,
    cls_ann_file: Optional[Union[str, Path]] = None,
    neighbors: Optional[Union[str, Path]] = None,
    cls_neighbors: Optional[Union[str, Path]] = None,
    value_range: Optional[Sequence[float]] = None,
    trust: bool = False,
    launcher: str = 'none',
    log: Optional[Union[str, Sequence[str]]] = None,
    options: Optional[Mapping[str, Any]] = None,
    report: bool = False,
    progress: Optional[bool] = None,
) -> PretrainedRun:
    """Pre-train a vision transformer on images without labels, as ``cotap train`` does.

    ::

        run = cotap_mm.pretrain('photos', 'runs/a', init='dino_vits16', iterations=2000)
        print(run.metrics['loss'], run.checkpoint)
        cls, patches = run.load().encode('photo.jpg')

    It trains in this process, on the GPU if there is one, and has no counterpart of ``--gpus``. To
    use several GPUs, run a script that calls this function with ``launcher='pytorch'`` by
    ``torchrun --nproc_per_node N``, or use ``cotap train --gpus N``.

    Interrupting it (Ctrl-C, or the kernel of a notebook) raises a KeyboardInterrupt that says
    what is saved; the same call with ``resume=True`` continues. It can be called several times
    in one process.

    Args:
        images (str | Path): Folder of images (read recursively), text list, COCO json, packed
            file ``*.lmdb``, tar shards, or their URI.
        out (str | Path): Work folder for checkpoints and logs.
        init (str | Path, optional): Initial weights: a file, a URL, a name such as
            ``'dino_vits16'``, or ``'none'`` for random weights. Defaults to those of the config.
        config (str | Path): Name of a shipped config, or a config file. Defaults to
            ``'vits_folder'``, ViT-S/16 on one GPU with 8 GB.
        iterations (int, optional): Length of the training. Defaults to that of the config.
        batch_size (int, optional): Images per step and process. Defaults to that of the config.
        num_workers (int, optional): Data loader workers per process.
        patch_size (int, optional): Resize the patch embedding of ``init`` to this patch size in
            pixels. Defaults to that of the checkpoint.
        trainable_blocks (int, optional): Train only the last blocks, with filter and heads.
            Defaults to all.
        lora (int, optional): Freeze the network except for ``trainable_blocks``, and train updates
            of this rank. Defaults to none.
        seed (int, optional): Random seed.
        amp (bool): Use mixed precision even if the config does not. Defaults to False.
        auto_scale_lr (bool): Scale the learning rate with the images per step. Defaults to False.
        resume (bool): Continue from the last checkpoint in ``out``. Defaults to False.
        overwrite (bool): Start a new run in a folder with checkpoints of another run. Defaults
            to False.
        force (bool): Train even if another process has locked ``out``. Defaults to False.
        cls_images (str | Path, optional): Images of the CLS branch. Defaults to ``images``.
        ann_file (str | Path, optional): Text list or COCO json of the images in ``images``.
        cls_ann_file (str | Path, optional): The same for ``cls_images``.
        neighbors (str | Path, optional): Neighbor file of ``images``; built if not given.
        cls_neighbors (str | Path, optional): Neighbor file of ``cls_images``.
        value_range (sequence, optional): (low, high) of images with more than 8 bits. Defaults
            to None, estimated from the images.
        trust (bool): Unpickle ``init`` without restrictions, which can run code. Defaults to
            False.
        launcher (str): ``'pytorch'`` or ``'slurm'`` if one has started several processes.
            Defaults to ``'none'``.
        log (str | sequence, optional): Where to log metrics besides ``scalars.json``, as ``--log``:
            any of ``'tensorboard'``, ``'wandb'`` and ``'mlflow'``, or only ``'none'``. Defaults
            to None: TensorBoard if it is installed.
        options (Mapping, optional): Further keys of the config, e.g.
            ``{'optim_wrapper.optimizer.lr': 1e-5}``.
        report (bool): Draw features before and after the training on some of the images into
            ``out/report``. Defaults to False.
        progress (bool, optional): Show iterations, time left and loss, and log only to the file.
            Defaults to None: in a notebook and on a terminal. False logs to stdout as
            ``cotap train``.

    Returns:
        PretrainedRun: Checkpoints, logs and logged values.

    Raises:
        FileNotFoundError: If images, config or initial weights do not exist.
        ValueError: If an argument or the config is wrong, or ``out`` has another run.
        UserError: If the training has to stop: a full disk, too many unreadable images, a
            diverged loss, a locked folder.
        KeyboardInterrupt: If it was interrupted, with how to continue.
    """
    keys = dict(iterations=iterations, batch_size=batch_size, num_workers=num_workers)
    parser = build_parser()
    args = parser.defaults(
        config=str(config),
        images=_text(images),
        cls_images=_text(cls_images),
        ann_file=_text(ann_file),
        cls_ann_file=_text(cls_ann_file),
        neighbors=_text(neighbors),
        cls_neighbors=_text(cls_neighbors),
        value_range=None if value_range is None else list(value_range),
        init=_text(init),
        trust=trust,
        patch_size=patch_size,
        trainable_blocks=trainable_blocks,
        lora=lora,
        resume=resume,
        overwrite=overwrite,
        force=force,
        amp=amp,
        auto_scale_lr=auto_scale_lr,
        seed=seed,
        work_dir=_text(out),
        launcher=launcher,
        log=_log_names(log),
        cfg_options=_merged(options, keys),
    )
    shows_line = is_interactive() if progress is None else progress
    hook = ProgressHook()
    configs: list[Config] = []
    runners: list[Runner] = []

    def make_config() -> Config:
        _wait_for_a_new_second(Path(args.work_dir))
        run_config = build_config(args)
        configs.append(copy.deepcopy(run_config))
        if 'default_hooks.logger.interval' not in args.cfg_options:
            _log_often_enough(run_config)
        if shows_line:
            run_config.log_level = 'WARNING'
        return run_config

    def prepare(runner: Runner) -> None:
        runners.append(runner)
        if shows_line:
            hook.write_log(runner, configs[-1].get('log_level', 'INFO'))
            runner.register_hook(hook)

    with raised_in_python(parser, RENAMED), own_instances():
        try:
            train_command(args, make_config, prepare)
        except KeyboardInterrupt as interrupt:
            if interrupt.args:  # they say what is saved
                raise
            saved = last_checkpoint(runners[0]) if runners else 'Nothing had to be saved'
            raise KeyboardInterrupt(saved) from None
        finally:
            hook.close()
        run = describe_run(runners.pop())
    if report and is_main_process():
        start = (configs[-1].model.get('init_cfg') or {}).get('checkpoint')
        run = replace(run, report=draw_report(run, args, start, trust))
    return run


def _text(path: Optional[Union[str, Path]]) -> Optional[str]:
    return None if path is None else str(path)


def _log_names(log: Optional[Union[str, Sequence[str]]]) -> Optional[list[str]]:
    """Check what the parser checks on the command line."""
    if log is None:
        return None
    names = [log] if isinstance(log, str) else list(log)
    if not names or set(names).difference(LOGS) or ('none' in names and set(names) != {'none'}):
        given = ', '.join(map(repr, names)) or 'no name'
        raise ValueError(f"log must be 'none' or any of {', '.join(LOGS[:-1])}, got {given}")
    return names


def _merged(options: Optional[Mapping[str, Any]], keys: dict[str, Any]) -> dict[str, Any]:
    """Join ``options`` with the keys that have an argument of their own."""
    merged = dict(options or {})
    for name, value in keys.items():
        key = _KEYS[name]
        if value is None:
            continue
        if key in merged:
            raise ValueError(
                f'{name}={value!r} and options[{key!r}]={merged[key]!r} set the same key; '
                'give one of them'
            )
        merged[key] = value
    return merged


def _log_often_enough(config: Config) -> None:
    """Log at least ten times in a short training, whose metrics would be missing otherwise."""
    logger = config.get('default_hooks', {}).get('logger')
    most = max(1, config.train_cfg.max_iters // _FEWEST_LOGS)
    if isinstance(logger, dict) and logger.get('interval', 10) > most:
        logger['interval'] = most


def _wait_for_a_new_second(work_dir: Path) -> None:
    """Wait while the log folder, whose name has seconds, is that of an earlier run."""
    while (work_dir / time.strftime('%Y%m%d_%H%M%S')).exists():
        time.sleep(0.05)
