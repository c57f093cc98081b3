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
FOLDERS = '--out so --work-dir sw'
#: Errors in arguments of all studies, and in those of each.
_OF_ALL_STUDIES = [
    ('--out file', 2, 'file is a file'),
    ('--work-dir file/x', 2, 'is a file; choose another'),
    (f'{FOLDERS} --plot-only', 1, 'without --plot-only first'),
    ('--out broken --plot-only', 1, 'must hold the results of this study, and is not JSON'),
    ('--out notes', 1, 'must have one line <!-- begin results -->'),
    ('--seeds x', 2, "got 'x'"),
    ('--seeds -1', 2, "got '-1'"),
    ('--sed 1', 2, '--seeds'),
    ('--seeds', 2, '--seeds: expected at least one'),
    ('--seeds 4294967296', 2, r"in \[0, 4294967295\], got '4294967296'"),
    ('--plot_only', 2, 'did you mean --plot-only'),
    ('x', 2, 'takes nothing'),
    ("--out ''", 2, 'is empty'),
]
_ONE_STEP = f'{FOLDERS} --workers 1 --seeds 0 --imbalance 50 --steps 1'
STUDY_MISTAKES = {
    'noise_tolerance': [
        (f'{FOLDERS} --data mixtur', 2, 'did you mean mixture'),
        (f'{FOLDERS} --objectives cotap', 2, 'did you mean CoTAP'),
        (f'{FOLDERS} --objectives MSE', 2, '--objectives must contain CoTAP.*got MSE'),
        (f'{FOLDERS} --lrs nan', 2, "must be a number > 0, got 'nan'"),
        (f'{FOLDERS} --batch 1', 2, ">= 2, got '1'"),
        (f'{FOLDERS} --held-out 19', 2, ">= 20, got '19'"),
        (f'{FOLDERS} --seeds 1000', 2, 'seed 1000 is for tuning'),
        (f'{FOLDERS} --device cuda:9', 2, 'cuda:9'),
        (f'{_ONE_STEP} --imbalance 0.5', 1, 'imbalance must be >= 1, got 0.5'),
        (f'{_ONE_STEP} --data digits --train-size 10000', 1, 'digits leave 95 .* lower train_size'),
        ('--quick', 1, 'give --out another folder'),
    ],
    'over_dispersion': [
        (f'{FOLDERS} --data toyy', 2, 'did you mean toy'),
        (f'{FOLDERS} --data camvid --camvid images', 1, '--camvid images .* has no images/train'),
        (f'{FOLDERS} --iters 0', 2, "got '0'"),
        (f'{FOLDERS} --interval 0', 2, "got '0'"),
        (f'{FOLDERS} --cfg-options x', 2, "KEY=VALUE, got 'x'"),
        (f'{FOLDERS} --cfg-options modell.x=1', 1, "did you mean 'model'"),
        (f'{FOLDERS} --cfg-options train_cfg.max_iters=x', 1, "max_iters.* got 'x'"),
    ],
    'pairs_per_image': [
        (f'{FOLDERS} --camvid nowhere', 1, '--camvid nowhere .* has no images/train'),
        (f'{FOLDERS} --camvid picture.png', 1, '--camvid picture.png must be a folder'),
        (f'{FOLDERS} --topk -1', 2, "got '-1'"),
        (f'{FOLDERS} --iters x', 2, "got 'x'"),
        (f'{FOLDERS} --workers 0', 2, "got '0'"),
        (f'{FOLDERS} --cfg-options a=[1', 2, "unbalanced brackets in 'a=.1'"),
    ],
    'sensitivity': [
        (f'{FOLDERS} --config nowhere.py', 1, 'nowhere.py does not exist'),
        (f'{FOLDERS} --config images', 1, 'got the folder images'),
        (f'{FOLDERS} --config syntax.py', 1, 'SyntaxError'),
        (f'{FOLDERS} --config empty.py', 1, 'sets no model'),
        (f'{FOLDERS} --config tiny.py', 1, '--config tiny.py must train on toy scenes'),
        (f'{FOLDERS} --parameters taau', 2, 'did you mean tau'),
        (f'{FOLDERS} --batch-size 9 --train-images 4', 2, 'at most --train-images, 4, got 9'),
    ],
}
STUDY_MISTAKES = {
    f'studies/{name}': _OF_ALL_STUDIES + rows for name, rows in STUDY_MISTAKES.items()
}

#: Option of the config -> expected value in the error.
WRONG_VALUES = {
    'optim_wrapper.optimizer.betas=1': 'two numbers in',
    'optim_wrapper.optimizer.betas=(0.9,x)': 'two numbers in .* got .0.9, .x',
    'optim_wrapper.optimizer.betas=(0.9,1.5)': 'two numbers in .* got .0.9, 1.5',
    'optim_wrapper.type=1': 'the name of a class, got 1',
    'optim_wrapper.clip_grad=3': 'a dict, got 3',
    'optim_wrapper.clip_grad.max_norm=x': "a number > 0, got 'x'",
    'optim_wrapper.accumulative_counts=0': 'an integer >= 1, got 0',
    'optim_wrapper.dtype=float17': "one of auto, .* got 'float17'",
    'log_level=LOUD': "one of DEBUG, .* got 'LOUD'",
    'randomness.seed=x': r"in \[0, 4294967295\], got 'x'",
    'randomness.seed=1.5': 'an integer .* got 1.5',
    'randomness.deterministic=x': "True or False, got 'x'",
    'train_dataloader.batch_size=a': "an integer >= 1, got 'a'",
    'train_dataloader.pin_memory=x': "True or False, got 'x'",
    'train_cfg.max_iters=1.5': 'an integer >= 1, got 1.5',
    'train_cfg.by_epoch=True': 'no such key, because train_cfg.type implies it, got True',
    'default_hooks.checkpoint.interval=x': "an integer >= 1, or -1, got 'x'",
    'default_hooks.checkpoint.interval=0': 'an integer >= 1, or -1, got 0',
    'default_hooks.checkpoint.filename_tmpl=3': 'a string with {} for the number, got 3',
    'default_hooks.checkpoint.out_dir=3': 'a string, got 3',
    'default_hooks.checkpoint.published_keys=3': 'a string or a list of strings, got 3',
    'default_hooks.logger.interval=0': 'an integer >= 1, got 0',
    'default_hooks.teacher.start=2': r'a number in \[0, 1\], got 2',
    'model.backbone.arch.embed_dims=x': "an integer >= 1, got 'x'",
    'model.backbone.arch.num_heads=3': 'a divisor of embed_dims=16, got 3',
    'model.backbone.drop_path_rate=2': r'a number in \[0, 1\), got 2',
    'model.backbone.img_size=x': "an integer >= 1, or two, got 'x'",
    'model.head.patch.num_clusters=0': 'an integer >= 1, got 0',
    'model.data_preprocessor.mean=3': 'a list of numbers, .* got 3',
    'env_cfg.dist_cfg.timeout=x': "a number > 0, got 'x'",
    'env_cfg.mp_cfg.mp_start_method=x': "one of fork, .* got 'x'",
    'env_cfg.cudnn_benchmark=x': "True or False, got 'x'",
    'visualizer.vis_backends=x': "a list of dicts, got 'x'",
    'log_processor.window_size=x': "an integer >= 1, got 'x'",
    'load_from=missing.pth': "an existing file, .* got 'missing.pth'",
    'resume=x': "True or False, got 'x'",
    'work_dir=3': 'a string, got 3',
    'launcher=foo': "one of none, .* got 'foo'",
    'param_scheduler=3': 'a list of dicts, got 3',
    'param_scheduler.0.end=x': "an integer >= 0, got 'x'",
    'param_scheduler.0.begin=-1': 'an integer >= 0, got -1',
    'auto_scale_lr.base_batch_size=x': "an integer >= 1, got 'x'",
}
WRONG_OPTIONS = [
    (option, f'{option.partition("=")[0]}: expected .*{text}')
    for option, text in WRONG_VALUES.items()
] + [
    ('optim_wrapper.optimizer.foo=1', 'optimizer.foo: AdamW has no such option'),
    ('default_hooks.logger.foo=1', 'logger.foo: LoggerHook has no such option'),
    ('visualizer.type=Foo', "visualizer.type: unknown class 'Foo'"),
    ('visualizer.vis_backends.0.type=Foo', "vis_backends.0.type: unknown class 'Foo'"),
    ('log_processor.type=Foo', "log_processor.type: unknown class 'Foo'"),
    ('model.init_cfg.checkpoint=missing.pth', '--cfg-options model.init_cfg.checkpoint=missing'),
]


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
