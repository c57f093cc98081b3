"""Golden loss curves: every loss of 20 training steps in float64, through the command line.

    python tests/loss_curves.py --renew demo        # only where a change is meant to alter losses

The trainings are those of the small configs, with six images a batch, one thread, and pictures
that are drawn here, so that no data set and no image decoder takes part.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, DefaultScope
from PIL import Image

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tool_loading import load_tool

CURVES = Path(__file__).resolve().parent / 'data' / 'losses'
CONFIGS = Path(__file__).resolve().parents[1] / 'configs' / 'cotap'
STEPS = 20
#: Curve -> config, and height and width of its images; None for the toy scenes of the config.
SETTINGS = {
    'demo': ('demo', None),
    'camvid': ('camvid_toy', (180, 240)),
    'raccoon': ('raccoon_toy', (200, 150)),
}


@HOOKS.register_module(force=True)
class LossRecorder(Hook):
    """Train in float64, and keep the losses of each step without the rounding of a log."""

    rows: list[dict[str, float]] = []

    def before_train(self, runner):
        """Weights and buffers are loaded by now."""
        runner.model.double()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """One row."""
        self.rows.append(
            {name: float(value) for name, value in outputs.items() if name.startswith('loss')}
        )


def draw_images(folder: Path, size: tuple[int, int], count: int = 12) -> Path:
    """PNG files of colored rectangles on a textured ground.

    Args:
        folder (Path): New.
        size (tuple[int, int]): Height and width.
        count (int): Files. Defaults to 12.
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
    """Losses of each step of a training by ``tools/train.py``.

    Args:
        name (str): Of a curve.
        folder (Path): For its files.
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
        'train_dataloader.batch_size=6',
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
    """Store a curve as text: a line of names, then a line of values for each step."""
    lines = [' '.join(f'{key:>24}' for key in rows[0])]
    lines += [' '.join(f'{value:24.15e}' for value in row.values()) for row in rows]
    CURVES.mkdir(parents=True, exist_ok=True)
    (CURVES / f'{name}.txt').write_text('\n'.join(lines) + '\n')


def read(name: str) -> list[dict[str, float]]:
    """A stored curve."""
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
