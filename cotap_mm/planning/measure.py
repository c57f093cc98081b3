"""Measure a proposed training with a few steps."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable

from mmengine.config import Config

from cotap_mm.engine.launch.dry_run import dry_run, placeholder_neighbors
from cotap_mm.engine.launch.runner import build_runner

from .length import set_length
from .recipe import Recipe


def measure(
    recipe: Recipe,
    config: Config,
    make_args: Callable[[], argparse.Namespace],
    make_config: Callable[[argparse.Namespace], Config],
) -> None:
    """Train a few steps on one device with random weights, and write nothing.

    Args:
        recipe (Recipe): Its memory and seconds are replaced by measured ones. If a step runs out
            of memory, its batch is halved and its accumulation doubled.
        config (Config): Config that it was proposed for.
        make_args (callable): Returns the parsed arguments of ``cotap train`` for ``recipe`` as it
            is then.
        make_config (callable): Makes the config of a training from these arguments.

    Raises:
        ValueError: If even one image runs out of memory.
        SystemExit: If the training cannot be built.
    """
    while True:
        try:
            result = _dry_run(make_args(), make_config)
            break
        except ValueError as error:
            if 'out of GPU memory' not in str(error) or recipe.batch == 1:
                raise
            _halve(recipe, config)
    recipe.memory = result['memory']
    recipe.seconds = (result['seconds'], result['seconds'])
    recipe.is_measured = True
    if result['waiting'] > 0.2 * result['seconds']:
        recipe.notes.append(
            f'{result["waiting"] / result["seconds"]:.0%} of a step is waiting for images: more '
            'or faster cores, smaller files, or cotap pack would help'
        )


def _dry_run(
    args: argparse.Namespace, make_config: Callable[[argparse.Namespace], Config]
) -> dict[str, float]:
    args.launcher = 'none'
    with tempfile.TemporaryDirectory(prefix='cotap_check_') as folder:
        args.work_dir = folder

        def in_folder() -> Config:
            config = make_config(args)
            config.update(work_dir=folder, resume=False)
            config.model.init_cfg = None  # takes as long, and needs no download
            return config

        return dry_run(build_runner(args, in_folder, set_neighbors=placeholder_neighbors))


def _halve(recipe: Recipe, config: Config) -> None:
    before = recipe.batch
    recipe.batch = before // 2
    recipe.accumulation *= 2
    recipe.options.update(
        {
            'train_dataloader.batch_size': recipe.batch,
            'optim_wrapper.accumulative_counts': recipe.accumulation,
        }
    )
    set_length(recipe, config, 2 * recipe.iterations)
    recipe.notes.append(f'a batch of {before} runs out of memory; {recipe.batch} accumulated')
