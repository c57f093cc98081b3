"""What to do with the result of a training: commands with real paths, printed at its end."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner
from mmengine.visualization import TensorboardVisBackend

from cotap_mm.distributed.model_wrapper import unwrap

from .config import is_pretraining

_SOURCES = ('ImageList', 'PackedImages', 'ShardedImages')
#: (channels, patch size, prototypes) -> downstream config that takes it without further options.
_DOWNSTREAM = {
    (96, 8, 16): 'configs/downstream/camvid_linear.py',
    (384, 16, 64): 'configs/downstream/voc_linear.py',
    (768, 16, 64): 'configs/downstream/custom_upernet.py',
}
_ANY_SIZE = 'configs/downstream/voc_linear.py'  # with options for the size


def describe_next_steps(runner: Runner, config_name: str) -> str:
    """Return the lines that load, look at and fine-tune the result of a training.

    Args:
        runner (Runner): After the training, on the main process.
        config_name (str): The config as the user has named it.

    Returns:
        str: One line per command, after one with the checkpoint; '' without a checkpoint.
    """
    path = str(runner.message_hub.runtime_info.get('last_ckpt') or '')
    if not path or ('://' not in path and not os.path.exists(path)):
        return ''
    path = _short(path)
    file = shlex.quote(path)
    lines = [f'training is complete: {path}']
    if is_pretraining(runner.cfg):
        pictures = shlex.quote(_short(os.path.join(runner.work_dir, 'pictures')))
        images = images_options(runner.cfg)
        lines += [
            f'  load it:       encoder = cotap_mm.load({path!r})',
            f'  look at it:    cotap visualize {file} {images} --out {pictures}',
            f'  fine-tune it:  cotap train {fine_tuning(unwrap(runner.model), file, runner.cfg)}',
        ]
    else:
        lines.append(f'  test it:       cotap test {shlex.quote(config_name)} {file}')
    backends = runner.visualizer._vis_backends.values()
    if any(isinstance(backend, TensorboardVisBackend) for backend in backends):
        lines.append(
            f'  see curves:    tensorboard --logdir {shlex.quote(_short(runner.work_dir))}'
        )
    return '\n'.join(lines)


def images_options(config: Config) -> str:
    """Options of ``cotap visualize`` for the training images; ``--images DIR`` for other sources.

    Args:
        config (Config): Of a pre-training.
    """
    source = config.train_dataloader.dataset.get('patch') or {}
    if source.get('type') not in _SOURCES or not source.get('root'):
        return '--images DIR'
    words = ['--images', str(source['root'])]
    if source.get('ann_file'):
        words += ['--ann-file', str(source['ann_file'])]
    if isinstance(source.get('value_range'), (list, tuple)):
        words += ['--value-range', *map(str, source['value_range'])]
    return shlex.join(words)


def fine_tuning(model: Any, checkpoint: str, config: Config) -> str:
    """Arguments of ``cotap train`` that fine-tune a pre-trained network.

    Args:
        model (CoTAP): The algorithm.
        checkpoint (str): Its checkpoint, quoted for a shell.
        config (Config): Of the pre-training.

    Returns:
        str: A downstream config, ``--init``, and options if no config has this size of a ViT.
    """
    patch, prototypes = model.backbone.patch_size, model.neck.num_prototypes
    backbone = (config.get('model') or {}).get('backbone') or {}
    arch = _option(backbone.get('arch', 'deit-small'))
    more = {
        key: backbone[key]
        for key in ('qkv_bias', 'layer_scale_init_value', 'num_registers', 'rope', 'pos_resize')
        if key in backbone
    }
    near = _DOWNSTREAM.get((model.backbone.embed_dims, patch, prototypes))
    if near and not more:
        return f'{near} --init {checkpoint}'
    options = [
        f'model.backbone.arch={arch}',
        f'model.backbone.patch_size={patch}',
        *(f'model.backbone.{key}={_option(value)}' for key, value in more.items()),
        f'model.backbone.frozen_stages={model.backbone.num_layers}',
        f'model.backbone.num_prototypes={prototypes}'
        if prototypes
        else 'model.backbone.use_filter=False',
        f'model.decode_head.in_channels={model.neck.out_channels}',
        f'model.decode_head.channels={model.neck.out_channels}',
    ]
    return f'{_ANY_SIZE} --init {checkpoint} --cfg-options {shlex.join(options)}'


def _option(value: Any) -> str:
    """Write a value for ``--cfg-options``."""
    if isinstance(value, dict):
        return f'dict({", ".join(f"{key}={each!r}" for key, each in value.items())})'
    return str(value)


def _short(path: str) -> str:
    """The path relative to the current folder if it is inside of it."""
    try:
        return str(Path(path).absolute().relative_to(Path.cwd())) if '://' not in path else path
    except (ValueError, OSError):
        return path
