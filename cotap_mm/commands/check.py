"""Proposal of a training with the options of ``cotap check``."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from typing import Callable

from mmengine.config import Config

from cotap_mm.command_line.config_file import load_config
from cotap_mm.command_line.tool import report_user_errors
from cotap_mm.datasets import open_images
from cotap_mm.engine.launch.config import is_pretraining
from cotap_mm.planning.capacity import find_capacities
from cotap_mm.planning.cost import crop_options
from cotap_mm.planning.devices import inspect_device
from cotap_mm.planning.findings import find_image_problems
from cotap_mm.planning.length import limit_hours
from cotap_mm.planning.measure import measure
from cotap_mm.planning.propose import CPU_CONFIG, GPU_CONFIG, propose
from cotap_mm.planning.report import as_dict, format_text
from cotap_mm.planning.survey import survey_images
from cotap_mm.progress import track

from .train import build_config


def run(args: argparse.Namespace, parse_train: Callable[[list[str]], argparse.Namespace]) -> None:
    """Look at images and machine, and print the proposal.

    Args:
        args (argparse.Namespace): Arguments of ``cotap check``.
        parse_train (callable): Parser of ``cotap train``.

    Raises:
        SystemExit: Status 1 if a training would refuse the images.
    """
    # What libraries log is not part of the report.
    with report_user_errors(), contextlib.redirect_stdout(sys.stderr):
        report = _check(args, parse_train)
    print(json.dumps(as_dict(*report), indent=2) if args.json else format_text(*report))
    if any(finding.level == 'error' for finding in report[1]):
        sys.exit(1)


def _check(
    args: argparse.Namespace, parse_train: Callable[[list[str]], argparse.Namespace]
) -> tuple:
    device = inspect_device(args.gpus)
    name = args.config or (GPU_CONFIG if device.kind == 'cuda' else CPU_CONFIG)
    config = load_config(name)
    if not is_pretraining(config):
        raise ValueError(
            f'--config {name} is for {config.default_scope}; give a config of configs/cotap'
        )
    source = open_images(args.images, args.ann_file, args.value_range or 'auto')
    survey = survey_images(
        source,
        args.images,
        args.sample,
        crop_options(config),
        lambda looking, total: track(looking, total, 'images'),
    )
    recipe, _ = propose(config, name, survey, device)
    if device.kind == 'cpu' and args.config is None:
        recipe.notes.insert(
            0,
            f'without a GPU, {name} tries everything out on a toy network in minutes; for features '
            f'that are of use, train {GPU_CONFIG} on a GPU (--config {GPU_CONFIG} shows how long '
            'that takes here)',
        )

    def words() -> list[str]:
        return recipe.arguments(args.images, args.ann_file, args.value_range)

    if args.measure:
        measure(recipe, config, lambda: parse_train(words()), _without_resume)
    if args.hours:
        limit_hours(recipe, config, args.hours)
    proposed = Config(config._cfg_dict.to_dict())
    proposed.merge_from_dict({**recipe.options, 'train_dataloader.batch_size': recipe.batch})
    recipe.capacities = find_capacities(proposed)
    findings = find_image_problems(survey, recipe.global_size)
    return survey, findings, device, recipe, recipe.command(words())


def _without_resume(args: argparse.Namespace) -> Config:
    args.resume = False
    return build_config(args)
