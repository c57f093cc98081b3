"""Checkpoints of earlier versions, which every later version must read.

    python -m tests.helpers.old_checkpoints FOLDER       # writes a new set, for a new kind of file

``tests/data/checkpoints/1`` was written when format 1 of the training checkpoints was current:

* ``run/``: a pre-training of the shipped config ``vits_folder`` at toy size, stopped after 2 of 4
  steps, with its neighbors.
* ``downstream.pth``: MMSegmentation's linear head, after 2 steps.
* ``published-*.pth``: the teacher, published by tools/publish.py.
* ``expected.json``: the results computed from these files then.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from cotap_mm.engine.resume.checkpoints import atomic_checkpoint
from cotap_mm.registry import MODELS, build
from tests.downstream.test_training import VIT, shrink
from tests.helpers.default_runs import arguments, make_images, run, write_toy_config
from tests.helpers.fake_data import write_for
from tests.helpers.tool_loading import load_tool
from tests.helpers.toy_config import write_init

ROOT = Path(__file__).resolve().parents[2]
OLD = Path(__file__).resolve().parents[1] / 'data' / 'checkpoints' / '1'
CONFIG = 'vits_folder'
#: Format of tools/convert.py -> name of the output file.
TARGETS = dict(timm='timm.pth', hf='hf', mmseg='mmseg.pth', safetensors='filter.safetensors')


@contextlib.contextmanager
def in_folder(folder: Path) -> Iterator[None]:
    """Change to a folder, so that checkpoints contain no path of this machine."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
        DefaultScope._instance_dict.clear()


def fingerprint(tensors: dict[str, Any]) -> dict[str, float]:
    """Reduce each tensor to a random projection, which changes if any element does."""
    numbers = {}
    for name, value in tensors.items():
        if torch.is_tensor(value):
            seed = int.from_bytes(
                hashlib.sha256(str(tuple(value.shape)).encode()).digest()[:4], 'big'
            )
            weights = np.random.default_rng(seed).standard_normal(value.numel())
            numbers[name] = float(weights @ value.detach().double().flatten().numpy())
    return numbers


def prepare(folder: Path) -> list[str]:
    """Write images, init and config of the pre-training; return its command line."""
    make_images(folder / 'images')
    write_init(folder / 'init.pth')
    with in_folder(folder):
        write_toy_config(Path(), CONFIG)
        return [*arguments(Path(), CONFIG), '--seed', '3', '--work-dir', 'run']


def resume(folder: Path) -> dict[str, float]:
    """Train steps 3 and 4; return the fingerprint of ``iter_4.pth``."""
    with in_folder(folder):
        run([*arguments(Path(), CONFIG), '--work-dir', 'run', '--resume'], may_compute=False)
        return fingerprint(torch.load('run/iter_4.pth', weights_only=True)['state_dict'])


def forget_folder(path: Path, name: str, has_record: bool = False) -> None:
    """Rewrite a checkpoint without the absolute path that MMEngine stores in it.

    Args:
        path (Path): The checkpoint.
        name (str): Replacement for that path.
        has_record (bool): Whether it is one of our checkpoints with a record file. Defaults to
            False.
    """
    content = torch.load(path, weights_only=False)  # just written by this process
    content['message_hub']['runtime_info']['last_ckpt'] = name
    path.with_name(f'{path.name}.json').unlink(missing_ok=True)
    if has_record:
        with atomic_checkpoint(path) as partial:
            torch.save(content, partial)
    else:
        torch.save(content, path)


def downstream_config(folder: Path) -> str:
    """Write the config and data of MMSegmentation's linear probe at toy size; return its name."""
    write_for('voc_linear', folder)
    config = shrink(Config.fromfile(ROOT / 'configs' / 'downstream' / 'voc_linear.py'))
    config.dump(folder / 'linear.py')
    return 'linear.py'


def downstream_scores(checkpoint: Path, folder: Path) -> dict[str, float]:
    """Scores of tools/test.py on generated data."""
    with in_folder(folder):
        load_tool('test').main([downstream_config(folder), str(checkpoint), '--work-dir', 'tested'])
        (record,) = folder.glob('tested/*/*.json')
        return {
            name: value
            for name, value in json.loads(record.read_text()).items()
            if name in ('aAcc', 'mIoU', 'mAcc')
        }


def features(checkpoint: Path, **options: Any) -> dict[str, float]:
    """Features of one image by ``cotap_mm.load``."""
    import cotap_mm

    image = (torch.arange(3 * 32 * 32).view(1, 3, 32, 32) ** 2 % 256).byte()
    encoder = cotap_mm.load(str(checkpoint), device='cpu', **options)
    cls, patches = encoder.encode(image)
    return fingerprint(dict(cls=cls, patches=patches))


def converted(checkpoint: Path, folder: Path) -> dict[str, dict[str, float]]:
    """Tensors of the files that tools/convert.py writes."""
    from safetensors.torch import load_file

    results = {}
    for target, name in TARGETS.items():
        load_tool('convert').main([str(checkpoint), str(folder / name), '--to', target])
        path = folder / name / 'model.safetensors' if target == 'hf' else folder / name
        tensors = (
            load_file(path)
            if path.suffix == '.safetensors'
            else torch.load(path, weights_only=True)
        )
        results[target] = fingerprint(tensors.get('state_dict', tensors))
    return results


def scores(checkpoint: Path, folder: Path) -> dict[str, float]:
    """Scores of dense retrieval on toy scenes by tools/evaluate.py."""
    load_tool('evaluate').main(
        [
            str(checkpoint),
            '--protocol',
            'dense-retrieval',
            '--data',
            'toy',
            '--limit',
            '6',
            '--image-size',
            '32',
            '--set',
            'k=3',
            '--out',
            str(folder),
            '--device',
            'cpu',
        ]
    )
    (result,) = folder.glob('*.json')
    found = json.loads(result.read_text())['scores']
    return {name: value for name, value in found.items() if isinstance(value, (int, float))}


def outcomes(stored: Path, folder: Path) -> dict[str, Any]:
    """Compute all results from a set of files.

    Args:
        stored (Path): The set.
        folder (Path): Folder for output.
    """
    prepare(folder)
    shutil.copytree(stored / 'run', folder / 'run')
    first, (published,) = folder / 'run' / 'iter_2.pth', stored.glob('published-*.pth')
    return dict(
        resumed=resume(folder),
        student=features(first),
        teacher=features(first, network='teacher'),
        published=features(published),
        converted=converted(published, folder),
        retrieval=scores(published, folder / 'scores'),
        downstream=downstream_scores(stored / 'downstream.pth', folder),
    )


def write(folder: Path) -> None:
    """Write a new set of files.

    Args:
        folder (Path): Folder to create.
    """
    work = folder / 'work'
    work.mkdir(parents=True)
    words = prepare(work)
    with in_folder(work):
        run(words)
        whole = fingerprint(torch.load('run/iter_4.pth', weights_only=True)['state_dict'])
        load_tool('publish').main(
            ['run/iter_4.pth', '../published.pth', '--license', 'MIT', '--network', 'teacher']
        )
        for name in ('iter_4.pth', 'iter_4.pth.json'):
            Path('run', name).unlink()
        Path('run', 'last_checkpoint').write_text('iter_2.pth')
        shutil.copytree('run', '../run', ignore=shutil.ignore_patterns('2*', '*.py', '.lock'))
        torch.manual_seed(0)
        torch.save(dict(state_dict=build(MODELS, VIT).state_dict()), 'vit.pth')
        load_tool('train').main(
            [downstream_config(work), '--init', 'vit.pth', '--work-dir', 'linear', '--seed', '0']
        )
        shutil.move('linear/iter_2.pth', '../downstream.pth')
    forget_folder(folder / 'run' / 'iter_2.pth', 'run/iter_2.pth', has_record=True)
    forget_folder(folder / 'downstream.pth', 'linear/iter_2.pth')
    shutil.rmtree(work)
    results = outcomes(folder, folder / 'work')
    shutil.rmtree(work)
    if results['resumed'] != whole:
        raise AssertionError('the resumed run differs from the uninterrupted one')
    (folder / 'expected.json').write_text(json.dumps(results, indent=1) + '\n')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('folder', type=Path)
    write(parser.parse_args().folder.resolve())


if __name__ == '__main__':
    main()
