"""Rows of user errors, and the arguments that they share.

A row: arguments, exit status (2: invalid command line, 1: everything else), and a pattern that
the sentence must match.
"""

from __future__ import annotations

import re
import shlex

import pytest

from tests.helpers.mistakes import ending, listing

TRAIN = 'tiny.py --images images --work-dir run'
MEASURE = '--protocol dispersion --data folder --root data --classes a b --out out --device cpu'
LOOK = '--images images --out out --device cpu --limit 2 --size 32 32'
COMPARE = MEASURE
EMBED = '--images images --out f.npz --device cpu --size 32 --workers 0'
NEIGHBORS = (
    '--out n.npy --backbone tiny.py --checkpoint none --device cpu --image-size 32 --workers 0'
)
#: Files that are not checkpoints -> expected part of the error.
NO_CHECKPOINTS = {
    'nowhere.pth': 'nowhere.pth is not a file',
    'empty': 'empty',
    'page.pth': 'page.pth is damaged or not a checkpoint',
    'picture.pth': 'picture.pth is damaged or not a checkpoint',
    'archive.pth': 'archive.pth is damaged or not a checkpoint',
    'zero.pth': 'zero.pth',
    'list.pth': 'list.pth must contain a dict',
    'head.pth': 'no ViT found',
}
NO_IMAGES = {
    'nowhere': 'folder nowhere does not exist',
    'empty': 'empty contains no images',
    'texts': 'texts contains no images',
    'picture.png': 'the image picture.png',
    'iter_1.pth': 'iter_1.pth',
    'images.zip': 'images.zip',
    'list.txt': 'nowhere/a.jpg',
    'broken.json': 'broken.json',
    'other.json': 'other.json',
    'bad.lmdb': 'bad.lmdb',
}


def rows(mistakes):
    """Parameters of a test: tool and row."""
    return [
        pytest.param(tool, *row, id=f'{tool} {row[0][:60]}')
        for tool, rows_of_tool in mistakes.items()
        for row in rows_of_tool
    ]


def check_user_error(main, place, capsys, arguments, status, text):
    """Check that a tool reports one sentence without a traceback, and writes no file."""
    before = listing(place)
    got, sentences, everything = ending(main, shlex.split(arguments), capsys)
    assert got == status, everything
    assert len(sentences) == 1 and re.search(text, sentences[0]), everything
    assert 'Traceback' not in everything
    assert listing(place) == before
