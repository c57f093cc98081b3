"""Result of a pre-training: its files and its logged values."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from mmengine.runner import Runner

from cotap_mm.encoders.encoder import Encoder
from cotap_mm.encoders.load import load
from cotap_mm.engine.hooks.before_after_hook import before_and_after
from cotap_mm.visualization.figures.training_curves import Curve, read_scalars

_LOG_FOLDER = re.compile(r'\d{8}_\d{6}')


@dataclass(frozen=True)
class PretrainedRun:
    """A finished pre-training.

    Attributes:
        work_dir (Path): Folder of the run.
        checkpoint (Path | None): Last checkpoint; input of :func:`cotap_mm.load`.
        best (Path | None): Best checkpoint, if the config evaluates and has ``save_best``.
        iterations (int): Completed iterations.
        metrics (dict[str, float]): Last logged value of each loss, monitor and score.
        history (dict): Name -> (iterations, values) of the run, including the parts before it
            was resumed.
        config (Path): The complete config.
        logs (list[Path]): Log files, oldest first.
        report (Path | None): HTML report, if one was requested.
        before_after (dict): Name of a monitor, loss or score -> its values for the initial weights
            and at the end, see :class:`~cotap_mm.engine.hooks.BeforeAfterHook`.
    """

    work_dir: Path
    checkpoint: Optional[Path]
    best: Optional[Path]
    iterations: int
    metrics: dict[str, float]
    history: dict[str, Curve] = field(repr=False)
    config: Path
    logs: list[Path] = field(repr=False)
    report: Optional[Path] = None
    before_after: dict[str, tuple[float, float]] = field(default_factory=dict)

    def load(self, **options: Any) -> Encoder:
        """Load the last checkpoint as an encoder.

        Args:
            **options: Further arguments of :func:`cotap_mm.load`, such as ``device``.

        Raises:
            FileNotFoundError: If the run has no checkpoint.
        """
        if self.checkpoint is None:
            raise FileNotFoundError(f'{self.work_dir} has no checkpoint')
        return load(self.checkpoint, **options)


def describe_run(runner: Runner) -> PretrainedRun:
    """Collect the results of a Runner that has trained.

    Args:
        runner (Runner): After its training.

    Returns:
        PretrainedRun: Without a report.
    """
    work_dir = Path(runner.work_dir)
    info = runner.message_hub.runtime_info
    folders = log_folders(work_dir)
    history = join_curves(
        [read_scalars(file) for folder in folders for file in folder.glob('vis_data/scalars.json')]
    )
    best = (str(value) for key, value in info.items() if key.startswith('best_ckpt') and value)
    return PretrainedRun(
        work_dir=work_dir,
        checkpoint=_existing(info.get('last_ckpt')),
        best=_existing(next(best, None)),
        iterations=runner.iter,
        metrics={name: values[-1] for name, (_, values) in history.items()},
        history=history,
        before_after=before_and_after(runner),
        config=work_dir / Path(runner.cfg.filename or f'{runner.timestamp}.py').name,
        logs=[file for folder in folders for file in sorted(folder.glob('*.log'))],
    )


def log_folders(work_dir: Path) -> list[Path]:
    """Log folders of the run in a work folder, oldest first, without those of earlier runs.

    Args:
        work_dir (Path): The work folder.
    """
    try:
        started = json.loads((work_dir / 'run.json').read_text(encoding='utf-8'))['started']
        first = re.sub(r'[-:]', '', started).replace(' ', '_')
    except (OSError, ValueError, KeyError, TypeError):
        first = ''
    return sorted(
        path
        for path in work_dir.iterdir()
        if _LOG_FOLDER.fullmatch(path.name) and path.name >= first
    )


def join_curves(parts: list[dict[str, Curve]]) -> dict[str, Curve]:
    """Join the curves of a run and of its continuations.

    Args:
        parts (list[dict]): Name -> (iterations, values), oldest first. Iterations that a later
            part repeats are taken from there.

    Returns:
        dict: Name -> (iterations, values).
    """
    joined: dict[str, Curve] = {}
    for part in parts:
        for name, (steps, values) in part.items():
            old = [pair for pair in zip(*joined.get(name, ([], []))) if pair[0] < steps[0]]
            pairs = [*old, *zip(steps, values)]
            joined[name] = [step for step, _ in pairs], [value for _, value in pairs]
    return joined


def _existing(path: Optional[str]) -> Optional[Path]:
    return Path(path) if path and Path(path).exists() else None
