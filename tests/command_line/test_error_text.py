"""Exceptions of any library become one sentence."""

from __future__ import annotations

import pytest
from torch.utils.data import DataLoader, Dataset

from cotap_mm.error_text import LONGEST, one_line, sentence_of
from cotap_mm.errors import UserError
from tests.helpers.tool_errors import DiskIsFull, exit_code_of


class FailingData(Dataset):
    """Dataset that raises a given exception in a worker."""

    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 2

    def __getitem__(self, index):
        raise self.error


def test_errors_of_workers_are_reduced_to_their_message():
    sentence = 'too many bad images (7 of 9); the first is a: b.png, see\n  the log'
    for error in (DiskIsFull(sentence), UserError('Traceback is a word')):
        with pytest.raises(UserError) as caught:
            list(DataLoader(FailingData(error), num_workers=1))
        assert sentence_of(caught.value) == one_line(str(error))
        assert exit_code_of(caught.value).splitlines()[0] == f'error: {one_line(str(error))}'
    with pytest.raises(ValueError) as caught:
        list(DataLoader(FailingData(ValueError('bad\nvalue')), num_workers=1))
    assert 'Original Traceback' in str(caught.value)
    assert sentence_of(caught.value) == 'bad value'


@pytest.mark.parametrize(
    'error, message',
    [
        (ValueError('a\n  b\n  c'), 'a; b; c'),
        (ValueError('these:\n  b\n  c'), 'these: b; c'),
        (ValueError('  a \n b  '), 'a b'),
        (ValueError(), 'ValueError'),
        (KeyError('key x'), 'key x'),
        (FileNotFoundError(2, 'No such file or directory', 'a'), 'a: No such file or directory'),
        (OSError(18, 'Cross-device link', 'a', None, 'b'), 'a: b: Cross-device link'),
        (OSError('plain'), 'plain'),
        (
            RuntimeError(
                'it failed\nTraceback (most recent call last):\n  File "x", line 1\n'
                'mod.Error: deep\nlines'
            ),
            'deep lines',
        ),
        (RuntimeError('it failed\nTraceback (most recent call last):\n  File "x"'), 'it failed'),
        (
            ModuleNotFoundError("No module named 'faiss'", name='faiss'),
            "No module named 'faiss'; install it with: pip install faiss-cpu",
        ),
        (
            ModuleNotFoundError('mmdet is not installed, please install mmdet manually'),
            'mmdet is not installed: pip install mmdet pycocotools',
        ),
        (ValueError('caf\udce9.jpg'), 'caf\udce9.jpg'),
    ],
)
def test_messages(error, message):
    assert sentence_of(error) == message


def test_long_messages_are_truncated():
    assert len(sentence_of(ValueError('x ' * 10_000))) <= LONGEST
