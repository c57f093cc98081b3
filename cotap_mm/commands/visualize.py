"""Report of ``cotap visualize``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Optional

import torch

from cotap_mm.command_line.checkpoint_names import named_checkpoints
from cotap_mm.command_line.config_file import load_config
from cotap_mm.command_line.tool import report_user_errors
from cotap_mm.datasets import open_images
from cotap_mm.datasets.sources.files import BadImage
from cotap_mm.datasets.transforms import MultiCrop
from cotap_mm.encoders.load import load
from cotap_mm.engine.launch import config as run_config
from cotap_mm.evaluation import Encoder, ImageMaskFolder
from cotap_mm.files.overwrite import check_replaceable
from cotap_mm.registry import TRANSFORMS, build
from cotap_mm.visualization.errors import NotAvailable
from cotap_mm.visualization.report.html import is_report
from cotap_mm.visualization.report.inputs import ReportInputs, ReportOptions
from cotap_mm.visualization.report.kinds import make_report


def load_encoders(args: argparse.Namespace, checkpoints: dict[str, str]) -> dict[str, Encoder]:
    """Load all checkpoints as encoders."""
    options = dict(
        device=args.device,
        network=args.network,
        output=args.output,
        trust=args.trust,
        num_heads=args.num_heads,
    )
    torch.manual_seed(0)  # random weights are the same in every run
    return {name: load(checkpoint, **options) for name, checkpoint in checkpoints.items()}


def read_inputs(
    args: argparse.Namespace,
    checkpoints: dict[str, str],
    encoders: Optional[dict[str, Encoder]] = None,
) -> ReportInputs:
    """Open the images and load the checkpoints of the command line.

    Args:
        args (argparse.Namespace): Options of ``cotap visualize``.
        checkpoints (dict): Title -> checkpoint.
        encoders (dict, optional): Title -> encoder, if they are loaded already.
    """
    source = open_images(args.images, args.ann_file, args.value_range or 'auto')
    labels = ImageMaskFolder(args.images, args.labels) if args.labels else None
    options = ReportOptions(**{name: getattr(args, name) for name in ReportOptions._fields})
    return ReportInputs(encoders or load_encoders(args, checkpoints), source, labels, options)


def build_crop(config_file: Optional[str]) -> MultiCrop:
    """Build the crop transform of a training config, or the default one."""
    if not config_file:
        return MultiCrop()
    config = load_config(config_file, needs_model=False)
    if not run_config.is_pretraining(config):
        raise NotAvailable(f'{config_file} is not a pre-training config; use one of configs/cotap')
    crops = config.train_dataloader.dataset.get('crops', {})
    return build(TRANSFORMS, dict(crops, type='MultiCrop'))


def write_report(
    args: argparse.Namespace,
    checkpoints: dict[str, str],
    encoders: Optional[dict[str, Encoder]] = None,
) -> Path:
    """Write the report; see :func:`read_inputs` for the arguments.

    Returns:
        Path: ``report.html``.

    Raises:
        ValueError: If the folder has a report that another tool has written.
    """
    check_replaceable(
        Path(args.out) / 'report.html', is_report, 'a report of this tool', args.overwrite
    )
    report = make_report(
        read_inputs(args, checkpoints, encoders),
        checkpoints,
        args.kinds,
        make_crop=lambda: build_crop(args.config),
        command=getattr(args, 'command', ''),
        svg=args.svg,
    )
    return report.save(args.out)


def run(args: argparse.Namespace) -> None:
    """Make the report, and print its path."""
    with report_user_errors(BadImage):
        page = write_report(args, named_checkpoints(args.checkpoints))
    print(f'report: {page}')
