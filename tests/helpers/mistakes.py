"""Folder of files that users mix up, and running a tool on them."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tests.helpers.tiny import build_tiny
from tests.helpers.tool_loading import forget_runs

ROOT = Path(__file__).resolve().parents[2]
CONFIG = f"""
_base_ = {str(ROOT / 'configs' / 'cotap' / 'vits_folder.py')!r}
model = dict(
    backbone=dict(arch=dict(_delete_=True, embed_dims=16, num_layers=2, num_heads=2,
                            feedforward_channels=32),
                  img_size=32, patch_size=8),
    neck=dict(num_prototypes=2),
    head=dict(patch=dict(num_clusters=6, hidden_channels=16, out_channels=8),
              cls=dict(num_clusters=10, hidden_channels=16, out_channels=8)),
    memory=dict(patch_queue=dict(size=64), cls_queue=dict(size=16), template_bank=dict(size=8)),
    pairs=dict(pool_sizes=(2, 4)), init_cfg=None)
train_dataloader = dict(
    batch_size=2, num_workers=0, persistent_workers=False,
    dataset=dict(crops=dict(global_size=32, local_size=16)))
optim_wrapper = dict(accumulative_counts=1)
train_cfg = dict(max_iters=4)
"""

#: Config of a demo whose optimizer cannot be built.
BETAS = (
    CONFIG
    + """
optim_wrapper = dict(accumulative_counts=1, optimizer=dict(betas=1))
demo = dict(memory=dict(type='ToyScenes'), test=dict(type='ToyScenes'))
"""
)


def write_checkpoint(path):
    torch.manual_seed(0)
    config = "model = dict(type='CoTAP', backbone=dict(arch=dict(num_heads=2)))"
    torch.save(dict(state_dict=build_tiny().state_dict(), meta=dict(cfg=config)), path)


def write_image(path, shape=(32, 32, 3)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path, 'PNG')


def write_everything(folder):
    """Write a checkpoint, images with labels, and files whose content does not fit their name."""
    write_checkpoint(folder / 'iter_1.pth')
    for index in range(6):
        write_image(folder / f'images/{index}.png')
        write_image(folder / f'data/images/val/{index}.png')
        label = np.zeros((32, 32), np.uint8)
        label[:, 16:] = 1
        (folder / 'data/labels/val').mkdir(parents=True, exist_ok=True)
        Image.fromarray(label).save(folder / f'data/labels/val/{index}.png')
    write_image(folder / 'picture.png')
    write_image(folder / 'picture.pth')
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
    for name in ('noise_tolerance', 'over_dispersion', 'pairs_per_image', 'sensitivity'):
        for place, text in (('broken', '{'), ('notes', 'by hand')):
            (folder / place).mkdir(exist_ok=True)
            (folder / place / f'{name}.{"json" if place == "broken" else "md"}').write_text(text)
    with zipfile.ZipFile(folder / 'archive.pth', 'w') as archive:
        archive.writestr('hello.txt', 'hello')
    (folder / 'images.zip').write_bytes((folder / 'archive.pth').read_bytes())
    torch.save([1, 2], folder / 'list.pth')
    torch.save(dict(state_dict={'head.weight': torch.zeros(2, 2)}), folder / 'head.pth')
    np.savez(folder / 'other.npz', a=np.zeros(3))


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
