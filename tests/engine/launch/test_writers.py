"""A full, read-only or missing disk loses log records, but never the training."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from unittest import mock

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.visualization import Visualizer

from cotap_mm.engine.hooks.atomic_checkpoint_hook import LastCheckpointLost
from cotap_mm.engine.launch import writers
from cotap_mm.engine.launch.writers import Outage, check_work_dir, guard_writers
from cotap_mm.errors import UserError
from cotap_mm.files import atomic_write as files
from cotap_mm.files.atomic_write import atomic_append
from cotap_mm.registry import HOOKS
from tests.engine.resume.test_exact_resume import assert_same, saved
from tests.helpers import resume_work


def backends():
    """New backends, since MMEngine stores the folder in them."""
    return [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]


def test_partial_line_is_removed(tmp_path, monkeypatch):
    path = tmp_path / 'folder' / 'log'
    atomic_append(path, 'one\n')
    write = os.write
    monkeypatch.setattr(files.os, 'write', lambda handle, data: write(handle, data[:2]))
    with pytest.raises(OSError, match='No space left on device'):
        atomic_append(path, 'two\n')
    monkeypatch.undo()
    atomic_append(path, 'caf\udce9\n')
    assert path.read_text() == 'one\ncaf\\udce9\n'


@pytest.fixture
def messages(monkeypatch):
    lines = []
    monkeypatch.setattr(writers, 'print_log', lambda text, **_: lines.append(text))
    return lines


def test_outage_is_reported_twice_and_counted(messages):
    outage = Outage('scalars')
    for works in (True, False, False, False, True, False):
        with outage.survived():
            if not works:
                raise PermissionError(errno.EROFS, 'Read-only file system')
    outage.finish()
    assert len(messages) == 4 and 'scalars cannot be written (' in messages[0]
    assert messages[1] == 'scalars can be written again; 3 records were lost'
    assert 'the last 1 records' in messages[3]


@pytest.mark.parametrize(
    'number', [errno.ENOSPC, errno.EROFS, errno.ENOENT, errno.EIO, errno.EDQUOT]
)
def test_logs_and_scalars_survive_an_outage(tmp_path, monkeypatch, messages, number):
    name = f'writers_{tmp_path.name}'
    logger = MMLogger.get_instance(name, log_file=str(tmp_path / 'run.log'), file_mode='a')
    visualizer = Visualizer(
        name, vis_backends=[dict(type='LocalVisBackend')], save_dir=str(tmp_path)
    )
    guard_writers(logger, visualizer)

    def note(step):
        logger.info(f'step {step}')
        visualizer.add_scalars(dict(loss=1.5), step=step, file_path='own.json')

    def fails(*arguments):
        raise OSError(number, os.strerror(number))

    note(1)
    monkeypatch.setattr(writers, 'atomic_append', fails)
    note(2)
    note(3)
    monkeypatch.setattr(writers, 'atomic_append', atomic_append)
    note(4)
    for path in (tmp_path / 'vis_data' / 'scalars.json', tmp_path / 'vis_data' / 'own.json'):
        assert [json.loads(line)['step'] for line in path.read_text().splitlines()] == [1, 4]
    lines = (tmp_path / 'run.log').read_text().splitlines()
    assert [line[-6:] for line in lines] == ['step 1', 'step 4']
    assert sum('cannot be written' in text for text in messages) == 2
    assert sum('2 records were lost' in text for text in messages) == 2


def test_deleted_folder_is_created_again(tmp_path, messages):
    name = f'vanishing_{tmp_path.name}'
    logger = MMLogger.get_instance(name, log_file=str(tmp_path / 'run.log'), file_mode='a')
    visualizer = Visualizer(name, vis_backends=backends(), save_dir=str(tmp_path / 'run'))
    guard_writers(logger, visualizer)
    visualizer.add_scalar('loss', 1.0, step=1)
    shutil.rmtree(tmp_path)
    logger.info('after')
    visualizer.add_scalar('loss', 1.0, step=2)
    assert 'after' in (tmp_path / 'run.log').read_text()
    assert json.loads((tmp_path / 'run/vis_data/scalars.json').read_text())['step'] == 2
    visualizer.close()


def test_tensorboard_continues_in_a_new_file(tmp_path, messages):
    """Its writer thread dies at the first error."""
    visualizer = Visualizer('board', vis_backends=backends()[1:], save_dir=str(tmp_path))
    guard_writers(MMLogger.get_instance(f'board_{tmp_path.name}'), visualizer)
    backend = visualizer.get_backend('TensorboardVisBackend')
    visualizer.add_scalar('loss', 1.0, step=1)
    dead = backend.experiment
    error = OSError(errno.ENOSPC, 'No space left on device')
    with (
        mock.patch.object(dead, 'add_scalar', side_effect=error),
        mock.patch.object(writers, 'check_folder', side_effect=error),
    ):
        visualizer.add_scalar('loss', 1.0, step=2)
        visualizer.add_scalar('loss', 1.0, step=3)
        assert backend.experiment is dead
    visualizer.add_scalar('loss', 1.0, step=4)
    assert backend.experiment is not dead
    visualizer.close()
    assert len(messages) == 2 and '2 records were lost' in messages[1]
    assert len(list(tmp_path.rglob('events.out.tfevents*'))) == 2


@pytest.mark.parametrize('kind', ['below a file', 'a file'])
def test_invalid_work_folder(tmp_path, kind):
    (tmp_path / 'file').write_text('')
    path = tmp_path / 'file' / 'run' if kind == 'below a file' else tmp_path / 'file'
    with pytest.raises(UserError, match='the work folder .* --work-dir'):
        check_work_dir(path)
    check_work_dir(tmp_path / 'new' / 'run')
    assert list((tmp_path / 'new' / 'run').iterdir()) == []


# ---- a whole training ------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch):
    """Skip formatting of the config, which takes most of the start-up time."""
    monkeypatch.setattr(Config, 'pretty_text', property(lambda self: repr(self._cfg_dict)))


@HOOKS.register_module(force=True)
class DiskHook(Hook):
    """Call functions before an iteration."""

    act = {}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.act.get(runner.iter, lambda: None)()


def train(folder, iters=8, disk=(), **options):
    DiskHook.act = dict(disk)
    return resume_work.train(
        folder,
        iters,
        checkpoint_interval=3,
        hooks=[dict(type='cotap_mm.DiskHook')],
        vis_backends=backends(),
        visualizer=dict(type='mmengine.Visualizer', vis_backends=backends()),
        **options,
    )


@pytest.mark.slow
def test_training_on_a_failing_disk(tmp_path, monkeypatch, quick):
    """From iteration 4 to 6 nothing can be written; the save of iteration 6 is retried."""
    is_full = []

    def guarded(function):
        def call(*arguments, **options):
            if is_full:
                raise OSError(errno.ENOSPC, 'No space left on device')
            return function(*arguments, **options)

        return call

    for module, name in (
        (writers, 'atomic_append'),
        (writers, 'check_folder'),
        (files.os, 'fsync'),
    ):
        monkeypatch.setattr(module, name, guarded(getattr(module, name)))
    train(
        tmp_path / 'full',
        disk={4: lambda: is_full.append(1), 6: is_full.clear},
        **{'default_hooks.checkpoint.retry_interval': 1},
    )
    train(tmp_path / 'whole')
    assert sorted(path.name for path in (tmp_path / 'full').glob('*.pth')) == [
        'iter_3.pth',
        'iter_7.pth',
        'iter_8.pth',
    ]
    assert_same(saved(tmp_path / 'full', 8), saved(tmp_path / 'whole', 8))
    steps = [
        json.loads(line)['step']
        for path in (tmp_path / 'full').glob('*/vis_data/scalars.json')
        for line in path.read_text().splitlines()
    ]
    assert steps == [1, 2, 3, 4, 7, 8]


@pytest.fixture
def small_disk(tmp_path):
    """Mount a disk of 8 MB; return functions that fill and free it."""
    import subprocess

    folder = tmp_path / 'disk'
    folder.mkdir()
    done = (
        subprocess.run(
            ['mount', '-t', 'tmpfs', '-o', 'size=8m', 'none', str(folder)],
            capture_output=True,
            text=True,
        )
        if shutil.which('mount')
        else None
    )
    if done is None or done.returncode:
        pytest.skip(f'no disk can be mounted: {done and done.stderr.strip()}')

    def fill():
        with open(folder / 'filler', 'wb', buffering=0) as file:
            while True:
                try:
                    if file.write(bytes(4096)) < 4096:
                        return
                except OSError:
                    return

    yield folder, fill, lambda: (folder / 'filler').unlink()
    subprocess.run(['umount', '-l', str(folder)], check=False)


@pytest.mark.slow
def test_disk_that_is_really_full(tmp_path, small_disk, quick):
    """Fill the disk after the first checkpoint until the end; kill, free space, and resume."""
    disk, fill, free = small_disk
    train(tmp_path / 'whole')
    with pytest.raises(LastCheckpointLost, match='iter_3.pth, and --resume continues'):
        train(disk / 'run', disk={4: fill}, **{'default_hooks.checkpoint.final_wait': 0.0})
    free()
    train(disk / 'run', resume=True, kill_at=4, disk={3: fill})
    free()
    train(disk / 'run', resume=True)
    assert_same(saved(disk / 'run', 8), saved(tmp_path / 'whole', 8))
    assert not list((disk / 'run').glob('unfinished-*'))


def test_bundle_of_a_diverged_training(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, 'save', mock.Mock(side_effect=RuntimeError('unexpected pos 64')))
    hook = HOOKS.build(dict(type='NonFiniteHook'))
    runner = mock.Mock(iter=3, work_dir=str(tmp_path))
    step = mock.Mock(iteration=4, data_batch={})
    assert 'could not be written (unexpected pos 64)' in hook._save_bundle(runner, step, [])
    assert list(Path(tmp_path).iterdir()) == []
