"""Damaged and malicious files: all are rejected with one sentence, and none runs code."""

from __future__ import annotations

import collections
import io
import json
import os
import pickle
import random
import zipfile

import numpy as np
import pytest
import torch

from cotap_mm.datasets import ImageList, load_neighbors, save_neighbors
from cotap_mm.weights.reading import read_checkpoint
from tests.helpers.faults import DAMAGES, TRIES, damaged, time_limit

STATE = {'weight': torch.arange(600.0).view(20, 30), 'bias': torch.ones(7)}
NAMES = [f'{index}.jpg' for index in range(9)]


def zipped():
    buffer = io.BytesIO()
    torch.save(dict(state_dict=STATE, meta=dict(iter=3)), buffer)
    return buffer.getvalue()


def legacy():
    buffer = io.BytesIO()
    torch.save(dict(state_dict=STATE), buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def safetensors(tmp_path):
    from safetensors.torch import save_file

    save_file(STATE, str(tmp_path / 'state.safetensors'))
    return (tmp_path / 'state.safetensors').read_bytes()


def neighbors(tmp_path, suffix):
    indices = (np.arange(9)[:, None] + np.arange(1, 8)) % 9
    save_neighbors(tmp_path / f'neighbors.{suffix}', NAMES, indices, dict(image_size=224))
    return (tmp_path / f'neighbors.{suffix}').read_bytes()


def coco():
    return json.dumps(
        dict(images=[dict(file_name=name, id=index) for index, name in enumerate(NAMES)])
    ).encode()


@pytest.mark.slow
def test_many_kinds_of_damage(tmp_path, capsys):
    """What can still be read is well-formed, and unchanged where checksums protect it."""
    for name in NAMES:
        (tmp_path / name).write_bytes(b'')

    def read_list(path):
        return ImageList(tmp_path, path).names

    kinds = {
        'pth': (zipped(), read_checkpoint),
        'old.pth': (legacy(), read_checkpoint),
        'safetensors': (safetensors(tmp_path), read_checkpoint),
        'npz': (neighbors(tmp_path, 'npz'), lambda path: load_neighbors(path, NAMES)),
        'npy': (neighbors(tmp_path, 'npy'), lambda path: load_neighbors(path, NAMES)),
        'json': (coco(), read_list),
    }
    draw, seen = random.Random(0), collections.Counter()
    for attempt in range(TRIES):
        suffix = list(kinds)[attempt % len(kinds)]
        content, read = kinds[suffix]
        damage = DAMAGES[attempt // len(kinds) % len(DAMAGES)]
        path = tmp_path / f'{attempt}.{suffix}'
        path.write_bytes(damaged(content, damage, draw))
        with time_limit(60):
            try:
                found = read(path)
            except (ValueError, FileNotFoundError) as error:
                assert str(path.name) in str(error) or 'names' in str(error), error
                seen['rejected'] += 1
                path.unlink()
                continue
        seen['read'] += 1
        if suffix == 'pth':
            for name, value in STATE.items():
                assert torch.equal(found['state_dict'][name], value)
        elif suffix in ('npz', 'npy'):
            assert found.shape == (9, 7) and found.min() >= 0 and found.max() < 9
        elif suffix == 'json':
            assert all(isinstance(name, str) for name in found)
        else:
            assert isinstance(found, dict)
        path.unlink()
    with capsys.disabled():
        print(f'\n{TRIES} damaged files: {seen["rejected"]} rejected, {seen["read"]} read')
    assert seen['rejected'] > TRIES // 3


class Bomb:
    """Represents a function call in a pickle."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def bombs(target):
    """Yield pickles that run code; each would create ``target``."""
    import functools
    import importlib
    import operator
    import subprocess

    code = f'open({str(target)!r}, "w")'
    yield Bomb(os.system, f'touch {target}')
    yield Bomb(eval, code)
    yield Bomb(exec, code)
    yield Bomb(open, str(target), 'w')
    yield Bomb(subprocess.check_call, ['touch', str(target)])
    yield Bomb(os.mkdir, str(target))
    yield Bomb(np.savetxt, str(target), [1])
    yield Bomb(torch.save, 1, str(target))
    yield Bomb(functools.reduce, operator.add, [Bomb(eval, code), 1])
    yield Bomb(map, eval, [code])
    yield Bomb(getattr, Bomb(importlib.import_module, 'os'), 'system')
    yield Bomb(getattr, Bomb(importlib.import_module, 'builtins'), 'eval')
    yield Bomb(importlib.import_module, 'antigravity')
    yield Bomb(operator.attrgetter, 'system')
    yield Bomb(operator.methodcaller, 'touch')
    yield Bomb(torch.load, str(target))
    yield Bomb(torch.hub.load, 'a/b', 'c')
    yield Bomb(pickle.loads, pickle.dumps(Bomb(eval, code)))
    yield Bomb(np.load, str(target), None, True)


def packed(bomb, shape):
    """Serialize a bomb in a checkpoint of the current or an older format of PyTorch."""
    content = dict(state_dict=STATE, extra=bomb) if shape != 'alone' else bomb
    buffer = io.BytesIO()
    if shape == 'bare':
        pickle.dump(dict(extra=bomb), buffer)
    else:
        torch.save(content, buffer, _use_new_zipfile_serialization=shape != 'legacy')
    return buffer.getvalue()


@pytest.mark.parametrize('shape', ['zip', 'legacy', 'bare', 'alone'])
def test_bombs(tmp_path, shape):
    target, count = tmp_path / 'it ran', 0
    for index, bomb in enumerate(bombs(target)):
        path = tmp_path / f'{index}.pth'
        path.write_bytes(packed(bomb, shape))
        with pytest.raises(ValueError, match='cannot be read safely|damaged') as rejected:
            read_checkpoint(path)
        assert path.name in str(rejected.value)
        assert not target.exists(), index
        count += 1
    assert count >= 15
    # With full unpickling they do run; otherwise this test would prove nothing.
    with pytest.raises(Exception, match=''):
        read_checkpoint(tmp_path / '1.pth', trust=True)['nothing']
    assert target.exists()


def test_bombs_in_neighbor_files(tmp_path):
    target = tmp_path / 'it ran'
    for index, bomb in enumerate(bombs(target)):
        array = np.empty(1, dtype=object)
        array[0] = bomb
        path = tmp_path / f'{index}.npz'
        with zipfile.ZipFile(path, 'w') as archive:
            for name in ('names', 'indices', 'nns', 'meta'):
                buffer = io.BytesIO()
                np.save(buffer, array, allow_pickle=True)
                archive.writestr(f'{name}.npy', buffer.getvalue())
        with pytest.raises(ValueError, match='is damaged or not a neighbor file'):
            load_neighbors(path, NAMES)
        path.write_bytes(pickle.dumps(bomb))
        with pytest.raises(ValueError, match='is damaged or not a neighbor file'):
            load_neighbors(path, NAMES)
        path = tmp_path / f'{index}.npy'
        np.save(path, array, allow_pickle=True)
        with pytest.raises(ValueError, match='is damaged or not a neighbor file'):
            load_neighbors(path, NAMES)
        assert not target.exists()


def test_a_zip_bomb_is_not_a_neighbor_file(tmp_path):
    path = tmp_path / 'big.npz'
    header = b"{'descr': '<i4', 'fortran_order': False, 'shape': (9, 1000000000), }"
    header += b' ' * (118 - len(header) - 1) + b'\n'
    content = b'\x93NUMPY\x01\x00' + len(header).to_bytes(2, 'little') + header + bytes(1000)
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('nns.npy', content)
    with time_limit(60), pytest.raises(ValueError, match='is damaged'):
        load_neighbors(path, NAMES)
