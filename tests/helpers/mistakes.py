"""Folder of files that users mix up, and running a tool on them."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tests.helpers.tiny import write_checkpoint
from tests.helpers.tool_loading import forget_runs
from tests.helpers.toy_config import as_text, toy_options, write_noise

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = dict(
    toy_options(batch_size=2, iters=4),
    _base_=str(ROOT / 'configs' / 'cotap' / 'vits_folder.py'),
    optim_wrapper=dict(accumulative_counts=1),
)
OPTIONS['model']['init_cfg'] = None
#: Config vits_folder.py at toy size.
CONFIG = as_text(OPTIONS)
#: Config of a demo whose optimizer cannot be built.
BETAS = (
    CONFIG
    + """
optim_wrapper = dict(accumulative_counts=1, optimizer=dict(betas=1))
demo = dict(memory=dict(type='ToyScenes'), test=dict(type='ToyScenes'))
"""
)


def write_everything(folder):
    """Write a checkpoint, images with labels, and files whose content does not fit their name."""
    write_checkpoint(folder / 'iter_1.pth')
    rng = np.random.default_rng(0)
    for index in range(6):
        write_noise(folder / f'images/{index}.png', rng)
        write_noise(folder / f'data/images/val/{index}.png', rng)
        label = np.zeros((32, 32), np.uint8)
        label[:, 16:] = 1
        (folder / 'data/labels/val').mkdir(parents=True, exist_ok=True)
        Image.fromarray(label).save(folder / f'data/labels/val/{index}.png')
    write_noise(folder / 'picture.png', rng)
    shutil.copy(folder / 'picture.png', folder / 'picture.pth')
    (folder / 'empty').mkdir()
    (folder / 'texts').mkdir()
    for name, text in {
        'texts/a.txt': 'hello',
        'texts/report.html': '<html>my own</html>',
        'file': 'x',
        'zero.pth': '',
        'list.txt': 'nowhere/a.jpg\n',
        'page.pth': '<!DOCTYPE html><html><body>404 Not Found</body></html>',
        'broken.json': '{"images": [',
        'other.json': '[1, 2]',
        'bad.npz': 'no archive',
        'bad.lmdb': 'no data base',
        'tiny.py': CONFIG,
        'syntax.py': 'model = dict(\n',
        'name.py': 'model = dcit()\n',
        'base.py': "_base_ = './nowhere.py'\n",
        'empty.py': '',
        'betas.py': BETAS,
        'notes.yaml': 'a: [1',
        'study.json': '{',
    }.items():
        (folder / name).write_text(text)
    studies = ('do_no_harm', 'foregrounds', 'noise_tolerance', 'over_dispersion', 'pairs_per_image')
    for name in (*studies, 'sensitivity'):
        for place, text in (('broken', '{'), ('notes', 'by hand')):
            (folder / place).mkdir(exist_ok=True)
            (folder / place / f'{name}.{"json" if place == "broken" else "md"}').write_text(text)
    with zipfile.ZipFile(folder / 'archive.pth', 'w') as archive:
        archive.writestr('hello.txt', 'hello')
    (folder / 'images.zip').write_bytes((folder / 'archive.pth').read_bytes())
    torch.save([1, 2], folder / 'list.pth')
    torch.save(dict(state_dict={'head.weight': torch.zeros(2, 2)}), folder / 'head.pth')
    np.savez(folder / 'other.npz', a=np.zeros(3))
    np.save(folder / 'other.npy', np.zeros(3))


def listing(folder):
    return sorted(
        (str(path.relative_to(folder)), path.stat().st_size) for path in Path(folder).rglob('*')
    )


def ending(main, arguments, capsys):
    """Run a tool in this process.

    Returns:
        tuple: Exit status, 'exception' if it ends in one; the sentences; all of stderr.
    """
    capsys.readouterr()
    forget_runs()
    status, text = 0, ''
    try:
        main([str(each) for each in arguments])
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
        text = end.code if isinstance(end.code, str) else ''
    except Exception as error:
        status, text = 'exception', repr(error)
    everything = f'{capsys.readouterr().err}\n{text}'
    hint = '(COTAP_TRACEBACK=1 shows where)'
    sentences = [line for line in everything.splitlines() if 'error: ' in line]
    if hint in text:
        sentences += [line for line in text.splitlines()[1:] if line != hint]
    return status, sentences, everything
