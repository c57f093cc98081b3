"""Checkpoints are read safely by all versions of PyTorch."""

from __future__ import annotations

import argparse
import os
import pickle

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from cotap_mm.compat.safe_pickle import load_safely


@pytest.fixture(params=['own', 'PyTorch'])
def reader(request, monkeypatch):
    """Read with the unpickler for old versions, and with that of PyTorch, if it can be told."""
    if request.param == 'own':
        monkeypatch.setattr(torch, '__version__', '2.1.2')
    elif not hasattr(torch.serialization, 'safe_globals'):
        pytest.skip('this version of PyTorch has a fixed list of safe globals')
    return load_safely


def checkpoint():
    history = HistoryBuffer([1.0, 2.0], [1, 1], max_length=5)
    return dict(
        state_dict={'a': torch.arange(6.0).view(2, 3), 'b': torch.ones(2, dtype=torch.bfloat16)},
        message_hub=dict(log_scalars={'train/loss': history}, runtime_info=dict(iter=3)),
        values=[np.float64(0.5), np.int64(3), np.arange(3.0)],
        args=argparse.Namespace(arch='vit_small', lr=0.1),
    )


@pytest.mark.parametrize('old_format', [False, True])
@pytest.mark.parametrize('protocol', [2, 4])
def test_content_of_training_checkpoints(reader, tmp_path, protocol, old_format):
    options = dict(_use_new_zipfile_serialization=not old_format, pickle_protocol=protocol)
    torch.save(checkpoint(), tmp_path / 'a.pth', **options)
    if protocol == 4 and not (reader and torch.__version__ == '2.1.2'):
        pytest.skip("PyTorch's own unpickler reads protocol 2")
    content, expected = reader(tmp_path / 'a.pth'), checkpoint()
    for name, value in expected['state_dict'].items():
        assert content['state_dict'][name].dtype == value.dtype
        assert torch.equal(content['state_dict'][name], value)
    history = content['message_hub']['log_scalars']['train/loss']
    assert isinstance(history, HistoryBuffer) and history.mean() == 1.5
    assert content['values'][:2] == [0.5, 3]
    assert np.array_equal(content['values'][2], np.arange(3.0))
    assert vars(content['args']) == dict(arch='vit_small', lr=0.1)


class Call:
    """An object whose unpickling calls a function."""

    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize(
    'function, arguments',
    [
        (os.mkdir, ['made']),
        (eval, ["__import__('os').mkdir('made')"]),
        (getattr, [os, 'mkdir']),
        (getattr, [HistoryBuffer, '__init__']),
        (torch.load, ['other.pth']),
        (pickle.loads, [b'']),
    ],
)
def test_code_is_refused(reader, tmp_path, monkeypatch, function, arguments):
    monkeypatch.chdir(tmp_path)
    try:
        torch.save(dict(state_dict={}, bad=Call(function, *arguments)), 'bad.pth')
    except (pickle.PicklingError, TypeError, AttributeError):
        pytest.skip('cannot be pickled')
    with pytest.raises((pickle.UnpicklingError, RuntimeError, TypeError)):
        reader('bad.pth')
    assert not os.path.exists('made')


def test_another_encoding_is_refused(tmp_path, monkeypatch):
    import codecs

    monkeypatch.setattr(torch, '__version__', '2.1.2')
    torch.save(dict(text=Call(codecs.encode, 'a', 'rot13')), tmp_path / 'a.pth')
    with pytest.raises(pickle.UnpicklingError, match="refused to encode as 'rot13'"):
        load_safely(tmp_path / 'a.pth')
    torch.save(dict(text=Call(codecs.encode, 'a', 'latin1')), tmp_path / 'b.pth')
    assert load_safely(tmp_path / 'b.pth') == dict(text=b'a')
