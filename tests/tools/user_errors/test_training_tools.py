"""User errors of training and testing."""

from __future__ import annotations

import re

import pytest

from tests.helpers.mistakes import ending
from tests.helpers.user_errors import NO_CHECKPOINTS, NO_IMAGES, TRAIN, check_user_error, rows

#: Option of the config -> expected value in the error.
WRONG_VALUES = {
    'optim_wrapper.optimizer.betas=1': 'two numbers in',
    'optim_wrapper.optimizer.betas=(0.9,x)': 'two numbers in .* got .0.9, .x',
    'optim_wrapper.optimizer.betas=(0.9,1.5)': 'two numbers in .* got .0.9, 1.5',
    'optim_wrapper.type=1': 'the name of a class, got 1',
    'optim_wrapper.clip_grad=3': 'a dict with max_norm, .* got 3',
    'optim_wrapper.clip_grad.norm_type=x optim_wrapper.clip_grad.max_norm=1': "inf, got 'x'",
    'optim_wrapper.clip_grad.max_norm=x': "a number > 0, or inf, got 'x'",
    'optim_wrapper.accumulative_counts=0': 'an integer >= 1, got 0',
    'optim_wrapper.dtype=float17': "one of auto, .* got 'float17'",
    'strategy=x': "a dict with a type, e.g. strategy.type=cotap_mm.CoTAPFSDPStrategy, got 'x'",
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
FSDP = 'strategy.type=cotap_mm.CoTAPFSDPStrategy'
WRONG_OPTIONS = [
    (option, f'{option.partition("=")[0]}: expected .*{text}')
    for option, text in WRONG_VALUES.items()
] + [
    ('optim_wrapper.clip_grad.norm_type=1', 'clip_grad: .* a dict with max_norm, .* got {.norm'),
    ('optim_wrapper.clip_grad.type=value', "clip_grad: .* or with clip_value and type='value', "),
    ('optim_wrapper.optimizer.foo=1', 'optimizer.foo: AdamW has no such option'),
    ('default_hooks.logger.foo=1', 'logger.foo: LoggerHook has no such option'),
    ('visualizer.type=Foo', "visualizer.type: unknown class 'Foo'"),
    ('visualizer.vis_backends.0.type=Foo', "vis_backends.0.type: unknown class 'Foo'"),
    ('log_processor.type=Foo', "log_processor.type: unknown class 'Foo'"),
    ('strategy.type=cotap_mm.CoTAPFSDPStrategi', "strategy.type: .* mean 'CoTAPFSDPStrategy'"),
    ('strategy.version=1', "strategy: expected a dict with a type, .* got {'version': 1}"),
    (f'strategy.versions=1 {FSDP}', "strategy.versions: .*no such option; did you mean 'version'"),
    (f'strategy.mp_policy=x {FSDP}', "strategy.mp_policy='x' is not supported: .* use --amp"),
    (f'strategy.env_kwargs=dict() {FSDP}', 'strategy.env_kwargs={} is not supported: .* randomn'),
    ('model.init_cfg.checkpoint=missing.pth', '--cfg-options model.init_cfg.checkpoint=missing'),
]

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
}


@pytest.mark.parametrize('tool, arguments, status, text', rows(MISTAKES))
def test_user_error_is_one_sentence(tools, place, capsys, tool, arguments, status, text):
    check_user_error(tools(tool).main, place, capsys, arguments, status, text)


@pytest.mark.parametrize(
    'options, text',
    [
        (
            'load_from=iter_1.pth model.backbone.arch.embed_dims=24',
            r'load_from=iter_1.pth is .* backbone.cls_token has shape \(1, 1, 16\) .*1, 24\) with',
        ),
        (
            'load_from=head.pth',
            r'load_from=head.pth must be a checkpoint .* (\d+) of \1 .* is backbone.cls_token',
        ),
    ],
)
def test_weights_of_another_network_are_not_loaded(tools, tmp_path, capsys, options, text):
    """MMEngine would only warn, and train random weights."""
    line = ['tiny.py', '--images', 'images', '--work-dir', tmp_path, '--cfg-options']
    status, (sentence,), output = ending(tools('train').main, [*line, *options.split()], capsys)
    assert status == 1 and re.search(text, sentence), output
    assert 'Traceback' not in output and not list(tmp_path.glob('*.pth'))
