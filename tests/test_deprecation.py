"""Names of the previous release keep working, with one warning."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cotap_mm
from cotap_mm import evaluation
from cotap_mm.command_line.config_file import load_config
from cotap_mm.commands import neighbors
from cotap_mm.datasets import ImageList, MultiCrop, ToyScenes, read_image
from cotap_mm.datasets.read_with_retry import read_with_retry
from cotap_mm.encoders.vit import CoTAPEncoder
from cotap_mm.engine.launch.validation import check_config
from cotap_mm.evaluation import LabeledSet
from cotap_mm.export import convert, publish
from cotap_mm.models import PatchRankingLoss
from cotap_mm.ops import rank_statistics
from cotap_mm.registry import HOOKS, OPTIM_WRAPPERS
from cotap_mm.visualization import match_clusters
from cotap_mm.weights import PretrainedViT, load_pretrained
from tests.helpers.pixel_scenes import PixelEncoder, noise_scenes, scenes
from tests.helpers.tiny import build_tiny
from tests.helpers.tool_loading import load_tool


def test_old_dry_run_option_of_train():
    parse = load_tool('train').parse_args
    with pytest.warns(DeprecationWarning, match='--check is deprecated, use --dry-run') as warned:
        assert parse(['c.py', '--check']).dry_run
    assert len([each for each in warned if '--check' in str(each.message)]) == 1
    assert not parse(['c.py']).dry_run and parse(['c.py', '--dry-run']).dry_run


def test_old_name_of_the_checkpoint_hook():
    with pytest.warns(
        DeprecationWarning,
        match="'SafeCheckpointHook' is deprecated, use type='AtomicCheckpointHook'",
    ) as warned:
        hook = HOOKS.build(dict(type='SafeCheckpointHook', by_epoch=False, interval=7))
    assert len(warned) == 1 and hook.interval == 7
    assert isinstance(hook, HOOKS.get('AtomicCheckpointHook'))


@pytest.mark.parametrize('call', ['encode', 'foreground', 'prototype_attention'])
def test_old_keyword_of_feature_extraction(call):
    model, images = build_tiny().eval(), torch.randn(1, 3, 32, 32)
    with pytest.warns(DeprecationWarning, match='"branch" is deprecated.*"network"') as warned:
        old = getattr(model, call)(images, branch='teacher')
    assert len(warned) == 1
    for one, other in zip(old, getattr(model, call)(images, network='teacher')):
        assert torch.equal(one, other)


def test_old_keyword_of_network():
    model = build_tiny()
    with pytest.warns(DeprecationWarning, match='"branch" is deprecated') as warned:
        assert model.network(branch='teacher') is model.teacher
    assert len(warned) == 1


@pytest.mark.parametrize('old, new', [('pairs', 'pairwise'), ('sums', 'sorted')])
def test_old_methods_of_the_ranking_loss(old, new):
    with pytest.warns(DeprecationWarning, match=f"'{old}' is deprecated, use .*'{new}'") as warned:
        loss = PatchRankingLoss(method=old)
    assert len(warned) == 1 and loss.method == new
    pred, target = torch.rand(2, 9)
    with pytest.warns(DeprecationWarning, match=f"method='{old}' is deprecated") as warned:
        rank_statistics(pred, target, 0.5, old)
    assert len(warned) == 1
    assert torch.isfinite(loss(pred, target, torch.ones(9)))


def test_old_name_of_the_size_predicate(tmp_path):
    path = tmp_path / 'a.jpg'
    Image.new('RGB', (80, 40)).save(path)
    scenes = ToyScenes(num_images=1, image_size=32)
    asked = []
    for read in (
        lambda **options: read_image(path, **options),
        lambda **options: ImageList(tmp_path).read(0, **options),
        lambda **options: scenes.read(0, **options),
    ):
        with pytest.warns(DeprecationWarning, match='use is_large_enough=') as warned:
            read(enough=lambda height, width: asked.append((height, width)) or height >= 20)
        assert len(warned) == 1
    assert len(asked) == 6 and asked[-1] == (20, 40)  # an eighth, a quarter, a half; twice


def test_old_method_of_multi_crop():
    crop = MultiCrop()
    with pytest.warns(DeprecationWarning, match='use MultiCrop.is_large_enough'):
        assert crop.is_enough(500, 500) == crop.is_large_enough(500, 500)


def test_sources_with_the_old_argument_of_read():
    """Both arguments of ``read`` are positional, so that their names do not matter."""

    class Source:
        def read(self, index, enough=None):
            return index, enough

    assert read_with_retry(Source(), 3, len, None) == (3, len)


@pytest.mark.parametrize('tool', ['convert', 'evaluate', 'publish', 'visualize'])
def test_old_option_for_the_network(tool):
    parse = load_tool(tool).parse_args
    argv = {
        'convert': ['a.pth', 'b.pth'],
        'evaluate': ['a.pth', '--data', 'toy', '--protocol', 'knn'],
        'publish': ['a.pth', 'b.pth', '--license', 'MIT'],
        'visualize': ['a.pth', '--images', '.', '--out', 'report'],
    }[tool]
    with pytest.warns(DeprecationWarning, match='--branch is deprecated, use --network') as warned:
        assert parse([*argv, '--branch', 'teacher']).network == 'teacher'
    assert len(warned) == 1
    assert parse(argv).network is None
    assert parse([*argv, '--network', 'teacher']).network == 'teacher'


def test_old_format_of_neighbor_files(tmp_path, monkeypatch):
    args = load_tool('build_neighbors').parse_args(['--images', '.', '--out', 'n.npz'])
    seen = []
    monkeypatch.setattr(neighbors, 'open_images', lambda *_: [0])
    monkeypatch.setattr(neighbors, 'choose_backbone', lambda _: ({}, None))
    monkeypatch.setattr(neighbors, 'GlobalEncoder', lambda *_, **__: None)
    monkeypatch.setattr(neighbors, 'build_neighbors', lambda *args: seen.append(args[2]))
    text = 'cotap neighbors --out FILE.npz is deprecated, use --out FILE.npy'
    with pytest.warns(DeprecationWarning, match=text) as warned:
        neighbors.run(args)
    assert len(warned) == 1 and seen == ['n.npz']
    args.out = 'n.npy'
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        neighbors.run(args)


def test_old_argument_for_the_network(tmp_path):
    torch.manual_seed(0)
    algorithm = build_tiny()
    torch.nn.init.normal_(algorithm.teacher.backbone.cls_token)
    content = dict(
        state_dict=algorithm.state_dict(),
        meta=dict(cfg='model = dict(backbone=dict(arch=dict(num_heads=2)))'),
    )
    vit = build_tiny().backbone
    uses = {
        'load': lambda **names: cotap_mm.load(content, **names).report.network,
        'load_pretrained': lambda **names: load_pretrained(vit, content, **names).network,
        'convert': lambda **names: (
            convert(content, tmp_path / 'a.pth', overwrite=True, **names).network
        ),
        'publish': lambda **names: torch.load(
            publish(content, tmp_path / 'b.pth', 'MIT', **names), weights_only=True
        )['meta']['branch'],
        'init_cfg': lambda **names: PretrainedViT(content, **names).options['network'],
        'CoTAPEncoder': lambda **names: CoTAPEncoder(algorithm, **names).network,
    }
    for name, use in uses.items():
        with pytest.warns(DeprecationWarning, match='branch= is deprecated, use network=') as seen:
            assert use(branch='teacher') == 'teacher', name
        assert len(seen) == 1 and seen[0].filename == __file__, name
        assert use(network='teacher') == 'teacher', name
    with pytest.raises(TypeError, match='network is given twice, as network= and as branch='):
        uses['load'](branch='teacher', network='teacher')
    with pytest.warns(DeprecationWarning, match='LoadReport.branch is deprecated'):
        assert load_pretrained(vit, content, network='teacher').branch == 'teacher'


def test_old_option_of_init_cfg_passes_the_check_of_configs():
    config = load_config('vits_coco')
    config.model.init_cfg = dict(type='PretrainedViT', checkpoint='a.pth', branch='teacher')
    check_config(config)


OVERCLUSTERING = (
    'num_clusters',
    'seeds',
    'num_components',
    'mask_size',
    'background',
    'kmeans',
)


class Attending(PixelEncoder):
    """Encoder with CLS attention, for the foreground protocol."""

    def cls_attention(self, images):
        return images[:, :2, ::4, ::4].abs() + 0.1


@pytest.mark.parametrize(
    'protocol, num_sets, options',
    [
        ('dense_retrieval', 2, dict(k=3)),
        ('linear_segmentation', 2, dict(variant='cotap', steps=2)),
        ('knn_classification', 2, dict(k=2)),
        ('linear_classification', 2, dict(epochs=2)),
        ('overclustering', 1, dict(zip(OVERCLUSTERING, ((4,), (0,), 3, 8, 0, 'sklearn')))),
        ('dispersion', 1, dict(purity=0.5)),
        ('foreground', 1, dict(foreground_classes=[1])),
        ('correspondence', 1, dict(pairs='consecutive')),
    ],
)
def test_data_sets_in_separate_arguments(protocol, num_sets, options):
    measure, encoder = getattr(evaluation, protocol), Attending()
    parts = [noise_scenes(4, 8), noise_scenes(3, 8, seed=1)][:num_sets]
    if protocol.endswith('classification'):
        parts = [[dict(s, label=i % 3) for i, s in enumerate(part)] for part in parts]
    reading = dict(image_size=16, batch_size=2)
    new = measure(encoder, *(LabeledSet(part, 3, **reading) for part in parts), **options)
    with pytest.warns(
        DeprecationWarning, match=rf'{protocol}\(encoder, .*num_classes, .* is deprecated, use '
    ) as warned:
        old = measure(encoder, *parts, 3, *options.values(), **reading)  # by position
    assert len(warned) == 1 and old.keys() == new.keys()
    assert repr(old) == repr(new)  # NaN included
    names = {
        1: ['dataset'],
        2: ['memory', 'queries'] if 'retrieval' in protocol else ['train', 'val'],
    }
    with pytest.warns(DeprecationWarning, match='is deprecated, use '):
        named = measure(
            encoder, **dict(zip(names[num_sets], parts)), num_classes=3, **options, **reading
        )
    assert repr(named) == repr(new)


def test_last_position_of_the_separate_arguments():
    new = evaluation.dense_retrieval(
        PixelEncoder(), LabeledSet(scenes(2), 3, 16, 1), LabeledSet(scenes(2), 3, 16, 1), 3, seed=1
    )
    with pytest.warns(DeprecationWarning, match='is deprecated, use '):
        old = evaluation.dense_retrieval(
            PixelEncoder(), scenes(2), scenes(2), 3, 3, 0.02, None, 0, 16, 1, 'cpu', None, 1
        )
    assert old == new


def test_old_name_of_a_skipped_step():
    wrapper = OPTIM_WRAPPERS.build(
        dict(
            type='MixedPrecisionOptimWrapper',
            dtype='float32',
            optimizer=torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0),
        )
    )
    with pytest.warns(DeprecationWarning, match='left_out is deprecated, use step_skipped'):
        assert wrapper.left_out is wrapper.step_skipped is False


def test_old_argument_of_match_clusters():
    clusters = np.array([[[0, 1]]])
    with pytest.warns(DeprecationWarning, match='"found" is deprecated') as warned:
        matched = match_clusters(found=clusters, reference=1 - clusters)
    assert len(warned) == 1 and (matched == 1 - clusters).all()


@pytest.mark.parametrize(
    'old, new',
    [
        ('configs/cotap/camvid_small.py', 'configs/cotap/camvid_toy.py'),
        ('configs/cotap/raccoon_small.py', 'configs/cotap/raccoon_toy.py'),
        ('configs/toy_vit/clusters.py', 'configs/cotap/toy_init.py'),
    ],
)
def test_old_config_paths(old, new):
    with pytest.warns(DeprecationWarning, match=f'{old} is deprecated, use {new}') as warned:
        config = load_config(old)
    assert len(warned) == 1
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert config.to_dict() == load_config(new).to_dict()


def test_old_config_as_a_base(tmp_path):
    old = Path(__file__).resolve().parent.parent / 'configs/cotap/camvid_small.py'
    (tmp_path / 'mine.py').write_text(f"_base_ = '{old}'\n")
    with pytest.warns(DeprecationWarning, match='camvid_small.py is deprecated'):
        assert 'renamed' not in load_config(str(tmp_path / 'mine.py'))
