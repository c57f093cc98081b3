"""Pictures of the features before and after a pre-training."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Optional

from cotap_mm.encoders.choose import usable_device
from cotap_mm.encoders.encoder import Encoder
from cotap_mm.encoders.load import load

from .run import PretrainedRun
from .visualize import visualize

FOLDER = 'report'


def draw_report(
    run: PretrainedRun, args: argparse.Namespace, init: Optional[str], trust: bool = False
) -> Optional[Path]:
    """Draw a report of a run into its work folder.

    A report that cannot be drawn is a warning, since the training is complete.

    Args:
        run (PretrainedRun): The run.
        args (argparse.Namespace): With ``images``, ``ann_file`` and ``value_range``.
        init (str, optional): Initial weights, shown as they were before.
        trust (bool): Unpickle them without restrictions. Defaults to False.

    Returns:
        Path: ``report.html``; None if it cannot be drawn.
    """
    try:
        device = usable_device()
        after = run.load(device=device)
        networks: dict[str, Encoder] = {'after': after}
        if init:
            heads = after.network.layers[0].attn.num_heads  # type: ignore[attr-defined]
            before = load(init, device=device, num_heads=heads, trust=trust)
            networks = {'before': before, **networks}
        return visualize(
            networks,
            args.images,
            run.work_dir / FOLDER,
            ann_file=args.ann_file,
            value_range=args.value_range,
        )
    except Exception as error:
        warnings.warn(
            f'the training is complete, but its report cannot be drawn ({type(error).__name__}: '
            f'{error})',
            stacklevel=3,
        )
        return None
