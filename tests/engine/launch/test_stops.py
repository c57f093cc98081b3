"""A training that has to stop reports why in one sentence, and exits with status 1."""

from __future__ import annotations

import errno
import json

import pytest
import torch
from mmengine.config import Config

from cotap_mm.datasets import ToyScenes
from cotap_mm.datasets.sources.files import BadImage
from cotap_mm.engine.hooks.atomic_checkpoint_hook import LastCheckpointLost
from cotap_mm.engine.hooks.non_finite_hook import Diverged
from cotap_mm.engine.launch.stops import explained_stops
from cotap_mm.errors import UserError
from cotap_mm.registry import DATASETS
from tests.helpers import resume_work
from tests.helpers.tool_loading import load_tool


@DATASETS.register_module(force=True)
class UndecodableScenes(ToyScenes):
    """Images that are damaged after the neighbors were computed."""

    def read(self, index, enough=None):
        if 'MultiCrop' in str(enough):
            raise BadImage(f'{index}: damaged')
        return super().read(index, enough)


def test_message_survives_a_loader_process():
    class Images(torch.utils.data.Dataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            try:
                raise KeyError('inner')
            except KeyError as error:
                raise UserError('3 of 5 images: bad.\n  a.jpg\n  UserError: b.jpg') from error

    loader = torch.utils.data.DataLoader(Images(), num_workers=1, multiprocessing_context='fork')
    with pytest.raises(UserError) as found:
        next(iter(loader))
    assert str(found.value) == '3 of 5 images: bad.\n  a.jpg\n  UserError: b.jpg'
    assert str(UserError('Caught up')) == 'Caught up'


@pytest.mark.parametrize(
    'error, messages',
    [
        (
            PermissionError(errno.EACCES, 'Permission denied', 'a/b.jpg'),
            r"PermissionError: \[Errno 13\] Permission denied: 'a/b.jpg'. Check .* Saved here$",
        ),
        (OSError(errno.EIO, 'Input/output error', 'x'), "Input/output error: 'x'. Check"),
        (MemoryError(), '^MemoryError. Lower train_dataloader.batch_size'),
        (
            torch.cuda.OutOfMemoryError('CUDA out of memory.'),
            'CUDA out of memory. Lower train_data',
        ),
        (RuntimeError("[enforce fail at x] DefaultCPUAllocator: can't allocate memory"), 'Lower '),
        (Diverged('iteration 3: loss = nan'), '^iteration 3: loss = nan$'),
        (LastCheckpointLost('iteration 9 could not'), '^iteration 9 could not$'),
    ],
)
def test_errors_of_disk_and_memory(error, messages):
    with pytest.raises(UserError, match=messages), explained_stops(lambda: 'Saved here'):
        raise error


@pytest.mark.parametrize('error', [RuntimeError('size mismatch'), ValueError('x'), KeyError('y')])
def test_other_errors_keep_their_traceback(error):
    with pytest.raises(type(error)), explained_stops():
        raise error


@pytest.mark.slow
@pytest.mark.parametrize(
    'kind, num_workers, messages',
    [
        ('UndecodableScenes', 1, 'error: 3 of 13 images cannot be decoded; max_bad_fraction=0.01'),
        ('ToyScenes', 0, 'error: iteration 2: 2 steps in a row had gradients that are not finite'),
    ],
)
def test_the_whole_command(tmp_path, monkeypatch, kind, num_workers, messages):
    monkeypatch.setattr(Config, 'pretty_text', property(lambda self: repr(self._cfg_dict)))
    config = resume_work.tiny_config(
        tmp_path / 'run',
        4,
        num_workers=num_workers,
        hooks=[resume_work.poison([0, 1])],
        **{'train_dataloader.dataset.patch.type': kind, 'default_hooks.non_finite.patience': 2},
    )
    (tmp_path / 'tiny.json').write_text(json.dumps(config._cfg_dict.to_dict()))
    with pytest.raises(SystemExit) as stopped:
        load_tool('train').main([str(tmp_path / 'tiny.json')])
    assert stopped.value.code.startswith(messages), stopped.value.code
    assert 'Traceback' not in stopped.value.code
