"""Write best and published checkpoints atomically, and keep training when the disk is full."""

from __future__ import annotations

import hashlib
import logging
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import torch
from mmengine.dist import is_main_process, master_only
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook
from mmengine.logging import print_log
from mmengine.runner import save_checkpoint
from mmengine.runner.checkpoint import _load_checkpoint

from cotap_mm.distributed.collectives import broadcast
from cotap_mm.files.atomic_write import atomic_write

from .non_finite_hook import settle_steps


class _NotSaved(Exception):
    """The best checkpoint could not be written; raised on all ranks."""


class BestCheckpointHook(CheckpointHook):
    """MMEngine's CheckpointHook with atomic writes of best and published checkpoints.

    MMEngine deletes the previous best checkpoint before it writes the new one, and a full disk
    aborts the training. Here the previous one is kept until the new one is complete. On storage
    other than a local disk, files are written by MMEngine's hook.
    """

    _postponed: Optional[tuple[int, dict[str, float]]] = None

    def before_train(self, runner) -> None:
        """Set up the folder; save the best checkpoint if a resumed run has just measured it."""
        super().before_train(runner)
        if self._postponed is not None:
            (step, scores), self._postponed = self._postponed, None
            self.save_best_of(runner, step, scores)

    def save_best_of(self, runner, step: int, scores: dict[str, float]) -> None:
        """Save a checkpoint if a score of :attr:`save_best` is better than all before.

        The first scores of a training, of its initial weights, are the ones to beat; nothing is
        saved for them.

        Args:
            runner (Runner): Between two iterations, or in a hook of an iteration.
            step (int): Number of completed iterations.
            scores (dict[str, float]): Name -> value; all ranks must pass the same.
        """
        if not self.save_best:
            return
        if 'auto' in self.key_indicators:
            self._init_rule(self.rules, [next(iter(scores))])
        if not set(self.key_indicators) <= set(scores):  # of another evaluation
            return
        if not step:
            for key in self.key_indicators:
                suffix = f'_{key}' if len(self.key_indicators) > 1 else ''
                runner.message_hub.update_info(f'best_score{suffix}', scores[key])
            return
        if not hasattr(self, 'file_backend'):  # a resumed run, before this hook is set up
            self._postponed = step, scores
            return
        loop = runner.train_loop
        before, loop._iter = loop._iter, step  # MMEngine expects it between two iterations
        try:
            self._save_best_checkpoint(runner, scores)
        finally:
            loop._iter = before

    def _is_local(self) -> bool:
        return isinstance(self.file_backend, LocalBackend) and self.file_client_args is None

    def _save_best_checkpoint(self, runner, metrics: dict) -> None:
        settle_steps(runner)
        if not self.save_best or not self._is_local():
            super()._save_best_checkpoint(runner, metrics)
            return
        info = runner.message_hub.runtime_info
        before = {key: value for key, value in info.items() if key.startswith('best_')}
        old = dict(self._best())
        for key in old:  # MMEngine would delete these files
            self._set_best(key, None)
        written: list[Path] = []
        plain_save = runner.save_checkpoint

        def save(out_dir: str, filename: str, **options: Any) -> None:
            if not filename.startswith('best_'):
                plain_save(out_dir, filename, **options)
                return
            written.append(Path(out_dir) / filename)
            problem = self._write_best(plain_save, written[-1], options)
            if problem is not None:
                raise _NotSaved(problem)

        runner.save_checkpoint = save
        try:
            super()._save_best_checkpoint(runner, metrics)
        except _NotSaved as error:
            for key in [key for key in info if key.startswith('best_')]:
                info.pop(key)
            info.update(before)
            for key, path in old.items():
                self._set_best(key, path)
            _remove(written, kept=old.values())
            print_log(
                f'{written[-1]} cannot be written: {error}. Training continues, and the previous '
                'best checkpoint is kept; free disk space',
                logger='current',
                level=logging.ERROR,
            )
        else:
            for key, path in old.items():
                if dict(self._best())[key] is None:
                    self._set_best(key, path)
            _remove(old.values(), kept=[path for _, path in self._best()])
        finally:
            del runner.save_checkpoint

    def _best(self) -> Iterator[tuple[str, str | None]]:
        """Yield each indicator ('' if it is the only one) and the path of its best checkpoint."""
        if len(self.key_indicators) == 1:
            yield '', self.best_ckpt_path
        else:
            yield from self.best_ckpt_path_dict.items()

    def _set_best(self, key: str, path: str | None) -> None:
        if key:
            self.best_ckpt_path_dict[key] = path
        else:
            self.best_ckpt_path = path

    @staticmethod
    def _write_best(plain_save: Any, path: Path, options: dict) -> str | None:
        """Write a checkpoint; return the error, the same on all ranks, or None."""
        problem = ''
        if is_main_process():
            try:
                with atomic_write(path) as partial:
                    plain_save(str(partial.parent), partial.name, **options)
            except OSError as error:
                problem = describe_error(error)
        else:
            plain_save(str(path.parent), path.name, **options)
        return error_on_all_ranks(problem) or None

    @master_only
    def _publish_model(self, runner, ckpt_path: str) -> None:
        if not self._is_local():
            super()._publish_model(runner, ckpt_path)
            return
        try:
            content = _load_checkpoint(ckpt_path, map_location='cpu')
            kept = {key: value for key, value in content.items() if key in self.published_keys}
            digest = hashlib.sha256(pickle.dumps(kept)).hexdigest()
            path = Path(ckpt_path).with_name(f'{Path(ckpt_path).stem}-{digest[:8]}.pth')
            with atomic_write(path) as partial:
                save_checkpoint(kept, str(partial))
        except OSError as error:
            print_log(
                f'{ckpt_path} cannot be published ({type(error).__name__}: {error}). The '
                'training is complete and its checkpoints are kept; free disk space and use '
                'cotap publish',
                logger='current',
                level=logging.ERROR,
            )
            return
        print_log(
            f'published {ckpt_path} as {path} with {", ".join(kept) or "no keys"}',
            logger='current',
        )


def describe_error(error: OSError) -> str:
    """Type and message of an error, for the log."""
    return f'{type(error).__name__}: {error}'


def error_on_all_ranks(error: str) -> str:
    """Broadcast an error of rank 0; every rank must call this.

    Args:
        error (str): Description of the error of this rank; only that of rank 0 counts.

    Returns:
        str: The description on rank 0, a general one on other ranks; '' if rank 0 had none.
    """
    failed = broadcast(torch.tensor(float(bool(error))))
    return (error or 'rank 0 could not write it') if failed else ''


def _remove(paths: Any, kept: Any) -> None:
    """Delete checkpoints on rank 0, except those to keep."""
    if not is_main_process():
        return
    kept = {str(path) for path in kept if path}
    for path in map(Path, filter(None, paths)):
        try:
            if str(path) in kept:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            print_log(
                f'{path} cannot be deleted ({error})', logger='current', level=logging.WARNING
            )
