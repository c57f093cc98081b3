"""A crash leaves a whole checkpoint; a full disk does not end the training."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner

from cotap_mm.engine import AtomicCheckpointHook
from cotap_mm.engine.launch import runner as launch
from cotap_mm.engine.resume.checkpoints import (
    atomic_checkpoint,
    checkpoint_error,
    newest_good_checkpoint,
    remove_checkpoint,
)
from cotap_mm.files.atomic_write import UNFINISHED
from cotap_mm.files.temporary import partial_path

KILLS = int(os.environ.get('COTAP_KILLS', 20))  # make test-faults: 200


def content(step, size=1000):
    """What MMEngine resumes from."""
    return dict(
        meta=dict(iter=step, epoch=0),
        message_hub={},
        state_dict=dict(values=torch.full((size,), float(step))),
    )


def save(folder, step, size=1000):
    path = folder / f'iter_{step}.pth'
    with atomic_checkpoint(path) as partial:
        torch.save(content(step, size), partial)
    return path


def flip_a_byte(path, place=0.5):
    data = bytearray(path.read_bytes())
    data[int(len(data) * place)] ^= 0xFF
    path.write_bytes(bytes(data))


# ---- files -----------------------------------------------------------------------------------


def test_a_good_file_has_its_checksum(tmp_path):
    path = save(tmp_path, 3)
    assert checkpoint_error(path) is None
    assert sorted(file.name for file in tmp_path.iterdir()) == ['iter_3.pth', 'iter_3.pth.json']
    remove_checkpoint(path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('with_record', [True, False])
def test_damaged_files_are_known(tmp_path, with_record):
    def fresh():
        path = save(tmp_path, 3)
        if not with_record:
            (tmp_path / 'iter_3.pth.json').unlink()
        return path

    path = fresh()
    assert checkpoint_error(path) is None
    for place in (0.3, 0.6):
        flip_a_byte(path, place)
        assert checkpoint_error(path) is not None
        path = fresh()
    path.write_bytes(path.read_bytes()[:-100])
    assert checkpoint_error(path) is not None
    path.write_bytes(b'')
    assert checkpoint_error(path) is not None
    path.unlink()
    assert 'FileNotFoundError' in checkpoint_error(path)


def test_replacing_a_checkpoint_leaves_either_good(tmp_path):
    path = save(tmp_path, 3)
    old = path.read_bytes()
    with pytest.raises(KeyboardInterrupt), atomic_checkpoint(path) as partial:
        torch.save(content(3, 5), partial)
        raise KeyboardInterrupt
    assert checkpoint_error(path) is None and path.read_bytes() == old
    save(tmp_path, 3, size=7)
    assert checkpoint_error(path) is None
    path.write_bytes(old)  # as if the record had been written and the checkpoint not
    assert checkpoint_error(path) is None


def test_the_newest_good_one(tmp_path):
    for step in (8, 9, 10):
        save(tmp_path, step)
    torch.save({}, tmp_path / f'{UNFINISHED}1-iter_11.pth')
    torch.save({}, tmp_path / 'best_mIoU_iter_12.pth')
    assert newest_good_checkpoint(tmp_path).name == 'iter_10.pth'
    flip_a_byte(tmp_path / 'iter_10.pth')
    assert newest_good_checkpoint(tmp_path).name == 'iter_9.pth'
    (tmp_path / 'iter_9.pth').write_bytes(b'torn')
    (tmp_path / 'iter_8.pth.json').write_text('{"good": [')  # the archive's own sums are used
    assert newest_good_checkpoint(tmp_path).name == 'iter_8.pth'
    assert newest_good_checkpoint(tmp_path / 'nothing') is None


def test_the_last_written_one_and_not_the_largest(tmp_path):
    """Clocks are set back, and copies lose times: only the records count."""
    for step in (40, 5, 12):
        os.utime(save(tmp_path, step), (10**9 - step,) * 2)
    assert newest_good_checkpoint(tmp_path).name == 'iter_12.pth'
    save(tmp_path, 5)  # again, in a run that was resumed from an earlier one
    assert newest_good_checkpoint(tmp_path).name == 'iter_5.pth'
    # Killed between the record of a checkpoint and its name, with an older file of that name.
    old = (tmp_path / 'iter_40.pth').read_bytes()
    save(tmp_path, 40, size=7)
    assert newest_good_checkpoint(tmp_path).name == 'iter_40.pth'
    (tmp_path / 'iter_40.pth').write_bytes(old)
    assert newest_good_checkpoint(tmp_path).name == 'iter_5.pth'
    for name in ('iter_5.pth', 'iter_12.pth'):
        (tmp_path / name).unlink()
    assert newest_good_checkpoint(tmp_path).name == 'iter_40.pth'


def test_a_record_that_is_lost(tmp_path):
    for step in (4, 6, 8):
        save(tmp_path, step)
    (tmp_path / 'iter_6.pth.json').unlink()
    assert newest_good_checkpoint(tmp_path).name == 'iter_8.pth'
    (tmp_path / 'last_checkpoint').write_text('iter_8.pth')
    (tmp_path / 'iter_8.pth').unlink()
    assert newest_good_checkpoint(tmp_path).name == 'iter_6.pth'
    (tmp_path / 'last_checkpoint').write_text('iter_4.pth')  # iter_6 is of who knows whom
    assert newest_good_checkpoint(tmp_path).name == 'iter_4.pth'


def test_the_last_one_by_plain_mmengine(tmp_path):
    for step in (9, 10, 12, 40):
        torch.save(content(step), tmp_path / f'iter_{step}.pth')
    for text, expected in (
        ('/moved/iter_12.pth', 'iter_12.pth'),
        ('C:\\w\\iter_9.pth\n', 'iter_9.pth'),
        ('iter_40.pth', 'iter_40.pth'),
        ('iter_11.pth', 'iter_10.pth'),
        ('', 'iter_40.pth'),
        ('\0\xff', 'iter_40.pth'),
    ):
        (tmp_path / 'last_checkpoint').write_text(text)
        assert newest_good_checkpoint(tmp_path).name == expected, text
    (tmp_path / 'last_checkpoint').write_text('iter_12.pth')
    flip_a_byte(tmp_path / 'iter_12.pth')
    assert newest_good_checkpoint(tmp_path).name == 'iter_10.pth'


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), 'w')


def bad_candidates(folder):
    """Files by the name of a checkpoint that a training cannot resume from."""
    fired = folder / 'fired'
    whole = content(1)
    code = f'open({str(fired)!r}, "w")'
    bad = [
        dict(whole, meta=dict(iter=1, epoch=0, config=code)),
        Bomb(fired),
        [],
        {},
        None,
        dict(whole, extra=Bomb(fired)),
        *(
            dict(whole, meta=dict(iter=value, epoch=0))
            for value in ('x', -1, True, None, torch.ones(1))
        ),
        *({key: value for key, value in whole.items() if key != name} for name in whole),
        dict(whole, meta=[]),
        dict(whole, state_dict=3),
    ]
    for step, each in enumerate(bad, 20):
        torch.save(each, folder / f'iter_{step}.pth')
    torch.save(whole, folder / 'iter_50.pth', _use_new_zipfile_serialization=False)
    (folder / 'iter_51.pth').symlink_to('gone')
    (folder / 'iter_52.pth').symlink_to('iter_52.pth')
    (folder / 'iter_53.pth').mkdir()
    os.mkfifo(folder / 'iter_54.pth')
    (folder / 'iter_55.pth').write_bytes(b'')
    # By other names, for other things.
    for name in (
        'non_finite_iter_60_rank_0.pth',
        'best_iter_61.pth',
        'my_iter_62.pth',
        'iter_63.pth.bak',
        'iter_6_4.pth',
        'iter_.pth',
        'iter_-65.pth',
        'iter_٦٦.pth',
    ):
        torch.save(whole, folder / name)


def test_other_files_are_not_candidates(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(
        'cotap_mm.engine.resume.checkpoints.print_log', lambda text, **_: said.append(text)
    )
    save(tmp_path, 3)
    bad_candidates(tmp_path)
    assert newest_good_checkpoint(tmp_path).name == 'iter_3.pth'
    (tmp_path / 'iter_3.pth').unlink()
    said.clear()
    assert newest_good_checkpoint(tmp_path) is None
    assert not (tmp_path / 'fired').exists()
    assert len(said) == len(list(tmp_path.glob('iter_[2-5]?.pth')))
    assert all('\n' not in text and 'it is skipped' in text for text in said)


def test_any_change_of_a_record(tmp_path):
    """Never an error; the file itself is whole, and an older one is not taken for a newer."""
    for step in (2, 4):
        save(tmp_path, step)
    (tmp_path / 'last_checkpoint').write_text('iter_4.pth')
    old = tmp_path / 'iter_2.pth.json'
    record = old.read_bytes()
    for place in range(len(record)):
        data = bytearray(record)
        data[place] ^= 1 << place % 8
        old.write_bytes(bytes(data))
        assert newest_good_checkpoint(tmp_path).name == 'iter_4.pth', bytes(data)
    entry = json.loads(record)['good'][0]
    for bad in (
        'null',
        '3',
        '[]',
        '{"good": 3}',
        '{"good": {}}',
        '{"good": [3]}',
        '{"good": [{}]}',
        json.dumps(dict(good=[dict(entry, bytes=str(entry['bytes']))])),
        json.dumps(dict(good=[dict(entry, written=None)])),
        json.dumps(dict(good=[dict(entry, written=1e400)])),
        '[' * 10_000,
        '9' * 5000,
    ):
        old.write_text(bad)
        assert newest_good_checkpoint(tmp_path).name == 'iter_4.pth', bad
        assert checkpoint_error(tmp_path / 'iter_2.pth') is None
    save(tmp_path, 6)  # numbering goes on beside a damaged record
    assert newest_good_checkpoint(tmp_path).name == 'iter_6.pth'


# ---- kills -----------------------------------------------------------------------------------


def keep_saving(folder, pipe):
    """Two checkpoints are kept, as by the hook; tells when each is done."""
    torch.set_num_threads(1)
    for step in range(1, 10**6):
        save(folder, step, size=30_000)
        remove_checkpoint(folder / f'iter_{step - 2}.pth')
        pipe.send(step)


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')
def test_killed_at_any_moment(tmp_path):
    context, draw = multiprocessing.get_context('fork'), random.Random(0)
    caught_writing = 0
    for kill in range(KILLS):
        folder = tmp_path / str(kill)
        folder.mkdir()
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=keep_saving, args=(folder, sender))
        process.start()
        done = receiver.recv()  # the first is there
        time.sleep(draw.uniform(0, 0.03))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        sender.close()
        try:
            while receiver.poll():
                done = receiver.recv()
        except (EOFError, OSError):
            pass
        found = newest_good_checkpoint(folder)
        saved = torch.load(found, weights_only=True)
        step = saved['meta']['iter']
        assert found.name == f'iter_{step}.pth'
        assert step in (done, done + 1) and saved['state_dict']['values'].unique() == step
        caught_writing += any(path.name.startswith(UNFINISHED) for path in folder.iterdir())
    print(f'{KILLS} kills, {caught_writing} of them while a file was being written')
    assert caught_writing > 0, 'no kill hit the writing, so nothing was tested'


# ---- the hook --------------------------------------------------------------------------------


class Line(BaseModel):
    """One weight, moved by one at each step."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, inputs, mode='loss'):
        return dict(loss=self.weight.sum())


def make_runner(folder, iters=10, **options):
    hook = dict(
        type='cotap_mm.AtomicCheckpointHook',
        by_epoch=False,
        interval=2,
        max_keep_ckpts=2,
        **options,
    )
    return Runner(
        Line(),
        str(folder),
        train_dataloader=dict(
            batch_size=1,
            num_workers=0,
            sampler=dict(type='InfiniteSampler'),
            dataset=[dict(inputs=torch.zeros(1))] * 4,
        ),
        train_cfg=dict(by_epoch=False, max_iters=iters),
        default_hooks=dict(checkpoint=hook),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=1.0)),
        log_level='WARNING',
        default_scope='cotap_mm',  # MMEngine's own would stay active in the tests that follow
        experiment_name=f'safe_{folder.name}_{random.random()}',
    )


def names(folder):
    return sorted(path.name for path in folder.iterdir() if 'iter_' in path.name)


def test_the_newest_are_kept(tmp_path):
    tmp_path.joinpath(f'{UNFINISHED}{10**9}-iter_3.pth').write_bytes(b'of a run that was killed')
    make_runner(tmp_path).train()
    assert names(tmp_path) == ['iter_10.pth', 'iter_10.pth.json', 'iter_8.pth', 'iter_8.pth.json']
    saved = torch.load(tmp_path / 'iter_10.pth', weights_only=False)
    assert saved['message_hub']['runtime_info']['keep_ckpt_ids'] == [8, 10]
    assert saved['state_dict']['weight'] == -10 and saved['meta']['iter'] == 10
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'iter_10.pth')


def full_disk(monkeypatch, is_full):
    """Writing fails half-way while ``is_full()``."""
    save_checkpoint = Runner.save_checkpoint

    def fails(self, out_dir, filename, *args, **options):
        save_checkpoint(self, out_dir, filename, *args, **options)
        if is_full(self.iter + 1):
            with open(os.path.join(out_dir, filename), 'rb+') as file:
                file.truncate(100)
            raise OSError(28, 'No space left on device')

    monkeypatch.setattr(Runner, 'save_checkpoint', fails)


def test_a_full_disk_does_not_end_the_training(tmp_path, monkeypatch):
    tried, said = [], []
    monkeypatch.setattr(
        'cotap_mm.engine.hooks.atomic_checkpoint_hook.print_log',
        lambda text, **options: said.append(text),
    )

    def is_full(step):
        tried.append(step)
        return 6 <= step < 9

    full_disk(monkeypatch, is_full)
    make_runner(tmp_path, iters=13, retry_interval=1).train()
    assert tried == [2, 4, 6, 7, 8, 9, 10, 12, 13]
    assert names(tmp_path)[::2] == ['iter_12.pth', 'iter_13.pth']
    assert len(said) == 3 and 'No space left on device' in said[0]
    assert 'tries again in 1 iterations' in said[0]


def test_what_was_saved_before_stays_while_the_disk_is_full(tmp_path, monkeypatch):
    full_disk(monkeypatch, lambda step: step >= 6)
    runner = make_runner(tmp_path, iters=9, final_wait=0.0)
    with pytest.raises(OSError, match='could not be written .* make room and use --resume'):
        runner.train()
    assert names(tmp_path)[::2] == ['iter_2.pth', 'iter_4.pth']
    assert checkpoint_error(tmp_path / 'iter_4.pth') is None
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'iter_4.pth')


def test_the_end_waits_for_room(tmp_path, monkeypatch):
    tries = []

    def is_full(step):
        tries.append(step)
        return len(tries) in (2, 3)

    full_disk(monkeypatch, is_full)
    clock = iter(range(1000))  # seconds
    monkeypatch.setattr(
        'cotap_mm.engine.hooks.atomic_checkpoint_hook.time',
        SimpleNamespace(monotonic=lambda: next(clock), sleep=lambda seconds: None),
    )
    make_runner(tmp_path, iters=3, final_wait=60.0).train()
    assert names(tmp_path)[::2] == ['iter_2.pth', 'iter_3.pth']
    saved = torch.load(tmp_path / 'iter_3.pth', weights_only=False)
    assert saved['meta']['iter'] == 3 and saved['state_dict']['weight'] == -3


def test_a_checkpoint_that_cannot_be_deleted_does_not_end_the_training(tmp_path, monkeypatch):
    said, unlink = [], Path.unlink
    monkeypatch.setattr(
        'cotap_mm.engine.hooks.atomic_checkpoint_hook.print_log',
        lambda text, **options: said.append(text),
    )

    def fails(path, *args, **options):
        if path.name == 'iter_2.pth':
            raise OSError(30, 'Read-only file system', str(path))
        unlink(path, *args, **options)

    monkeypatch.setattr(Path, 'unlink', fails)
    make_runner(tmp_path, iters=8).train()
    assert names(tmp_path)[::2] == ['iter_2.pth', 'iter_6.pth', 'iter_8.pth']
    assert len(said) == 1 and 'iter_2.pth is outdated and cannot be deleted' in said[0]


def test_the_end_saves_what_there_is_then(tmp_path, monkeypatch):
    """Under its own number, and not under that of the save which failed."""
    full_disk(monkeypatch, lambda step: step == 4)
    monkeypatch.setattr('cotap_mm.engine.hooks.atomic_checkpoint_hook._POLL', 0.01)
    make_runner(tmp_path, iters=5, save_last=False, final_wait=60.0).train()
    assert names(tmp_path)[::2] == ['iter_2.pth', 'iter_5.pth']
    saved = torch.load(tmp_path / 'iter_5.pth', weights_only=False)
    assert saved['meta']['iter'] == 5 and saved['state_dict']['weight'] == -5


def test_a_folder_that_is_deleted_during_the_last_save(tmp_path, monkeypatch):
    write = AtomicCheckpointHook._write

    def deleted(self, runner, path, meta):
        outcome = write(self, runner, path, meta)
        if path.name == 'iter_4.pth' and not (tmp_path / 'deleted').exists():
            shutil.rmtree(tmp_path / 'run')
            (tmp_path / 'deleted').touch()
        return outcome

    monkeypatch.setattr(AtomicCheckpointHook, '_write', deleted)
    make_runner(tmp_path / 'run', iters=4).train()
    assert names(tmp_path / 'run') == ['iter_4.pth', 'iter_4.pth.json']
    assert checkpoint_error(tmp_path / 'run' / 'iter_4.pth') is None


def test_bad_interval():
    with pytest.raises(ValueError, match='retry_interval must be at least 1, got 0'):
        AtomicCheckpointHook(retry_interval=0)


# ---- resuming --------------------------------------------------------------------------------


def resumed(folder, **options):
    config = Config(dict(dict(work_dir=str(folder), resume=True), **options))
    launch.choose_resume(config)
    return config


def test_resume_passes_over_what_is_damaged(tmp_path):
    for step in (2, 4):
        save(tmp_path, step)
    assert resumed(tmp_path).load_from == str(tmp_path / 'iter_4.pth')
    flip_a_byte(tmp_path / 'iter_4.pth')
    assert resumed(tmp_path).load_from == str(tmp_path / 'iter_2.pth')
    assert resumed(tmp_path, load_from='mine.pth').load_from == 'mine.pth'
    assert resumed(tmp_path / 'new').resume is False
    flip_a_byte(tmp_path / 'iter_2.pth')
    with pytest.raises(ValueError, match='all checkpoints in .* are damaged'):
        resumed(tmp_path)


def test_a_run_goes_on_from_the_good_one(tmp_path):
    make_runner(tmp_path, iters=8).train()
    flip_a_byte(tmp_path / 'iter_8.pth')
    config = resumed(tmp_path)
    runner = make_runner(tmp_path, iters=10)
    runner._resume, runner._load_from = config.resume, config.load_from
    runner.train()
    assert runner.model.weight.item() == -10
    assert names(tmp_path)[::2] == ['iter_10.pth', 'iter_8.pth']
    assert checkpoint_error(tmp_path / 'iter_8.pth') is None  # trained again


def test_the_record_is_plain_json(tmp_path):
    make_runner(tmp_path, iters=2).train()
    record = json.loads((tmp_path / 'iter_2.pth.json').read_text())
    assert record['good'][0]['bytes'] == (tmp_path / 'iter_2.pth').stat().st_size


def test_unfinished_files_of_this_run_go_at_its_end(tmp_path, monkeypatch):
    """A disk in trouble may have kept one from being deleted."""

    class Leave(Hook):
        def after_train_iter(self, runner, *args, **kwargs):
            partial_path(tmp_path / 'iter_2.pth').write_bytes(b'half')

    runner = make_runner(tmp_path, iters=3)
    runner.register_hook(Leave())
    runner.train()
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(UNFINISHED)]
