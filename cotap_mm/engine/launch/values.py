"""Check types and ranges of config values before anything uses them."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Callable, NamedTuple

from mmengine.config import Config

from cotap_mm.error_text import sentence_of


class Kind(NamedTuple):
    """A rule for a value: its description, and a test."""

    wanted: str
    holds: Callable[[Any], bool]


def _whole(low: int, high: float = math.inf) -> Kind:
    limits = f'>= {low}' if high == math.inf else f'in [{low}, {high}]'
    return Kind(
        f'an integer {limits}',
        lambda value: (
            isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        ),
    )


def _number(low: float, high: float = math.inf, above: bool = False, below: bool = False) -> Kind:
    """A number in a range; ``above`` excludes its lower end, ``below`` its upper end."""
    if low == -math.inf:
        wanted = 'a number'
    elif high == math.inf:
        wanted = f'a number {">" if above else ">="} {low:g}'
    else:
        wanted = f'a number in {"(" if above else "["}{low:g}, {high:g}{")" if below else "]"}'

    def holds(value: Any) -> bool:
        return (
            isinstance(value, (int, float))
            and not isinstance(value, bool)
            and low <= value <= high
            and not (above and value == low)
            and not (below and value == high)
        )

    return Kind(wanted, holds)


def _one_of(*choices: str) -> Kind:
    return Kind(f'one of {", ".join(choices)}', lambda value: value in choices)


def _or(first: Kind, value: Any) -> Kind:
    return Kind(
        f'{first.wanted}, or {value}',
        lambda given: type(given) is type(value) and given == value or first.holds(given),
    )


_FLAG = Kind('True or False', lambda value: isinstance(value, bool))
_TEXT = Kind('a string', lambda value: isinstance(value, str) and bool(value))
_TEXTS = Kind(
    'a string or a list of strings',
    lambda value: (
        _TEXT.holds(value) or (isinstance(value, (list, tuple)) and all(map(_TEXT.holds, value)))
    ),
)
_PART = Kind('a dict', lambda value: isinstance(value, dict))
_PARTS = Kind(
    'a list of dicts',
    lambda value: (
        isinstance(value, (list, tuple)) and all(isinstance(item, dict) for item in value)
    ),
)
_COLORS = Kind(
    'a list of numbers, one per channel',
    lambda value: (
        isinstance(value, (list, tuple)) and all(_number(-math.inf).holds(item) for item in value)
    ),
)
_SIDES = Kind(
    'an integer >= 1, or two',
    lambda value: (
        _whole(1).holds(value)
        or (
            isinstance(value, (list, tuple))
            and len(value) == 2
            and all(map(_whole(1).holds, value))
        )
    ),
)
_BETAS = Kind(
    'two numbers in [0, 1)',
    lambda value: (
        isinstance(value, (list, tuple))
        and len(value) == 2
        and all(_number(0, 1, below=True).holds(item) for item in value)
    ),
)
_TEMPLATE = Kind(
    'a string with {} for the number', lambda value: isinstance(value, str) and '{}' in value
)
_FILE = Kind(
    'an existing file, or a URL',
    lambda value: isinstance(value, str) and ('://' in value or Path(value).exists()),
)
_LEVELS = Kind(
    'one of DEBUG, INFO, WARNING, ERROR, CRITICAL',
    lambda value: (
        isinstance(value, int)
        and not isinstance(value, bool)
        or isinstance(logging.getLevelName(str(value).upper()), int)
    ),
)

#: Patterns of dotted keys -> rule. A value of None means the default and is not checked.
_KINDS: dict[str, Kind] = {
    'log_level': _LEVELS,
    'load_from': _FILE,
    'resume': _FLAG,
    'work_dir': _TEXT,
    'experiment_name': _TEXT,
    'default_scope': _TEXT,
    'launcher': _one_of('none', 'pytorch', 'slurm', 'mpi'),
    'randomness.seed': _whole(0, 2**32 - 1),
    'randomness.deterministic': _FLAG,
    'randomness.diff_rank_seed': _FLAG,
    'auto_scale_lr.enable': _FLAG,
    'auto_scale_lr.base_batch_size': _whole(1),
    'env_cfg.cudnn_benchmark': _FLAG,
    'env_cfg.dist_cfg.timeout': _number(0, above=True),
    'env_cfg.mp_cfg.mp_start_method': _one_of('fork', 'spawn', 'forkserver'),
    'env_cfg.mp_cfg.opencv_num_threads': _whole(0),
    'strategy': Kind(
        'a dict with a type, e.g. strategy.type=cotap_mm.CoTAPFSDPStrategy',
        lambda value: _PART.holds(value) and 'type' in value,
    ),
    'optim_wrapper.clip_grad': Kind(
        "a dict with max_norm, or with clip_value and type='value'",
        lambda value: (
            _PART.holds(value)
            and ('clip_value' if value.get('type') == 'value' else 'max_norm') in value
        ),
    ),
    'optim_wrapper.clip_grad.max_norm': _number(0, above=True),
    'optim_wrapper.clip_grad.clip_value': _number(0, above=True),
    'optim_wrapper.clip_grad.norm_type': _or(_number(0, above=True), 'inf'),
    'optim_wrapper.accumulative_counts': _whole(1),
    'optim_wrapper.optimizer.betas': _BETAS,
    'optim_wrapper.optimizer.amsgrad': _FLAG,
    'optim_wrapper.optimizer.maximize': _FLAG,
    'optim_wrapper.optimizer.fused': _FLAG,
    'optim_wrapper.optimizer.foreach': _FLAG,
    'train_dataloader.batch_size': _whole(1),
    'train_dataloader.num_workers': _whole(0),
    'train_cfg.max_iters': _whole(1),
    'train_cfg.max_epochs': _whole(1),
    '*_dataloader.pin_memory': _FLAG,
    '*_dataloader.drop_last': _FLAG,
    '*_dataloader.persistent_workers': _FLAG,
    '*_dataloader.shuffle': _FLAG,
    'default_hooks.checkpoint.interval': _or(_whole(1), -1),
    'default_hooks.checkpoint.max_keep_ckpts': _or(_whole(1), -1),
    'default_hooks.checkpoint.filename_tmpl': _TEMPLATE,
    'default_hooks.checkpoint.out_dir': _TEXT,
    'default_hooks.checkpoint.by_epoch': _FLAG,
    'default_hooks.checkpoint.save_best': _TEXTS,
    'default_hooks.checkpoint.published_keys': _TEXTS,
    'default_hooks.logger.interval': _whole(1),
    'default_hooks.teacher.start': _number(0, 1),
    'default_hooks.teacher.end': _number(0, 1),
    'log_processor.window_size': _whole(1),
    'log_processor.by_epoch': _FLAG,
    'visualizer.vis_backends': _PARTS,
    'param_scheduler': Kind(_PARTS.wanted, lambda value: _PART.holds(value) or _PARTS.holds(value)),
    'param_scheduler.*.begin': _whole(0),
    'param_scheduler.*.by_epoch': _FLAG,
    'param_scheduler.*.end': Kind(
        'an integer >= 0', lambda value: value == math.inf or _whole(0).holds(value)
    ),
    'param_scheduler.*.eta_min': _number(-math.inf),
    'param_scheduler.*.T_max': _whole(1),
    'model.data_preprocessor.mean': _COLORS,
    'model.data_preprocessor.std': _COLORS,
}
#: Only for pre-training; in other libraries these keys may have another meaning.
_OURS: dict[str, Kind] = {
    'optim_wrapper.dtype': _one_of('auto', 'bfloat16', 'float16', 'float32'),
    'train_cfg.by_epoch': Kind(
        'no such key, because train_cfg.type implies it', lambda value: False
    ),
    'model.backbone.arch.embed_dims': _whole(1),
    'model.backbone.arch.num_heads': _whole(1),
    'model.backbone.arch.num_layers': _whole(1),
    'model.backbone.arch.feedforward_channels': _whole(1),
    'model.backbone.img_size': _SIDES,
    'model.backbone.drop_rate': _number(0, 1, below=True),
    'model.backbone.drop_path_rate': _number(0, 1, below=True),
    'model.head.*.num_clusters': _whole(1),
    'model.loss_weights.*': _number(0),
    'model.init_cfg': _PART,
}


def check_values(config: Config) -> None:
    """Reject values of a wrong type or out of range.

    Args:
        config (Config): A config of any library.

    Raises:
        ValueError: Lists each such key with its rule and its value.
    """
    kinds = dict(_KINDS)
    if config.get('default_scope', 'cotap_mm') == 'cotap_mm':
        kinds.update(_OURS)
    errors = []
    for key, value in _values(config._cfg_dict.to_dict(), ''):
        if key.split('.')[-1] == 'type' and not (isinstance(value, str) or callable(value)):
            errors.append(f'{key}: expected the name of a class, got {value!r}')
        kind = (
            None
            if value is None
            else kinds.get(key)
            or next(
                (
                    kind
                    for pattern, kind in kinds.items()
                    if '*' in pattern and fnmatchcase(key, pattern)
                ),
                None,
            )
        )
        if kind is not None and not kind.holds(value):
            errors.append(f'{key}: expected {kind.wanted}, got {value!r}')
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
    if not (_whole(1).holds(width) and _whole(1).holds(heads)) or width % heads == 0:
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
