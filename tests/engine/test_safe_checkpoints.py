"""A crash leaves a whole checkpoint; a full disk does not end the training."""
import json
import multiprocessing
import os
import random
import signal
import time
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.runner import Runner

from cotap_mm.engine import SafeCheckpointHook, launch
from cotap_mm.engine.checkpoint_files import (
    damage,
    newest_good_checkpoint,
    remove_checkpoint,
    whole_checkpoint,
)
from cotap_mm.files import UNFINISHED

KILLS = int(os.environ.get('COTAP_KILLS', 20))  # make test-faults: 200


def content(step, size=1000):
    """What MMEngine resumes from."""
    return dict(meta=dict(iter=step, epoch=0), message_hub={},
                state_dict=dict(values=torch.full((size, ), float(step))))


def save(folder, step, size=1000):
    path = folder / f'iter_{step}.pth'
    with whole_checkpoint(path) as partial:
        torch.save(content(step, size), partial)
    return path


def flip_a_byte(path, place=0.5):
    data = bytearray(path.read_bytes())
    data[int(len(data) * place)] ^= 0xff
    path.write_bytes(bytes(data))


# ---- files -----------------------------------------------------------------------------------


def test_a_good_file_has_its_checksum(tmp_path):
    path = save(tmp_path, 3)
    assert damage(path) is None
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
    assert damage(path) is None
    for place in (0.3, 0.6):
        flip_a_byte(path, place)
        assert damage(path) is not None
        path = fresh()
    path.write_bytes(path.read_bytes()[:-100])
    assert damage(path) is not None
    path.write_bytes(b'')
    assert damage(path) is not None
    path.unlink()
    assert 'FileNotFoundError' in damage(path)


def test_replacing_a_checkpoint_leaves_either_good(tmp_path):
    path = save(tmp_path, 3)
    old = path.read_bytes()
    with pytest.raises(KeyboardInterrupt), whole_checkpoint(path) as partial:
        torch.save(content(3, 5), partial)
        raise KeyboardInterrupt
    assert damage(path) is None and path.read_bytes() == old
    save(tmp_path, 3, size=7)
    assert damage(path) is None
    path.write_bytes(old)  # as if the record had been written and the checkpoint not
    assert damage(path) is None


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
    hook = dict(type='cotap_mm.SafeCheckpointHook', by_epoch=False, interval=2, max_keep_ckpts=2,
                **options)
    return Runner(
        Line(), str(folder), train_dataloader=dict(
            batch_size=1, num_workers=0, sampler=dict(type='InfiniteSampler'),
            dataset=[dict(inputs=torch.zeros(1))] * 4),
        train_cfg=dict(by_epoch=False, max_iters=iters), default_hooks=dict(checkpoint=hook),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=1.)), log_level='WARNING',
        default_scope='cotap_mm',  # MMEngine's own would stay active in the tests that follow
        experiment_name=f'safe_{folder.name}_{random.random()}')


def names(folder):
    return sorted(path.name for path in folder.iterdir() if 'iter_' in path.name)


def test_the_newest_are_kept(tmp_path):
    tmp_path.joinpath(f'{UNFINISHED}7-iter_3.pth').write_bytes(b'of a run that was killed')
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
    monkeypatch.setattr('cotap_mm.engine.hooks.safe_checkpoint_hook.print_log',
                        lambda text, **options: said.append(text))

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
    runner = make_runner(tmp_path, iters=9, final_wait=0.)
    with pytest.raises(OSError, match='could not be written .* make room and resume'):
        runner.train()
    assert names(tmp_path)[::2] == ['iter_2.pth', 'iter_4.pth']
    assert damage(tmp_path / 'iter_4.pth') is None
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'iter_4.pth')


def test_the_end_waits_for_room(tmp_path, monkeypatch):
    tries = []

    def is_full(step):
        tries.append(step)
        return len(tries) in (2, 3)

    full_disk(monkeypatch, is_full)
    monkeypatch.setattr('cotap_mm.engine.hooks.safe_checkpoint_hook.time',
                        SimpleNamespace(monotonic=time.monotonic, sleep=lambda seconds: None))
    make_runner(tmp_path, iters=3, final_wait=60.).train()
    assert names(tmp_path)[::2] == ['iter_2.pth', 'iter_3.pth']
    saved = torch.load(tmp_path / 'iter_3.pth', weights_only=False)
    assert saved['meta']['iter'] == 3 and saved['state_dict']['weight'] == -3


def test_bad_interval():
    with pytest.raises(ValueError, match='retry_interval must be at least 1, got 0'):
        SafeCheckpointHook(retry_interval=0)


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
    assert damage(tmp_path / 'iter_8.pth') is None  # trained again


def test_the_record_is_plain_json(tmp_path):
    make_runner(tmp_path, iters=2).train()
    record = json.loads((tmp_path / 'iter_2.pth.json').read_text())
    assert record['good'][0]['bytes'] == (tmp_path / 'iter_2.pth').stat().st_size
