"""Show the progress of a training, and the rest only in the log file."""

from __future__ import annotations

import logging
from typing import Any, Optional

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from cotap_mm.command_line.tool import describe_environment
from cotap_mm.progress import Progress


class ProgressHook(Hook):
    """Show iterations, time left and loss.

    Build the Runner with ``log_level='WARNING'``, so that the log does not interrupt it;
    :meth:`write_log` then lets the log file have everything that follows.
    """

    priority = 'VERY_LOW'  # after the loss is in the message hub

    def __init__(self) -> None:
        self._progress: Optional[Progress] = None

    @staticmethod
    def write_log(runner: Runner, level: str = 'INFO') -> None:
        """Write messages of a level to the log file of a run, but not to the screen.

        Args:
            runner (Runner): Its logger is changed, and its config gets that level.
            level (str): Level of the file. Defaults to ``'INFO'``.
        """
        for handler in runner.logger.handlers:
            if isinstance(handler, logging.FileHandler):
                handler.setLevel(level)
        runner.logger.info(f'environment: {describe_environment()}')
        runner.cfg.log_level = level
        if is_main_process():
            runner.dump_config()

    def before_train(self, runner: Runner) -> None:
        """Start, at the iteration of a resumed run."""
        self._progress = Progress(runner.max_iters, 'training', runner.iter, show=True)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Optional[dict] = None
    ) -> None:
        """Advance."""
        if self._progress is not None:
            note = None
            if self._progress.is_due:
                losses = runner.message_hub.log_scalars.get('train/loss')
                note = None if losses is None else f'loss {losses.current():.3f}'
            self._progress.update(note=note)

    def after_train(self, runner: Runner) -> None:
        """Show the last state."""
        self.close()

    def close(self) -> None:
        """Show the last state, also after an error."""
        if self._progress is not None:
            self._progress.close()
