"""Check types and ranges of config values before anything uses them."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Callable

from mmengine.config import Config

from cotap_mm.error_text import sentence_of
from cotap_mm.rules import FLAG, Rule, number, one_of, or_one_of, sequence, whole

_TEXT = Rule('a string', lambda value: isinstance(value, str) and bool(value))
_TEXTS = Rule(
    'a string or a list of strings',
    lambda value: (
        _TEXT.holds(value) or (isinstance(value, (list, tuple)) and all(map(_TEXT.holds, value)))
    ),
)
_PART = Rule('a dict', lambda value: isinstance(value, dict))
_PARTS = Rule(
    'a list of dicts',
    lambda value: (
        isinstance(value, (list, tuple)) and all(isinstance(item, dict) for item in value)
    ),
)
_COLORS = sequence('a list of numbers, one per channel', number())
_BETAS = sequence('two numbers in [0, 1)', number(0, 1, below=True), 2)
_TEMPLATE = Rule(
    'a string with {} for the number', lambda value: isinstance(value, str) and '{}' in value
)
_FILE = Rule(
    'an existing file, or a URL',
    lambda value: isinstance(value, str) and ('://' in value or Path(value).exists()),
)
_LEVELS = Rule(
    'one of DEBUG, INFO, WARNING, ERROR, CRITICAL',
    lambda value: (
        isinstance(value, int)
        and not isinstance(value, bool)
        or isinstance(logging.getLevelName(str(value).upper()), int)
    ),
)

#: Patterns of dotted keys -> rule. A value of None means the default and is not checked.
_RULES: dict[str, Rule] = {
    'log_level': _LEVELS,
    'load_from': _FILE,
    'resume': FLAG,
    'work_dir': _TEXT,
    'experiment_name': _TEXT,
    'default_scope': _TEXT,
    'launcher': one_of('none', 'pytorch', 'slurm', 'mpi'),
    'randomness.seed': whole(0, 2**32 - 1),
    'randomness.deterministic': FLAG,
    'randomness.diff_rank_seed': FLAG,
    'auto_scale_lr.enable': FLAG,
    'auto_scale_lr.base_batch_size': whole(1),
    'env_cfg.cudnn_benchmark': FLAG,
    'env_cfg.dist_cfg.timeout': number(0, above=True),
    'env_cfg.mp_cfg.mp_start_method': one_of('fork', 'spawn', 'forkserver'),
    'env_cfg.mp_cfg.opencv_num_threads': whole(0),
    'strategy': Rule(
        'a dict with a type, e.g. strategy.type=cotap_mm.CoTAPFSDPStrategy',
        lambda value: _PART.holds(value) and 'type' in value,
    ),
    'optim_wrapper.clip_grad': Rule(
        "a dict with max_norm, or with clip_value and type='value'",
        lambda value: (
            _PART.holds(value)
            and ('clip_value' if value.get('type') == 'value' else 'max_norm') in value
        ),
    ),
    'optim_wrapper.clip_grad.max_norm': or_one_of(number(0, above=True), math.inf),
    'optim_wrapper.clip_grad.clip_value': or_one_of(number(0, above=True), math.inf),
    'optim_wrapper.clip_grad.norm_type': or_one_of(number(0, above=True), 'inf', math.inf),
    'optim_wrapper.accumulative_counts': whole(1),
    'optim_wrapper.optimizer.betas': _BETAS,
    'optim_wrapper.optimizer.amsgrad': FLAG,
    'optim_wrapper.optimizer.maximize': FLAG,
    'optim_wrapper.optimizer.fused': FLAG,
    'optim_wrapper.optimizer.foreach': FLAG,
    'train_dataloader.batch_size': whole(1),
    'train_dataloader.num_workers': whole(0),
    'train_cfg.max_iters': whole(1),
    'train_cfg.max_epochs': whole(1),
    '*_dataloader.pin_memory': FLAG,
    '*_dataloader.drop_last': FLAG,
    '*_dataloader.persistent_workers': FLAG,
    '*_dataloader.shuffle': FLAG,
    'default_hooks.checkpoint.interval': or_one_of(whole(1), -1),
    'default_hooks.checkpoint.max_keep_ckpts': or_one_of(whole(1), -1),
    'default_hooks.checkpoint.filename_tmpl': _TEMPLATE,
    'default_hooks.checkpoint.out_dir': _TEXT,
    'default_hooks.checkpoint.by_epoch': FLAG,
    'default_hooks.checkpoint.save_best': _TEXTS,
    'default_hooks.checkpoint.published_keys': _TEXTS,
    'default_hooks.logger.interval': whole(1),
    'log_processor.window_size': whole(1),
    'log_processor.by_epoch': FLAG,
    'visualizer.vis_backends': _PARTS,
    'param_scheduler': Rule(_PARTS.wanted, lambda value: _PART.holds(value) or _PARTS.holds(value)),
    'param_scheduler.*.begin': whole(0),
    'param_scheduler.*.by_epoch': FLAG,
    'param_scheduler.*.end': Rule(
        'an integer >= 0', lambda value: value == math.inf or whole(0).holds(value)
    ),
    'param_scheduler.*.eta_min': number(0),
    'param_scheduler.*.eta_min_ratio': number(0),
    'param_scheduler.*.gamma': number(0, above=True),
    'param_scheduler.*.T_max': whole(1),
    'model.data_preprocessor.mean': _COLORS,
    'model.data_preprocessor.std': _COLORS,
}
#: Only for pre-training; in other libraries these keys may have another meaning.
_OURS: dict[str, Rule] = {
    'optim_wrapper.dtype': one_of('auto', 'bfloat16', 'float16', 'float32'),
    'train_cfg.by_epoch': Rule(
        'no such key, because train_cfg.type implies it', lambda value: False
    ),
    'model.backbone.arch.embed_dims': whole(1),
    'model.backbone.arch.num_heads': whole(1),
    'model.backbone.arch.num_layers': whole(1),
    'model.backbone.arch.feedforward_channels': whole(1),
    'model.loss_weights.*': number(0),
    'model.init_cfg': _PART,
}


def check_values(config: Config) -> None:
    """Reject values of a wrong type or out of range.

    Args:
        config (Config): A config of any library.

    Raises:
        ValueError: Lists each such key with its rule and its value.
    """
    rules = dict(_RULES)
    if config.get('default_scope', 'cotap_mm') == 'cotap_mm':
        rules.update(_OURS)
    errors = []
    for key, value in _values(config._cfg_dict.to_dict(), ''):
        if key.split('.')[-1] == 'type' and not (isinstance(value, str) or callable(value)):
            errors.append(f'{key}: expected the name of a class, got {value!r}')
        rule = (
            None
            if value is None
            else rules.get(key)
            or next(
                (
                    rule
                    for pattern, rule in rules.items()
                    if '*' in pattern and fnmatchcase(key, pattern)
                ),
                None,
            )
        )
        if rule is not None and not rule.holds(value):
            errors.append(f'{key}: expected {rule.wanted}, got {value!r}')
    if not errors:
        errors = _head_errors(config)
    if errors:
        raise ValueError('invalid config:\n  ' + '\n  '.join(errors))


@contextmanager
def explained_options(
    options: dict[str, Any] | None, until: Callable[[], bool] = lambda: False
) -> Iterator[None]:
    """Name the command-line options in errors that may be caused by them.

    Classes of other libraries report a wrong value only by an error of Python.

    Args:
        options (dict, optional): Values of ``--cfg-options``; without them errors are unchanged.
        until (callable): Returns whether the set-up is complete; errors after it are unchanged.

    Raises:
        ValueError: Names the options and the original error.
    """
    try:
        yield
    except (TypeError, IndexError, AttributeError, LookupError, ArithmeticError) as error:
        if not options or until():
            raise
        given = ' '.join(f'{key}={value}' for key, value in options.items())
        raise ValueError(
            f'building failed with --cfg-options {given}: '
            f'{type(error).__name__}: {sentence_of(error)}; if the error does not name the '
            'wrong option, remove them one by one'
        ) from error


def _head_errors(config: Config) -> list[str]:
    """Error if the width of a pre-training backbone is not a multiple of its number of heads."""
    model = config.get('model')
    backbone = model.get('backbone') if isinstance(model, dict) else None
    arch = backbone.get('arch') if isinstance(backbone, dict) else None
    if not isinstance(arch, dict) or not {'embed_dims', 'num_heads'} <= set(arch):
        return []
    width, heads = arch['embed_dims'], arch['num_heads']
    if not (whole(1).holds(width) and whole(1).holds(heads)) or width % heads == 0:
        return []
    return [f'model.backbone.arch.num_heads: expected a divisor of embed_dims={width}, got {heads}']


def _values(part: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Yield all values of a config with their dotted keys, containers before their items."""
    items = (
        part.items()
        if isinstance(part, dict)
        else enumerate(part)
        if isinstance(part, (list, tuple))
        else ()
    )
    for name, value in items:
        inner = f'{key}.{name}'.lstrip('.')
        yield inner, value
        yield from _values(value, inner)
