"""Checkpoint files: records, damaged files, the newest valid file, kills while saving."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time

import pytest
import torch

from cotap_mm.engine.resume.checkpoints import (
    atomic_checkpoint,
    checkpoint_error,
    newest_good_checkpoint,
    remove_checkpoint,
)
from cotap_mm.files.atomic_write import UNFINISHED
from tests.helpers.saved_checkpoints import content, flip_a_byte, resumed, save

KILLS = int(os.environ.get('COTAP_KILLS', 20))  # make test-faults: 200


def test_valid_file_matches_its_checksum(tmp_path):
    path = save(tmp_path, 3)
    assert checkpoint_error(path) is None
    assert sorted(file.name for file in tmp_path.iterdir()) == ['iter_3.pth', 'iter_3.pth.json']
    remove_checkpoint(path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('with_record', [True, False])
def test_damaged_files_are_detected(tmp_path, with_record):
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


def test_either_file_is_valid_while_one_is_replaced(tmp_path):
    path = save(tmp_path, 3)
    old = path.read_bytes()
    with pytest.raises(KeyboardInterrupt), atomic_checkpoint(path) as partial:
        torch.save(content(3, 5), partial)
        raise KeyboardInterrupt
    assert checkpoint_error(path) is None and path.read_bytes() == old
    save(tmp_path, 3, size=7)
    assert checkpoint_error(path) is None
    path.write_bytes(old)  # as if only the record had been written
    assert checkpoint_error(path) is None


def test_newest_valid_checkpoint(tmp_path):
    for step in (8, 9, 10):
        save(tmp_path, step)
    torch.save({}, tmp_path / f'{UNFINISHED}1-iter_11.pth')
    torch.save({}, tmp_path / 'best_mIoU_iter_12.pth')
    assert newest_good_checkpoint(tmp_path).name == 'iter_10.pth'
    flip_a_byte(tmp_path / 'iter_10.pth')
    assert newest_good_checkpoint(tmp_path).name == 'iter_9.pth'
    (tmp_path / 'iter_9.pth').write_bytes(b'truncated')
    (tmp_path / 'iter_8.pth.json').write_text('{"good": [')  # the checksums of the archive are used
    assert newest_good_checkpoint(tmp_path).name == 'iter_8.pth'
    assert newest_good_checkpoint(tmp_path / 'nothing') is None


def test_last_written_checkpoint_wins_over_the_largest_step(tmp_path):
    """Only records count, since clocks may be set back and copies may lose times."""
    for step in (40, 5, 12):
        os.utime(save(tmp_path, step), (10**9 - step,) * 2)
    assert newest_good_checkpoint(tmp_path).name == 'iter_12.pth'
    save(tmp_path, 5)  # again, in a run resumed from an earlier checkpoint
    assert newest_good_checkpoint(tmp_path).name == 'iter_5.pth'
    # Killed between writing the record and renaming the checkpoint; an older file has its name.
    old = (tmp_path / 'iter_40.pth').read_bytes()
    save(tmp_path, 40, size=7)
    assert newest_good_checkpoint(tmp_path).name == 'iter_40.pth'
    (tmp_path / 'iter_40.pth').write_bytes(old)
    assert newest_good_checkpoint(tmp_path).name == 'iter_5.pth'
    for name in ('iter_5.pth', 'iter_12.pth'):
        (tmp_path / name).unlink()
    assert newest_good_checkpoint(tmp_path).name == 'iter_40.pth'


def test_lost_record(tmp_path):
    for step in (4, 6, 8):
        save(tmp_path, step)
    (tmp_path / 'iter_6.pth.json').unlink()
    assert newest_good_checkpoint(tmp_path).name == 'iter_8.pth'
    (tmp_path / 'last_checkpoint').write_text('iter_8.pth')
    (tmp_path / 'iter_8.pth').unlink()
    assert newest_good_checkpoint(tmp_path).name == 'iter_6.pth'
    (tmp_path / 'last_checkpoint').write_text('iter_4.pth')  # the run of iter_6 is unknown
    assert newest_good_checkpoint(tmp_path).name == 'iter_4.pth'


def test_last_checkpoint_of_plain_mmengine(tmp_path):
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
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), 'w')


def bad_candidates(folder):
    """Write files with names of checkpoints from which a training cannot resume."""
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
    # Files with other names.
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
    messages = []
    monkeypatch.setattr(
        'cotap_mm.engine.resume.checkpoints.print_log', lambda text, **_: messages.append(text)
    )
    save(tmp_path, 3)
    bad_candidates(tmp_path)
    assert newest_good_checkpoint(tmp_path).name == 'iter_3.pth'
    (tmp_path / 'iter_3.pth').unlink()
    messages.clear()
    assert newest_good_checkpoint(tmp_path) is None
    assert not (tmp_path / 'fired').exists()
    assert len(messages) == len(list(tmp_path.glob('iter_[2-5]?.pth')))
    assert all('\n' not in text and 'it is skipped' in text for text in messages)


def test_any_changed_byte_of_a_record(tmp_path):
    """No error: the checkpoint itself is valid, and is not taken for a newer one."""
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
    save(tmp_path, 6)  # numbering continues despite a damaged record
    assert newest_good_checkpoint(tmp_path).name == 'iter_6.pth'


def test_resume_skips_damaged_checkpoints(tmp_path):
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


def keep_saving(folder, pipe):
    """Save and keep two checkpoints, as the hook does; report each completed save."""
    torch.set_num_threads(1)
    for step in range(1, 10**6):
        save(folder, step, size=30_000)
        remove_checkpoint(folder / f'iter_{step - 2}.pth')
        pipe.send(step)


@pytest.mark.slow
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
        done = receiver.recv()  # the first checkpoint exists
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
    assert caught_writing > 0, 'no kill occurred during a write, so nothing was tested'
