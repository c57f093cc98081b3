"""Two runs in one work folder, consecutive and concurrent."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal

import pytest
import torch
from mmengine.config import Config

from cotap_mm.engine.resume import work_folder
from cotap_mm.engine.resume.choice import choose_resume
from cotap_mm.engine.resume.work_folder import claim_folder, release_folder
from cotap_mm.files.locks import Locked, acquire_lock
from tests.helpers.saved_checkpoints import content, save


@pytest.fixture(autouse=True)
def no_job(monkeypatch):
    for name in (
        'TORCHELASTIC_RESTART_COUNT',
        'TORCHELASTIC_RUN_ID',
        'TORCHELASTIC_ERROR_FILE',
        'SLURM_RESTART_COUNT',
        'SLURM_JOB_ID',
    ):
        monkeypatch.delenv(name, raising=False)
    yield
    release_folder()


def claimed(folder, resume=False, **options):
    """Claim the folder as tools/train.py does; return the checkpoint to start from."""
    config = Config(dict(work_dir=str(folder), resume=resume))
    try:
        claim_folder(config, **options)
        choose_resume(config)
    finally:
        release_folder()
    return os.path.basename(config.load_from) if config.resume else None


def test_used_folder_is_rejected_unless_overwritten(tmp_path):
    assert claimed(tmp_path) is None
    for step in (30, 40):
        save(tmp_path, step)
    with pytest.raises(
        ValueError,
        match=r'contains checkpoints of another run \(iter_40.pth\). Pass '
        '--resume .* --work-dir .* or --overwrite',
    ):
        claimed(tmp_path)
    assert claimed(tmp_path, resume=True) == 'iter_40.pth'
    assert claimed(tmp_path, overwrite=True) is None
    # Killed before its first save: it starts over, and not from a checkpoint of the old run.
    assert claimed(tmp_path, resume=True) is None
    for step in (5, 30):  # one has the name of an old checkpoint
        save(tmp_path, step)
        assert claimed(tmp_path, resume=True) == f'iter_{step}.pth'
    (tmp_path / 'iter_30.pth').write_bytes(b'truncated')
    assert claimed(tmp_path, resume=True) == 'iter_5.pth'
    (tmp_path / 'iter_5.pth').write_bytes(b'truncated')
    with pytest.raises(ValueError, match='all checkpoints in .* are damaged'):
        claimed(tmp_path, resume=True)
    assert (tmp_path / 'iter_40.pth').is_file()


def test_old_checkpoints_without_records(tmp_path):
    """Such as those of MMEngine's own hook in downstream trainings."""
    torch.save(content(40), tmp_path / 'epoch_40.pth')
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_40.pth'))
    assert claimed(tmp_path, overwrite=True) is None
    assert claimed(tmp_path, resume=True) is None
    torch.save(content(2), tmp_path / 'epoch_2.pth')
    (tmp_path / 'last_checkpoint').write_text('/elsewhere/epoch_2.pth')
    assert claimed(tmp_path, resume=True) == 'epoch_2.pth'
    torch.save(content(41), tmp_path / 'epoch_40.pth')
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_40.pth'))
    assert claimed(tmp_path, resume=True) == 'epoch_40.pth'


@pytest.mark.parametrize(
    'launcher, first, again, other',
    [
        (
            'SLURM',
            dict(SLURM_JOB_ID='7'),
            dict(SLURM_JOB_ID='7', SLURM_RESTART_COUNT='1'),
            dict(SLURM_JOB_ID='8', SLURM_RESTART_COUNT='1'),
        ),
        (
            'TORCHELASTIC',
            dict(TORCHELASTIC_RUN_ID='none', TORCHELASTIC_ERROR_FILE='/t/a/attempt_0/0/e'),
            dict(
                TORCHELASTIC_RUN_ID='none',
                TORCHELASTIC_ERROR_FILE='/t/a/attempt_1/0/e',
                TORCHELASTIC_RESTART_COUNT='1',
            ),
            dict(
                TORCHELASTIC_RUN_ID='none',
                TORCHELASTIC_ERROR_FILE='/t/b/attempt_1/0/e',
                TORCHELASTIC_RESTART_COUNT='1',
            ),
        ),
    ],
)
def test_restarts_resume_the_run_of_their_job(tmp_path, monkeypatch, launcher, first, again, other):
    def start(variables, **options):
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            return claimed(tmp_path, **options)

    assert start(first) is None
    save(tmp_path, 4)
    assert start(again) == 'iter_4.pth'
    # Another job whose first attempt was rejected is rejected again.
    for variables in (dict(other, **{f'{launcher}_RESTART_COUNT': '0'}), other):
        with pytest.raises(ValueError, match='contains checkpoints of another run'):
            start(variables)
    assert start(other, resume=True) == 'iter_4.pth'
    assert start(first, overwrite=True) is None
    assert start(again, overwrite=True) is None
    save(tmp_path, 2)
    assert start(again, overwrite=True) == 'iter_2.pth'


def test_restarts_of_a_run_that_started_from_another_file(tmp_path, monkeypatch):
    """The first attempt started from ``load_from`` of the config, or set with --resume."""

    def start(resume):
        config = Config(dict(work_dir=str(tmp_path / 'run'), resume=resume, load_from='other.pth'))
        claim_folder(config)
        choose_resume(config)
        release_folder()
        return config.resume, os.path.basename(config.load_from)

    monkeypatch.setenv('SLURM_JOB_ID', '7')
    assert start(False) == (False, 'other.pth') and start(True) == (True, 'other.pth')
    monkeypatch.setenv('SLURM_RESTART_COUNT', '1')
    assert start(False) == (False, 'other.pth') and start(True) == (True, 'other.pth')
    save(tmp_path / 'run', 2)
    assert start(False) == start(True) == (True, 'iter_2.pth')
    monkeypatch.delenv('SLURM_RESTART_COUNT')
    assert start(True) == (True, 'other.pth')


@pytest.mark.parametrize('launcher', ['slurm', 'torchrun'])
def test_restarts_of_a_run_that_went_back_to_an_older_checkpoint(tmp_path, monkeypatch, launcher):
    """They use the older checkpoint, too, until they have saved one."""

    def start(load_from='iter_10.pth'):
        config = Config(
            dict(
                work_dir=str(tmp_path),
                resume=True,
                load_from=load_from and str(tmp_path / load_from),
            )
        )
        claim_folder(config)
        choose_resume(config)
        release_folder()
        return os.path.basename(config.load_from)

    name = dict(slurm='SLURM_RESTART_COUNT', torchrun='TORCHELASTIC_RESTART_COUNT')[launcher]
    monkeypatch.setenv(
        *dict(slurm=('SLURM_JOB_ID', '7'), torchrun=('TORCHELASTIC_RUN_ID', 'none'))[launcher]
    )
    for step in (10, 20, 30):
        save(tmp_path, step)
    assert start() == 'iter_10.pth'
    monkeypatch.setenv(name, '1')
    assert start() == start() == 'iter_10.pth'
    save(tmp_path, 20)  # replaces the skipped checkpoint
    assert start() == 'iter_20.pth'
    monkeypatch.setenv(name, '0')
    assert start() == 'iter_10.pth'  # its user sets it again
    monkeypatch.setenv(name, '1')
    assert start() == 'iter_10.pth'
    assert start('iter_30.pth') == 'iter_30.pth'  # the first attempt died before it was recorded
    assert start(None) == 'iter_20.pth'
    monkeypatch.setenv(name, '0')
    assert start(None) == 'iter_20.pth'  # without load_from


def test_chosen_file_must_be_a_training_checkpoint(tmp_path):
    """MMEngine would execute meta['config'] as code."""
    torch.save(dict(content(3), meta=dict(iter=3, epoch=0, config='1 / 0')), tmp_path / 'mine.pth')
    config = Config(dict(work_dir=str(tmp_path), resume=True, load_from=str(tmp_path / 'mine.pth')))
    with pytest.raises(ValueError, match='mine.pth contains a config that MMEngine would execute'):
        choose_resume(config)


def test_checkpoints_in_another_folder_or_with_another_name(tmp_path):
    hook = dict(out_dir=str(tmp_path / 'out'), filename_tmpl='step-{}.pth')
    config = Config(dict(work_dir=str(tmp_path / 'run'), default_hooks=dict(checkpoint=hook)))
    (tmp_path / 'out' / 'run').mkdir(parents=True)
    torch.save(content(3), tmp_path / 'out' / 'run' / 'step-3.pth')
    with pytest.raises(ValueError, match='contains checkpoints of another run'):
        claim_folder(config)
    config.resume = True
    choose_resume(config)
    assert config.load_from == str(tmp_path / 'out' / 'run' / 'step-3.pth')


def hold(folder, pipe):
    lock = acquire_lock(folder / '.lock', 'training', '')
    pipe.send(os.getpid())
    pipe.recv()
    del lock


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')
def test_concurrent_trainings(tmp_path, monkeypatch):
    context = multiprocessing.get_context('fork')
    ours, theirs = context.Pipe()
    process = context.Process(target=hold, args=(tmp_path, theirs))
    process.start()
    pid = ours.recv()
    for resume in (False, True):
        with pytest.raises(
            Locked,
            match=rf'is in use by process {pid} on .* \(training, since .*'
            'wait until it finishes, set another --work-dir, or pass --force',
        ):
            claimed(tmp_path, resume=resume)
    messages = []
    monkeypatch.setattr(work_folder, 'print_log', lambda text, **_: messages.append(text))
    assert claimed(tmp_path, force=True) is None
    assert str(pid) in messages[0]
    os.kill(pid, signal.SIGKILL)
    process.join()
    assert claimed(tmp_path) is None
    assert not (tmp_path / '.lock').exists()


def test_folders_that_are_not_writable(tmp_path):
    (tmp_path / 'file').write_text('')
    for folder in (tmp_path / 'file', tmp_path / 'file' / 'run'):
        with pytest.raises(ValueError, match='cannot write to the work folder .* set another'):
            claimed(folder)


@pytest.mark.parametrize(
    'text',
    [
        '',
        '{',
        '[1]',
        '{"earlier_checkpoints": 3, "jobs": "x"}',
        '{"earlier_checkpoints": {"iter_4.pth": 1}}',
        '[' * 100_000,
    ],
)
def test_damaged_record_is_ignored(tmp_path, text):
    save(tmp_path, 4)
    (tmp_path / 'run.json').write_text(text)
    assert claimed(tmp_path, resume=True) == 'iter_4.pth'
    assert claimed(tmp_path, overwrite=True) is None
    assert json.loads((tmp_path / 'run.json').read_text())['earlier_checkpoints'].keys() == {
        'iter_4.pth'
    }
