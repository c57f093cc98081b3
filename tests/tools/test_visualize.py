"""One command writes a report; unavailable kinds are reported."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from mmpretrain.models import VisionTransformer
from PIL import Image

import cotap_mm.commands.visualize
from cotap_mm.visualization.report import sections
from tests.helpers.tiny import build_tiny
from tests.helpers.tool_loading import help_of, load_tool

SCRIPT = Path(__file__).resolve().parents[2] / 'tools' / 'visualize.py'


@pytest.fixture(scope='module')
def tool():
    return load_tool('visualize')


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """A CoTAP file, a plain ViT file, and labeled images of two sizes."""
    folder = tmp_path_factory.mktemp('visualize')
    torch.manual_seed(0)
    torch.save(dict(state_dict=build_tiny().state_dict()), folder / 'cotap.pth')
    vit = VisionTransformer(
        arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32),
        img_size=32,
        patch_size=8,
    )
    torch.save(
        dict(state_dict={f'backbone.{name}': value for name, value in vit.state_dict().items()}),
        folder / 'vit.pth',
    )
    random = np.random.RandomState(0)
    for kind in ('images', 'labels'):
        (folder / kind).mkdir()
    for i in range(5):
        label = np.repeat(np.arange(4, dtype=np.uint8).clip(max=3), 12)[:, None].repeat(
            40 + 8 * (i == 3), axis=1
        )
        label[label == 3] = 255
        pixels = np.array([60, 120, 180, 220])[label.clip(max=3)][..., None] + random.randint(
            -40, 30, (*label.shape, 3)
        )
        Image.fromarray(pixels.astype(np.uint8)).save(folder / 'images' / f'photo-{i}.png')
        Image.fromarray(label).save(folder / 'labels' / f'photo-{i}.png')
    return folder


@pytest.fixture
def command(files, tmp_path):
    """Arguments of a tiny report on checkpoints; @ stands for the folder of the files."""

    def make(*checkpoints, **options):
        arguments = [name.replace('@', f'{files}/') for name in checkpoints]
        arguments += [
            '--images',
            str(files / 'images'),
            '--out',
            str(tmp_path / 'out'),
            '--num-heads',
            '2',
            '--device',
            'cpu',
            '--limit',
            '2',
            '--clusters',
            '3',
        ]
        for name, value in options.items():
            arguments += [f'--{name}', *map(str, np.atleast_1d(value))]
        return arguments

    return make


def written(tmp_path):
    return sorted(path.stem for path in (tmp_path / 'out').glob('*.png'))


@pytest.mark.slow
@pytest.mark.smoke
def test_one_command_shows_all_kinds_that_are_possible(tool, command, tmp_path, capsys):
    tool.main([*command('@cotap.pth'), '--svg'])
    kinds = [
        'assignments',
        'attention',
        'clusters',
        'crops',
        'norms',
        'overview',
        'pca',
        'prototypes',
        'similarity',
    ]
    assert written(tmp_path) == kinds
    drawings = sorted((tmp_path / 'out').glob('*.svg'))
    assert [path.stem for path in drawings] == [kind for kind in kinds if kind != 'crops']  # pixels
    for path in drawings:
        text = ' '.join(ElementTree.parse(path).getroot().itertext())
        assert 'cotap visualize ' in text
        assert ('photo-' in text) == (path.stem not in ('overview', 'prototypes'))  # no outlines
    printed = capsys.readouterr().out
    assert '2 of 5 images, evenly spaced, all resized to 48 x 40 pixels' in printed
    assert 'compare: skipped, needs at least two checkpoints, got one' in printed
    assert 'classes: skipped, needs --labels' in printed
    page = (tmp_path / 'out' / 'report.html').read_text()
    assert page.count('data:image/png;base64,') == 9 and '6 x 5' in page and 'cotap.pth' in page


@pytest.mark.slow
def test_overview_of_two_checkpoints(tool, command, tmp_path, capsys):
    words = command('before=@vit.pth', 'after=@cotap.pth', kinds='overview', pool=5)
    words += ['--output', 'backbone', '--patch', '0', '1', '2', '--patch', '1', '5', '4']
    tool.main([*words, '--select', 'photo-4.png', 'photo-1.png'])
    assert written(tmp_path) == ['overview']
    page = (tmp_path / 'out' / 'report.html').read_text()
    assert 'before, after share one basis (16 channels)' in page
    assert 'of 4 other photographs' in page
    assert 'Made by <code>cotap visualize before=' in page
    with Image.open(tmp_path / 'out' / 'overview.png') as image:
        assert image.width == 1600 and 1000 < image.height < 2600  # two queries, two networks
        assert image.info['Command'].startswith('cotap visualize before=')
        assert image.info['Command'].endswith('--select photo-4.png photo-1.png')


def test_patches_and_selected_images(tool, command):
    found = inputs(tool, command, '@vit.pth', select=['photo-3.png', 'photo-0.png'])
    assert found.shown.names == ['photo-3', 'photo-0'] and found.shown_indices == [3, 0]
    args = tool.parse_args([*command('@vit.pth', patch=[1, 2, 3]), '--patch', '0', '0', '0'])
    steps = cotap_mm.commands.visualize
    found = steps.read_inputs(args, steps.named_checkpoints(args.checkpoints))
    assert found.patches == [(1, 2, 3), (0, 0, 0)] and found.patch == ((1, 2, 3), '')


@pytest.mark.slow
def test_two_checkpoints_with_labels(tool, command, files, tmp_path, capsys):
    tool.main(
        command(
            'before=@vit.pth',
            'after=@cotap.pth',
            labels=files / 'labels',
            classes=['top', 'middle', 'bottom'],
            kinds=['compare', 'classes', 'prototypes', 'similarity'],
            pool=4,
        )
    )
    assert written(tmp_path) == ['classes', 'compare', 'prototypes', 'similarity']
    printed = capsys.readouterr().out
    assert 'skipped before: ' in printed and 'no object-aware filter' in printed
    page = (tmp_path / 'out' / 'report.html').read_text()
    assert '<td>before</td>' in page and '<td>after</td>' in page


@pytest.mark.parametrize(
    'kind, message',
    [
        ('prototypes', '--kinds prototypes: vit: .* no object-aware filter'),
        ('compare', '--kinds compare: needs at least two checkpoints'),
        ('classes', '--kinds classes: needs --labels'),
    ],
)
def test_requested_kinds_must_be_possible(tool, command, tmp_path, kind, message):
    with pytest.raises(SystemExit, match=f'error: {message}'):
        tool.main(command('@vit.pth', kinds=kind))
    assert written(tmp_path) == []


@pytest.mark.parametrize(
    'options, message',
    [
        (
            dict(patch=[0, 6, 0]),
            '--patch must be an image 0..1, and a row and column of the 6 x 5 grid, .* 0 6',
        ),
        (dict(patch=[2, 0, 0]), '--patch must be an image 0..1'),
        (dict(clusters=1), 'must be in 2..60'),
        (dict(scale=0), '--scale must be positive, got 0'),
        (dict(window=3), 'window must be at least a patch of 8 pixels'),
        (dict(limit=0), 'must be positive, got 0'),
        (dict(select='photo-9.png'), '--select photo-9.png: 0 images have this name; .* photo-0'),
    ],
)
def test_errors_are_one_line(tool, command, options, message):
    with pytest.raises(SystemExit, match=f'error: .*{message}'):
        tool.main(command('@cotap.pth', **options))


def test_missing_inputs_are_reported(tool, command, files, tmp_path):
    with pytest.raises(SystemExit, match='error: .*nothing.pth'):
        tool.main(command('@nothing.pth'))
    with pytest.raises(SystemExit, match="error: .*output='filter'.* no object-aware"):
        tool.main(command('@vit.pth', output='filter'))
    with pytest.raises(
        SystemExit,
        match='--classes names 2 classes, but the labels go up to '
        'class 2, counted from 0; name all 3',
    ):
        tool.main(command('@vit.pth', labels=files / 'labels', classes=['a', 'b'], kinds='classes'))
    (tmp_path / 'bad').mkdir()
    (tmp_path / 'bad' / 'x.png').write_bytes(b'no image')
    with pytest.raises(SystemExit, match='error: .*x.png'):
        tool.main(command('@vit.pth', images=tmp_path / 'bad'))


def inputs(tool, command, *checkpoints, **options):
    args = tool.parse_args(command(*checkpoints, **options))
    steps = cotap_mm.commands.visualize
    return steps.read_inputs(args, steps.named_checkpoints(args.checkpoints))


def test_output_chooses_the_features(tool, command):
    assert inputs(tool, command, '@cotap.pth').features['cotap'].shape == (2, 32, 6, 5)
    plain = inputs(tool, command, '@cotap.pth', output='backbone')
    assert plain.features['cotap'].shape == (2, 16, 6, 5)


def test_scale_and_window_give_finer_maps(tool, command):
    found = inputs(tool, command, '@cotap.pth', scale=2, window=32)
    assert found.size == (96, 80) and found.features['cotap'].shape[2:] == (12, 10)
    whole = inputs(tool, command, '@cotap.pth', scale=2)
    assert not torch.allclose(found.features['cotap'], whole.features['cotap'])


def test_random_weights_are_the_same_in_every_run(tool, command):
    one, two = (inputs(tool, command, 'random:@vit.pth').features['random vit'] for _ in range(2))
    assert torch.equal(one, two)
    trained = inputs(tool, command, '@vit.pth').features['vit']
    assert not torch.allclose(one, trained)


def test_patch_can_be_chosen(tool, command):
    assert inputs(tool, command, '@vit.pth', patch=[1, 2, 3]).patch == ((1, 2, 3), '')


def test_patch_shows_an_object_if_there_are_labels(tool, command, files):
    # The three classes fill 1.5, 1.5 and 2 of 6 rows of patches; the last is too large.
    (_, row, _), what = inputs(
        tool, command, '@vit.pth', labels=files / 'labels', classes=['top', 'middle', 'bottom']
    ).patch
    assert (what, row) == ('top', 0)


@pytest.mark.parametrize(
    'foreground, wanted',
    [
        ([(0, 0), (4, 4), (5, 0)], (4, 4)),
        ([(0, 0), (3, 2), (3, 3)], (3, 2)),  # the middle itself
    ],
)
def test_patch_is_in_the_foreground_without_labels(tool, command, monkeypatch, foreground, wanted):
    found = inputs(tool, command, '@vit.pth')
    mask = torch.zeros(1, 6, 5, dtype=torch.bool)
    mask[0, [r for r, _ in foreground], [c for _, c in foreground]] = True
    monkeypatch.setattr(found.encoders['vit'], 'foreground', lambda images: mask)
    assert found.patch == ((0, *wanted), '')


def test_patch_is_in_the_middle_without_cls(tool, command, monkeypatch):
    def refuse(images):
        raise NotImplementedError('no CLS')

    found = inputs(tool, command, '@vit.pth')
    monkeypatch.setattr(found.encoders['vit'], 'foreground', refuse)
    assert found.patch == ((0, 3, 2), '')


def test_crops_of_a_config(tool, command, tmp_path, monkeypatch):
    config = tmp_path / 'tiny.py'
    config.write_text(
        'train_dataloader = dict(dataset=dict(crops=dict(global_size=32, '
        "local_size=16, num_local=3)))\ndefault_scope = 'cotap_mm'\n"
    )
    drawn = []
    monkeypatch.setattr(sections, 'add_crops', lambda *args, note: drawn.append(args[1:]))
    tool.main(command('@vit.pth', kinds='crops', config=config))
    images, crops, num_global = drawn[0]
    assert len(images) == len(crops) == 3 and num_global == 2
    assert [view.shape[0] for view in crops[0][0]] == [32, 32, 16, 16, 16]
    assert crops[0][1].shape == (5, 4)


@pytest.mark.slow
def test_help():
    assert '--window' in help_of(SCRIPT.stem)
