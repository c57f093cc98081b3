"""Code in the README and the documentation: commands are parsed, Python runs at toy size."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from PIL import Image

from cotap_mm.command_line.config_file import load_config
from cotap_mm.commands.test import build_config as build_test_config
from cotap_mm.commands.train import build_config as build_train_config
from cotap_mm.engine.launch.overrides import check_overrides
from cotap_mm.models import CoTAPViT
from cotap_mm.registry import HOOKS, MODELS, build
from tests.helpers.doc_pages import (
    PAGES,
    ROOT,
    blocks,
    check_command,
    command_of,
    commands,
    page_name,
)
from tests.helpers.mistakes import CONFIG

ARCH = dict(embed_dims=64, num_layers=12, num_heads=1, feedforward_channels=64)
#: Names and sizes in the snippets -> toy ones.
AT_TOY_SIZE = {
    "'deit-base'": repr(ARCH),
    "'deit-small'": repr(ARCH),
    'in_channels=1536': 'in_channels=128',
    "load_data('voc')": "load_data('folder', '.', ('sky', 'road', 'car'))",
    "data='voc'": "data='folder', root='.', classes=('sky', 'road', 'car')",
    'image_size=448': 'image_size=64',
    "'work_dirs/photos')": "'work_dirs/photos', config='tiny.py', iterations=2)",
    'iterations=20_000': "config='tiny.py', iterations=2",
    "config='vitb_coco', launcher='pytorch'": "config='tiny.py'",  # of one process
    "'CLONE'": repr(str(ROOT)),
    'image_size=(360, 480)': 'image_size=(32, 48)',
    'num_classes=11': 'num_classes=3',
    'size=(448, 448)': 'size=(32, 32)',
    'size=(224, 224)': 'size=(32, 32)',
}
#: Page whose snippet tests/test_documents.py runs.
ELSEWHERE = ('ranking_loss',)
#: Snippets that need a package that not every environment has.
NEEDS = {'mmseg': 'operators.md'}
#: Packages of which the environment of the tests has none; blocks that import them are compiled.
NOT_TESTED = ('fiftyone',)


def lines():
    """Every command once, with the first page that shows it."""
    seen = set()
    for page in PAGES:
        for words in commands(page):
            if tuple(words) not in seen:
                seen.add(tuple(words))
                yield page, words


def parameters(chosen):
    return [
        pytest.param(
            words,
            id=f'{page.stem}: {" ".join(words)[:90]}',
            # Studies import most of the libraries.
            marks=[pytest.mark.slow] if 'tools/studies/' in ' '.join(words) else [],
        )
        for page, words in chosen
    ]


def has_config(words):
    return (command_of(words) or [''])[0] in ('train', 'test')


def test_the_two_commands_of_the_readme():
    words = list(commands(ROOT / 'README.md'))
    assert ['make', 'demo'] in words and ['make', 'test'] in words


@pytest.mark.parametrize('words', parameters(lines()))
def test_command_is_valid(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_command(words)


def test_keys_in_the_text_are_accepted():
    """What tables tell to set by --cfg-options, which no command of the pages shows."""
    found = {
        option
        for page in PAGES
        for text in re.findall(r'`([a-z_]+\.[\w.]+=[^`]+)`', page.read_text(encoding='utf-8'))
        if '…' not in text and ' requires ' not in text and ' reads ' not in text  # messages
        for option in text.split()
        if '.' in option.split('=')[0]
    }
    assert 'strategy.type=cotap_mm.CoTAPFSDPStrategy' in found and len(found) > 15
    config = load_config('vits_folder')
    for option in sorted(found):
        key, value = option.split('=', 1)
        check_overrides(config, {key: {} if value.startswith('dict(') else value})


@pytest.mark.slow
@pytest.mark.parametrize('words', parameters(line for line in lines() if has_config(line[1])))
def test_config_is_built(words, tmp_path, monkeypatch):
    """The config of a command exists, and has the keys of --cfg-options."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv('COTAP_CHECKPOINT', raising=False)
    name, args = check_command(words)
    args.launcher = 'none'
    if name == 'train':
        if getattr(args, 'log', None):
            args.log = ['none']  # the packages of the named places are not installed
        assert build_train_config(args).model
    else:
        Path(args.checkpoint).parent.mkdir(parents=True, exist_ok=True)
        Path(args.checkpoint).touch()
        assert build_test_config(args).model


@pytest.mark.parametrize(
    'line, reason',
    [
        ('cotap trein vits_folder', 'trein'),
        ('cotap train vits_folder --imges DIR', 'imges'),
        ('cotap pack --out a.lmdb', 'required: --images'),
        ('tools/dist_train.sh configs/cotap/missing.py 8', 'missing'),
        ('make dmeo', 'dmeo'),
        ('python tools/benchmark.py step --steeps 3', '--steeps'),
        ("pip install -e '.[mmsegg]'", 'mmsegg'),
        ('tools/setup_env.sh --light', 'light'),
        ('rm -rf work_dirs', 'rm'),
    ],
)
def test_invalid_commands_are_found(line, reason, tmp_path, capsys):
    page = tmp_path / 'page.md'
    page.write_text(f'Text.\n\n```bash\nmake demo && {line}      # why\n```\n')
    first, words = commands(page)
    assert first == ['make', 'demo'] and check_command(first) is None
    with pytest.raises((AssertionError, SystemExit)) as error:
        check_command(words)
    assert reason in f'{error.value}{capsys.readouterr().err}'


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the files that the snippets name."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    vit = CoTAPViT(arch=ARCH)
    vit.init_weights()
    content = dict(state_dict=vit.state_dict(), meta=dict(iter=1, cfg='default_scope = "x"'))
    for name in (
        'work_dirs/vitb_coco/iter_210000.pth',
        'work_dirs/vits_coco/iter_240000.pth',
        'work_dirs/vits_folder/iter_100000.pth',
        'dino_deitsmall16_pretrain.pth',
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, tmp_path / name)
    (tmp_path / 'tiny.py').write_text(CONFIG)
    log = tmp_path / 'work_dirs/vits_folder/20261129/vis_data/scalars.json'
    log.parent.mkdir(parents=True)
    records = [{'loss': 3.0 - step, 'monitor/feature_std': 0.8, 'step': step} for step in (1, 2)]
    log.write_text('\n'.join(map(json.dumps, records)))
    random = np.random.RandomState(0)
    for folder in ('images/train', 'images/val', 'DIR', '.'):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        names = ('photo', 'other') if folder == '.' else map(str, range(6))
        for name in names:
            pixels = random.randint(0, 256, (32, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / f'{name}.jpg')
    for part in ('train', 'val'):
        (tmp_path / 'labels' / part).mkdir(parents=True)
        mask = np.repeat(np.arange(3, dtype=np.uint8), 16)[None].repeat(32, 0)  # (32, 48)
        for name in range(6):
            Image.fromarray(mask).save(tmp_path / 'labels' / part / f'{name}.png')
    return vit


@pytest.mark.parametrize('page', [page for page in PAGES if blocks(page, 'python')], ids=page_name)
@pytest.mark.slow
def test_python_runs(page, here):
    """All snippets of a page, one after the other, in the same names."""
    for package, name in NEEDS.items():
        if page.name == name and importlib.util.find_spec(package) is None:
            pytest.skip(f'needs {package}')
    names = {}
    for block in blocks(page, 'python'):
        for old, new in AT_TOY_SIZE.items():
            block = block.replace(old, new)
        code = compile(block, page.name, 'exec')
        if not any(f'import {package}' in block for package in NOT_TESTED):
            exec(code, names)
    if 'backbone' in names:
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            backbone = MODELS.build(names['backbone'])
            backbone.init_weights()
        assert torch.equal(backbone.layers[5].attn.qkv.weight, here.layers[5].attn.qkv.weight)
    if 'neck' in names:
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            levels = MODELS.build(names['neck'])(backbone(torch.zeros(1, 3, 64, 64)))
        assert [level.shape[2] for level in levels] == [16, 8, 4, 2, 1]
    for hook in names.get('custom_hooks', ()):
        build(HOOKS, Config(hook).to_dict())
    if 'patches' in names:
        assert names['cls'].shape[1] == names['patches'].shape[1]


@pytest.mark.parametrize('page', PAGES, ids=page_name)
def test_languages_of_blocks_are_known(page):
    """A misspelled language would hide a block from the tests above."""
    starts = re.findall(r'^```(.*)$', page.read_text(), re.M)
    assert set(starts[::2]) <= {'bash', 'python', 'text', 'bibtex', 'json'}
    assert set(starts[1::2]) <= {''}


@pytest.mark.parametrize(
    'page', [page for page in PAGES if page.stem != 'benchmarks'], ids=page_name
)
def test_code_fits_into_the_page(page):
    """Measured commands in docs/benchmarks.md are as they were typed."""
    for language in ('bash', 'python'):
        for block in blocks(page, language):
            assert [line for line in block.splitlines() if len(line) > 114] == []
