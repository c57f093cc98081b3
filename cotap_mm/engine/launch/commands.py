"""Commands of ``cotap train`` and ``cotap test``."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from typing import Callable, Optional

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.runner import FlexibleRunner, Runner

from cotap_mm import signals
from cotap_mm.command_line.tool import is_script, report_user_errors
from cotap_mm.datasets.loader_watch import report_dead_worker
from cotap_mm.datasets.sources.protocol import ImageSource
from cotap_mm.datasets.workers import keep_workers
from cotap_mm.engine.resume.work_folder import note_folder
from cotap_mm.evaluation.batches import progress_bars

from .dry_run import describe_dry_run, dry_run, placeholder_neighbors
from .next_steps import describe_next_steps
from .runner import build_runner, train
from .stops import explained_stops, short_until_first_step
from .testing import require_all_weights, test
from .writers import check_work_dir


def train_command(
    args: argparse.Namespace,
    make_config: Callable[[], Config],
    on_built: Callable[[Runner | FlexibleRunner], None] = lambda runner: None,
    before_build: Callable[[Config], None] = lambda config: None,
) -> None:
    """Build a Runner and train, or make a dry run; report errors in one line.

    Signals are handled throughout, see :mod:`cotap_mm.signals`. A command, which is all that its
    process does, prints at its end what to do with the result.

    Args:
        args (argparse.Namespace): Arguments of :func:`.build_runner`, ``dry_run``, and optionally
            ``resume_command`` for messages.
        make_config (callable): Makes the config.
        on_built (callable): Called with the Runner before it trains, e.g. to register a hook.
        before_build (callable): Called with the complete config in a dry run, before the model is
            built.

    Raises:
        UserError: Where the user has to act.
        Stopped: After a signal, with status 75, or 130 after Ctrl-C.
    """

    def writable_config() -> Config:
        config = make_config()
        note_folder(config)
        check_work_dir(config.work_dir)
        return config

    keep_workers(True)
    try:
        with (
            signals.listening(signals.TRAINING_SIGNALS, to_the_end=is_script()),
            explained_stops(),
        ):
            if args.dry_run:
                _dry_run_command(args, make_config, before_build)
            else:
                runner = build_runner(args, writable_config, claims=True)
                runner.resume_command = getattr(args, 'resume_command', '')
                on_built(runner)
                with short_until_first_step(runner, args.cfg_options), progress_bars():
                    train(runner)
                is_told = is_script() and is_main_process()
                text = describe_next_steps(runner, args.config) if is_told else ''
                if text:
                    print(text, flush=True)
    finally:
        keep_workers(False)


def _dry_run_command(
    args: argparse.Namespace,
    make_config: Callable[[], Config],
    before_build: Callable[[Config], None],
) -> None:
    """Build everything, train a few steps, print time and memory, and write nothing."""
    with tempfile.TemporaryDirectory(prefix='cotap_check_') as folder, report_user_errors():
        missing: list[str] = []

        def in_folder() -> Config:
            config = make_config()
            config.update(work_dir=folder, resume=False)
            return config

        def set_neighbors(config: Config, sources: Mapping[str, ImageSource]) -> None:
            missing.extend(placeholder_neighbors(config, sources))

        runner = build_runner(
            args, in_folder, before_build=before_build, set_neighbors=set_neighbors
        )
        result = dry_run(runner)
        if is_main_process():
            print(describe_dry_run(result, missing))


def test_command(
    args: argparse.Namespace, make_config: Callable[[], Config], out: Optional[str] = None
) -> None:
    """Build a Runner and test with the checkpoint of the config.

    Args:
        args (argparse.Namespace): Arguments of :func:`.build_runner`.
        make_config (callable): Makes the config.
        out (str, optional): Where predictions are saved, see :func:`.test`.

    Raises:
        SystemExit: If the checkpoint does not fit the model, or data are missing.
    """
    runner = build_runner(args, make_config)
    with short_until_first_step(runner):
        require_all_weights(runner)
        with report_dead_worker(lambda: getattr(runner.test_dataloader.dataset, 'being_read', [])):
            test(runner, out)
