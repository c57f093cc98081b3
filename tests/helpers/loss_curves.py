"""Golden loss curves: every loss of 20 training steps in float64, through the command line.

    python -m tests.helpers.loss_curves --renew demo  # only if a change is meant to alter losses

The trainings use the small configs with four images per batch, one thread, and images that are
drawn here, so that the losses depend on no data set and no JPEG decoder.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, DefaultScope
from PIL import Image

from tests.helpers.tool_loading import load_tool

CURVES = Path(__file__).resolve().parents[1] / 'data' / 'losses'
CONFIGS = Path(__file__).resolve().parents[2] / 'configs' / 'cotap'
STEPS = 20
#: Curve -> config, height and width of its images (None: the toy scenes of the config).
SETTINGS = {
    'demo': ('demo', None),
    'camvid': ('camvid_toy', (180, 240)),
    'raccoon': ('raccoon_toy', (200, 150)),
}


@HOOKS.register_module(force=True)
class LossRecorder(Hook):
    """Train in float64 and record the losses of each step without the rounding of the log."""

    rows: list[dict[str, float]] = []

    def before_train(self, runner):
        """Convert the model, after weights and buffers have been loaded."""
        runner.model.double()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """Record a row."""
        self.rows.append(
            {name: float(value) for name, value in outputs.items() if name.startswith('loss')}
        )


def draw_images(folder: Path, size: tuple[int, int], count: int = 12) -> Path:
    """Write PNG files of colored rectangles on a textured background.

    Args:
        folder (Path): Folder to create.
        size (tuple[int, int]): Height and width.
        count (int): Number of files. Defaults to 12.
    """
    rng = np.random.default_rng(0)
    folder.mkdir()
    for index in range(count):
        pixels = rng.integers(0, 60, (*size, 3)) + rng.integers(0, 120, 3)
        for _ in range(6):
            top, left = rng.integers(0, size[0] - 30), rng.integers(0, size[1] - 30)
            height, width = rng.integers(20, 90, 2)
            pixels[top : top + height, left : left + width] = rng.integers(
                0, 200, 3
            ) + rng.integers(0, 56, 3)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f'{index}.png')
    return folder


def train(name: str, folder: Path) -> list[dict[str, float]]:
    """Train with ``tools/train.py`` and return the losses of each step.

    Args:
        name (str): Name of a curve.
        folder (Path): Folder for the files of the run.
    """
    config, size = SETTINGS[name]
    path = folder / f'{config}.py'
    path.write_text(
        f'_base_ = {str(CONFIGS / path.name)!r}\n'
        "custom_hooks = [dict(type='mmengine.LossRecorder')]\n"
    )
    line = [
        str(path),
        '--work-dir',
        str(folder / 'run'),
        '--seed',
        '0',
        '--cfg-options',
        'train_dataloader.batch_size=4',
        'train_dataloader.num_workers=0',
        f'train_cfg.max_iters={STEPS}',
    ]
    if size is None:
        line += ['train_dataloader.dataset.patch.num_images=12']
    else:
        line += ['--images', str(draw_images(folder / 'images', size))]
    LossRecorder.rows = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        load_tool('train').main(line)
    finally:
        torch.set_num_threads(threads)
        DefaultScope._instance_dict.clear()
    return LossRecorder.rows


def write(name: str, rows: list[dict[str, float]]) -> None:
    """Write a curve as text: a line of names, then a line of values per step."""
    lines = [' '.join(f'{key:>24}' for key in rows[0])]
    lines += [' '.join(f'{value:24.15e}' for value in row.values()) for row in rows]
    CURVES.mkdir(parents=True, exist_ok=True)
    (CURVES / f'{name}.txt').write_text('\n'.join(lines) + '\n')


def read(name: str) -> list[dict[str, float]]:
    """Read a curve."""
    names, *lines = (CURVES / f'{name}.txt').read_text().splitlines()
    return [dict(zip(names.split(), map(float, line.split()))) for line in lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--renew', nargs='+', choices=sorted(SETTINGS), required=True)
    for name in parser.parse_args().renew:
        with tempfile.TemporaryDirectory() as folder:
            rows = train(name, Path(folder))
        write(name, rows)
        print(f'{CURVES / name}.txt: {rows[0]["loss"]:.6f} to {rows[-1]["loss"]:.6f}')


if __name__ == '__main__':
    main()
