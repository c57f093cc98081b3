"""Common user errors of each tool: one sentence, no traceback, no new files.

A row: arguments, exit status (2: invalid command line, 1: everything else), and a pattern that
the sentence must match.
"""

from __future__ import annotations

import logging
import re
import shlex
import sys

import pytest

from tests.helpers.mistakes import STUDY_MISTAKES, WRONG_OPTIONS, ending, listing, write_everything
from tests.helpers.tool_loading import TOOLS, load_tool

TRAIN = 'tiny.py --images images --work-dir run'
MEASURE = '--protocol dispersion --data folder --root data --classes a b --out out --device cpu'
LOOK = '--images images --out out --device cpu --limit 2 --size 32 32'
NEIGHBORS = (
    '--out n.npz --backbone tiny.py --checkpoint none --device cpu --image-size 32 --workers 0'
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

MISTAKES = {
    'train': [
        ('', 2, 'required: config'),
        ('vits_foldr', 1, 'did you mean vits_folder'),
        ('images', 1, 'must be a file, got the folder images'),
        ('iter_1.pth --images images', 1, 'must be a file .*got iter_1.pth'),
        ('images tiny.py', 2, 'unrecognized arguments: tiny.py; .* takes config'),
        ('syntax.py', 1, 'syntax.py cannot be read: SyntaxError'),
        ('name.py', 1, r'name.py cannot be read: NameError: .*dcit.* \(line 1\)'),
        ('base.py', 1, 'nowhere.py'),
        ('empty.py', 1, 'empty.py sets no model'),
        ('notes.yaml', 1, 'notes.yaml cannot be read'),
        ('tiny.py --imags images', 2, r'did you mean --images\?'),
        ('tiny.py --images', 2, '--images: expected one argument'),
        ("tiny.py --images ''", 2, "after '--images', is empty"),
        ('tiny.py --images images --work-dir file', 2, 'file is a file; choose a folder'),
        ('tiny.py --images images --work-dir file/run', 2, 'file is a file; choose another'),
        (f'tiny.py --images images --work-dir {"x" * 300}', 2, 'too long'),
        *((f'{TRAIN} --init {name}', 1, text) for name, text in NO_CHECKPOINTS.items()),
        *((f'tiny.py --work-dir run --images {name}', 1, text) for name, text in NO_IMAGES.items()),
        (f'{TRAIN} --seed x', 2, "--seed: must be a whole number .* got 'x'"),
        (f'{TRAIN} --seed -1', 2, "got '-1'"),
        (f'{TRAIN} --value-range 1', 2, '--value-range: expected 2 arguments'),
        (f'{TRAIN} --value-range 9 1', 1, '9'),
        (f'{TRAIN} --value-range nan 1', 1, 'nan'),
        (f'{TRAIN} --trust', 1, '--trust requires --init'),
        (f'{TRAIN} --device cuda', 2, 'unrecognized arguments: --device cuda'),
        (f'{TRAIN} --resume iter_1.pth', 2, 'unrecognized arguments: iter_1.pth'),
        (f'{TRAIN} --launcher slurms', 2, 'did you mean slurm'),
        (f'{TRAIN} --launcher pytorch', 1, 'RANK.* tools/dist_train.sh'),
        (f'{TRAIN} --cfg-options x', 2, "KEY=VALUE, got 'x'"),
        (f'{TRAIN} --cfg-options a=[1', 2, "unbalanced brackets in 'a=.1'"),
        (f'{TRAIN} --cfg-options modèle=1', 1, "did you mean 'model'"),
        *(
            (f'{TRAIN} --cfg-options {option}', 1, text)
            for option, text in (
                ('train_dataloader.batch_size=0', 'batch_size'),
                ('train_dataloader.batch_size=99', 'batch_size=6'),
                ('train_dataloader.num_workers=-1', 'num_workers.* got -1'),
                ('train_dataloader.dataset.crops.global_size=33', 'multiple of .*patch_size=8'),
                ('train_dataloader.dataset.crops.local_size=-16', 'local_size.* got -16'),
                ('train_cfg.max_iters=x', "max_iters.* got 'x'"),
                ('train_cfg.max_iters=-1', 'max_iters.* got -1'),
                ('optim_wrapper.optimizer.lr=nan', 'lr: expected a number .* got nan'),
                ('optim_wrapper.optimizer.lr=-1', 'got -1'),
                ('optim_wrapper.optimizer.type=Adamw', "did you mean 'AdamW'"),
                ('model.type=CoTaP', "did you mean 'CoTAP'"),
                ('model.neck.num_prototypes=x', "num_prototypes.*got 'x'"),
                ('model.backbone.patch_size=0', 'patch_size.* got 0'),
                ('model.backbone=1', 'model.backbone: this is a dict'),
                *WRONG_OPTIONS,
            )
        ),
        ('camvid_linear --images images', 1, 'camvid_linear is for mmseg'),
    ],
    'test': [
        ('', 2, 'required: config, checkpoint'),
        ('camvid_linear', 2, 'required: checkpoint'),
        ('camvid_liner iter_1.pth', 1, 'did you mean camvid_linear'),
        ('iter_1.pth camvid_linear', 1, 'must be a file .*got iter_1.pth'),
        ('images iter_1.pth', 1, 'got the folder images'),
        ('syntax.py iter_1.pth', 1, 'SyntaxError'),
        ('empty.py iter_1.pth', 1, 'sets no model'),
        ('tiny.py iter_1.pth', 1, 'is for pre-training'),
        ('camvid_linear nowhere.pth', 1, 'nowhere.pth is not a file'),
        ('camvid_linear images', 1, 'images is not a file'),
        ('camvid_linear iter_1.pth --work-dir file/x', 2, 'is a file; choose another'),
        ('camvid_linear iter_1.pth --workdir x', 2, 'did you mean --work-dir'),
        ('camvid_linear iter_1.pth --cfg-options x', 2, "KEY=VALUE, got 'x'"),
        ('camvid_linear iter_1.pth --cfg-options modell.x=1', 1, "did you mean 'model'"),
        ('camvid_linear iter_1.pth --launcher pytorch', 1, 'tools/dist_train.sh'),
        ('camvid_linear iter_1.pth --device cpu', 2, 'unrecognized arguments: --device'),
    ],
    'evaluate': [
        ('', 2, 'required: BACKBONE, --protocol, --data'),
        *((f'{name} {MEASURE}', 1, text) for name, text in NO_CHECKPOINTS.items()),
        (f'data iter_1.pth {MEASURE}', 1, 'data'),
        (f'iter_1.pth iter_1.pth {MEASURE}', 1, "two backbones are called 'iter_1'"),
        (f'iter_1.pth@bakbone {MEASURE}', 1, 'iter_1.pth@bakbone'),
        (f'iter_1.pth {MEASURE} --devise cpu', 2, r'did you mean --device\?'),
        (f'iter_1.pth {MEASURE} --device gpu', 2, "cpu, cuda or cuda:N, got 'gpu'"),
        (f'iter_1.pth {MEASURE} --device cuda:9', 2, 'cuda:9'),
        (f'iter_1.pth {MEASURE} --device meta', 2, 'meta cannot be used'),
        (f'iter_1.pth {MEASURE} --limit x', 2, "--limit: .* got 'x'"),
        (f'iter_1.pth {MEASURE} --limit 0', 2, "--limit: .* got '0'"),
        (f'iter_1.pth {MEASURE} --image-size -1', 2, "--image-size: .* got '-1'"),
        (f'iter_1.pth {MEASURE} --image-size 8 8 8', 2, 'one or two numbers'),
        (f'iter_1.pth {MEASURE} --set purity', 2, "KEY=VALUE, got 'purity'"),
        (f'iter_1.pth {MEASURE} --set puritty=1', 1, 'puritty.* did you mean purity'),
        *(
            (
                f'iter_1.pth {MEASURE} --set purity={value}',
                1,
                f'purity of .* must be .* got {value}',
            )
            for value in ('nan', 'inf', '-1', '0', '1.5')
        ),
        (f'iter_1.pth {MEASURE} --network teachr', 2, 'did you mean teacher'),
        (f'iter_1.pth {MEASURE} --num-heads 5', 1, 'must divide the width .* got 5'),
        (f'iter_1.pth {MEASURE} --seed -1', 2, "got '-1'"),
        (f'iter_1.pth {MEASURE} --out file', 2, 'file is a file'),
        (f'iter_1.pth {MEASURE} --out file/x', 2, 'is a file; choose another'),
        (f'iter_1.pth {MEASURE} --root nowhere', 1, 'nowhere'),
        (f'iter_1.pth {MEASURE} --root empty', 1, 'empty'),
        (f'iter_1.pth {MEASURE} --protocol dispersoin', 1, "got 'dispersoin'"),
        (f'iter_1.pth {MEASURE} --protocol knn', 1, 'knn needs data for classification'),
        (f'iter_1.pth {MEASURE} --data camvidd', 1, "got 'camvidd'"),
        (f'iter_1.pth {MEASURE} --data picture.png', 1, 'picture.png'),
        (f'iter_1.pth {MEASURE} --protocol linear-seg', 1, 'images/train'),
    ],
    'visualize': [
        ('', 2, 'required: .*CHECKPOINT, --images, --out'),
        *((f'{name} {LOOK}', 1, text) for name, text in NO_CHECKPOINTS.items()),
        *((f'iter_1.pth --out out --images {name}', 1, text) for name, text in NO_IMAGES.items()),
        (f'images iter_1.pth {LOOK}', 1, 'images'),
        (f'iter_1.pth {LOOK} --kinds pcaa', 2, 'did you mean pca'),
        (f'iter_1.pth {LOOK} --kinds classes', 1, 'needs --labels'),
        (f'iter_1.pth {LOOK} --kinds compare', 1, 'needs at least two checkpoints'),
        (f'iter_1.pth {LOOK} --labels nowhere', 1, 'nowhere'),
        (f'iter_1.pth {LOOK} --labels images --kinds classes', 1, 'one channel'),
        (
            'iter_1.pth --images data/images/val --labels data/labels/val --classes a --out out '
            '--size 32 32 --device cpu --kinds classes',
            1,
            '--classes names 1 .* name all 2',
        ),
        (f'iter_1.pth {LOOK} --size 32', 2, '--size: expected 2 arguments'),
        (f'iter_1.pth {LOOK} --size 0 32', 2, "got '0'"),
        (f'iter_1.pth {LOOK} --limt 3', 2, 'did you mean --limit'),
        (f'iter_1.pth {LOOK} --limit -1', 1, 'must be positive, got -1'),
        (f'iter_1.pth {LOOK} --scale nan', 1, '--scale must be positive, got nan'),
        (f'iter_1.pth {LOOK} --scale 1e9', 1, '16384'),
        (f'iter_1.pth {LOOK} --window 1 --kinds pca', 1, 'window must be at least'),
        (f'iter_1.pth {LOOK} --clusters 1 --kinds clusters', 1, 'got 1'),
        (f'iter_1.pth {LOOK} --patch 9 0 0 --kinds similarity', 1, 'got 9 0 0'),
        (f'iter_1.pth {LOOK} --config camvid_linear --kinds crops', 1, 'not a pre-training'),
        (f'iter_1.pth {LOOK} --out file', 2, 'file is a file'),
        (f'iter_1.pth {LOOK} --out texts', 1, 'report.html exists and is not a report of'),
        (f'iter_1.pth {LOOK} --device cuda:9', 2, 'cuda:9'),
    ],
    'viewer': [
        ('', 2, 'required'),
        ('iter_1.pth', 2, 'required: images'),
        ('images iter_1.pth --port 0', 1, 'images'),
        ('nowhere.pth images --port 0', 1, 'nowhere.pth is not a file'),
        ('page.pth images --port 0', 1, 'page.pth is damaged'),
        ('iter_1.pth nowhere --port 0', 1, 'folder nowhere does not exist'),
        ('iter_1.pth empty --port 0', 1, 'contains no images'),
        ('iter_1.pth texts --port 0', 1, 'contains no images'),
        ('iter_1.pth images --port 80000', 2, r"--port: .*\[0, 65535\], got '80000'"),
        ('iter_1.pth images --port -1', 2, "got '-1'"),
        ('iter_1.pth images --port http', 2, "got 'http'"),
        ('iter_1.pth images --host no-such-host.invalid', 1, 'cannot be resolved'),
        ('iter_1.pth images --host 192.0.2.1', 1, 'another --host'),
        ('iter_1.pth images --allow-host https://x.org', 2, "a name like .* got 'https://x.org'"),
        ('iter_1.pth images --root-path viewer', 2, "a path like /viewer .* got 'viewer'"),
        ('iter_1.pth images --root_path /viewer', 2, 'did you mean --root-path'),
        ('iter_1.pth images --shown 0', 2, "got '0'"),
        ('iter_1.pth images --device cuda:9', 2, 'cuda:9'),
        ('iter_1.pth images --output filtr', 2, 'did you mean filter'),
    ],
    'convert': [
        ('', 2, 'required: checkpoint, out'),
        ('iter_1.pth', 2, 'required: out'),
        *((f'{name} o.pth', 1, text) for name, text in NO_CHECKPOINTS.items()),
        ('o.pth iter_1.pth', 1, 'iter_1.pth'),
        ('iter_1.pth iter_1.pth --overwrite', 1, 'is the checkpoint itself'),
        ('iter_1.pth ./iter_1.pth --overwrite', 1, 'is the checkpoint itself'),
        ('iter_1.pth o.txt', 1, r'\*.pth .*got o.txt'),
        ('iter_1.pth images', 1, 'got images'),
        ('iter_1.pth file/o.pth', 2, 'is a file; choose another'),
        ('iter_1.pth o.pth --to onx', 2, 'did you mean onnx'),
        ('iter_1.pth o.pth --to onnx', 1, r'\*.onnx, got o.pth'),
        ('iter_1.pth o.onnx --to onnx --size 0 0', 2, "got '0'"),
        ('iter_1.pth o.pth --source dinoo', 2, 'did you mean dino'),
        ('iter_1.pth o.pth --source hf', 1, 'iter_1.pth|hf'),
        ('iter_1.pth o.pth --num-heads 5', 1, 'must divide the width'),
        ('iter_1.pth o.pth --overwite', 2, 'did you mean --overwrite'),
        ("iter_1.pth ''", 2, 'is empty'),
    ],
    'publish': [
        ('', 2, 'required: checkpoint, out, --license'),
        ('iter_1.pth o.pth', 2, 'required: --license'),
        ('iter_1.pth o.pth --licence MIT', 2, r'--licence is unknown \(did you mean --license'),
        *(
            (f'{name} o.pth --license MIT', 1, text)
            for name, text in NO_CHECKPOINTS.items()
            if name != 'head.pth'
        ),
        ('o.pth iter_1.pth --license MIT', 1, 'o.pth is not a file'),
        ('iter_1.pth o.txt --license MIT', 2, "must end in .pth, got 'o.txt'"),
        ('iter_1.pth images --license MIT', 2, 'images is a folder'),
        ('iter_1.pth file/o.pth --license MIT', 2, 'is a file; choose another'),
        ("iter_1.pth o.pth --license ' '", 1, 'license must not be empty'),
        ('iter_1.pth o.pth --license MIT --network techer', 2, 'did you mean teacher'),
        ('iter_1.pth o.pth x --license MIT', 2, 'unrecognized arguments: x'),
    ],
    'build_neighbors': [
        ('', 2, 'required: images, --out'),
        ('images', 2, 'required: --out'),
        *((f'{name} {NEIGHBORS}', 1, text) for name, text in NO_IMAGES.items()),
        *(
            (f'images {NEIGHBORS} --checkpoint {name}', 1, text)
            for name, text in NO_CHECKPOINTS.items()
            if name != 'head.pth'
        ),
        (f'images {NEIGHBORS} --out n.txt', 2, "must end in .npz, got 'n.txt'"),
        (f'images {NEIGHBORS} --out images', 2, 'images is a folder'),
        *(
            (f'images {NEIGHBORS} --out {name}', 1, f'{name} exists and is not a neighbor file')
            for name in ('bad.npz', 'other.npz')
        ),
        (f'images {NEIGHBORS} --image-size 30', 1, 'patch size, 8, got 30; use 24 or 32'),
        (f'images {NEIGHBORS} --image-size 7', 1, 'patch size, 8, got 7; use 8'),
        (f'images {NEIGHBORS} --out file/n.npz', 2, 'is a file; choose another'),
        (f'images {NEIGHBORS} --backbone tny.py', 1, 'tny.py does not exist'),
        (f'images {NEIGHBORS} --backbone deit-smal', 1, "deit-small.* got 'deit-smal'"),
        (f'images {NEIGHBORS} --num-neighbors 0', 2, "got '0'"),
        (f'images {NEIGHBORS} --image-size x', 2, "got 'x'"),
        (f'images {NEIGHBORS} --batch-size 0', 2, "got '0'"),
        (f'images {NEIGHBORS} --workers -1', 2, "got '-1'"),
        (f'images {NEIGHBORS} --ann-file nowhere.txt', 1, 'nowhere.txt'),
        (f'images {NEIGHBORS} --checkpont x', 2, 'did you mean --checkpoint'),
    ],
    'pack_dataset': [
        ('', 2, 'required: images, --out'),
        ('images o.lmdb', 2, 'required: --out'),
        *((f'{name} --out o.lmdb', 1, text) for name, text in NO_IMAGES.items()),
        ('images --out o.zip', 1, '.lmdb, got o.zip'),
        ('images --out images', 2, 'images is a folder'),
        ('images --out bad.lmdb', 1, 'bad.lmdb exists and is not a file of packed images'),
        ('images --out file/o.lmdb', 2, 'is a file; choose another'),
        ('images --out o.lmdb --ann-file nowhere', 1, 'nowhere'),
        ('images --out o.lmdb --threads 0', 2, "got '0'"),
        ('images --out o.lmdb --treads 2', 2, 'did you mean --threads'),
        ("images --out ''", 2, "after '--out', is empty"),
    ],
    'demo': [
        ('--config nowhere', 1, 'nowhere does not exist'),
        ('--config images', 1, 'the folder images'),
        ('--config picture.png', 1, 'got picture.png'),
        ('--config tiny.py', 1, 'demo=dict'),
        ('--config syntax.py', 1, 'SyntaxError'),
        ('--config empty.py', 1, 'sets no model'),
        ('--config betas.py', 1, 'optim_wrapper.optimizer.betas: expected two numbers'),
        ('--seeds', 2, '--seeds: expected at least one'),
        ('--seeds x', 2, "got 'x'"),
        ('--seeds -1', 2, "got '-1'"),
        ('--seeds 1.5', 2, "got '1.5'"),
        ('--iters 0', 2, "got '0'"),
        ('--iters x', 2, "got 'x'"),
        ('--work-dir file', 2, 'file is a file'),
        ('--work-dir file/x', 2, 'is a file; choose another'),
        ('--from-scrach', 2, 'did you mean --from-scratch'),
        ('images', 2, 'takes nothing'),
    ],
    'benchmark': [
        ('', 2, 'required: kind'),
        ('los', 2, 'did you mean loss'),
        ('loss --pairs x', 2, "got 'x'"),
        ('loss --pairs 0', 2, "got '0'"),
        ('loss --runs 0', 2, "got '0'"),
        ('loss --methods pair', 2, 'did you mean pairwise'),
        ('loss --device cuda:9', 2, 'cuda:9'),
        ('loss --json file/x.json', 2, 'is a file; choose another'),
        ('loss --plot p.txt', 2, 'must end in .png'),
        ('step', 2, 'required: config'),
        ('step nowhere.py', 1, 'nowhere.py does not exist'),
        ('step tiny.py --batch-size 0', 2, "got '0'"),
        ('step tiny.py --cfg-options x', 2, "got 'x'"),
        ('data nowhere', 1, 'nowhere does not exist'),
        ('data empty', 1, 'contains no images'),
        ('transfer nowhere.py --variant a', 1, 'nowhere.py does not exist'),
        ('transfer tiny.py --variant a init', 1, "KEY=VALUE .* got 'init'"),
        ('transfer tiny.py --variant a --seeds x', 2, "got 'x'"),
    ],
    **STUDY_MISTAKES,
}
ROWS = [
    pytest.param(tool, *row, id=f'{tool} {row[0][:60]}')
    for tool, rows in MISTAKES.items()
    for row in rows
]


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp('mistakes')
    write_everything(place)
    return place


@pytest.fixture(scope='module')
def tools():
    """Cache of loaded tools."""
    sys.path[:0] = [str(TOOLS), str(TOOLS / 'studies')]
    loaded = {}
    yield lambda name: loaded[name] if name in loaded else loaded.setdefault(name, load_tool(name))
    del sys.path[:2]


@pytest.fixture(autouse=True)
def in_place(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.delenv('COTAP_TRACEBACK', raising=False)
    for name in ('RANK', 'WORLD_SIZE'):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize('tool, arguments, status, text', ROWS)
def test_user_error_is_one_sentence(tools, place, capsys, tool, arguments, status, text):
    before = listing(place)
    found, sentences, everything = ending(tools(tool).main, shlex.split(arguments), capsys)
    assert found == status, everything
    assert len(sentences) == 1 and re.search(text, sentences[0]), everything
    assert 'Traceback' not in everything
    assert listing(place) == before


@pytest.mark.parametrize(
    'tool, arguments, package',
    [
        ('pack_dataset', 'images --out o.lmdb', 'lmdb'),
        ('build_neighbors', f'images {NEIGHBORS} --faiss --num-neighbors 2', 'faiss'),
        ('convert', 'iter_1.pth o.onnx --to onnx', 'onnx'),
        ('convert', 'iter_1.pth o.safetensors --to safetensors', 'safetensors'),
        ('viewer', 'iter_1.pth images --port 0', 'gradio'),
    ],
)
def test_missing_package_is_named(tools, place, capsys, monkeypatch, tool, arguments, package):
    main, before = tools(tool).main, listing(place)
    for name in [
        name
        for name in sys.modules
        if name.split('.')[0] == package or name == 'cotap_mm.visualization.viewer.app'
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    status, sentences, everything = ending(main, shlex.split(arguments), capsys)
    assert status == 1 and 'Traceback' not in everything, everything
    assert len(sentences) == 1 and re.search(f'pip install .*{package}', sentences[0]), everything
    assert listing(place) == before


@pytest.mark.parametrize(
    'option, text',
    [
        ('model.neck.num_prototypes=0', 'no prototypes'),
        ('randomness.foo=1', '--cfg-options randomness.foo=1: .* unexpected keyword argument'),
        ('train_dataloader.dataset.crops.global_scale=(2,1)', 'global_scale must be .* got .2, 1'),
    ],
)
def test_failed_start_keeps_only_neighbors(tools, tmp_path, capsys, monkeypatch, option, text):
    """Computing neighbors can take hours, and the next attempt needs them."""
    monkeypatch.setattr(logging, 'raiseExceptions', False)  # loggers refer to an earlier stderr
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'tiny.py').write_text('mine')
    status, sentences, everything = ending(
        tools('train').main,
        ['tiny.py', '--images', 'images', '--work-dir', tmp_path / 'run', '--cfg-options', option],
        capsys,
    )
    assert status == 1 and len(sentences) == 1 and re.search(text, sentences[0]), everything
    assert 'Traceback' not in everything
    left = [name for name, _ in listing(tmp_path / 'run')]
    assert left == [next(name for name in left if name.startswith('neighbors_')), 'tiny.py']


def test_a_neighbor_file_that_does_not_exist(tools, tmp_path, capsys):
    status, sentences, everything = ending(
        tools('train').main,
        [
            'tiny.py',
            '--images',
            'images',
            '--work-dir',
            tmp_path / 'run',
            '--neighbors',
            'nowhere.npz',
        ],
        capsys,
    )
    assert status == 1 and 'nowhere.npz does not exist' in sentences[0], everything
