"""Shape the network of a pre-training like its initial weights, and again when it is resumed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Optional

from mmengine.config import Config
from mmengine.logging import print_log

from cotap_mm.datasets.transforms import MultiCrop
from cotap_mm.distributed.first_rank import on_first_rank
from cotap_mm.engine.adaptation import restore_adaptation
from cotap_mm.engine.resume.checkpoints import read_lazily
from cotap_mm.files.config_text import assignments
from cotap_mm.models.modules import PatchPairSampler
from cotap_mm.registry import MODELS, default_of, option_of
from cotap_mm.weights import DetectedCheckpoint
from cotap_mm.weights.named.licenses import find_known_weights
from cotap_mm.weights.zoo import architecture

#: Key of a config: the options that the user has set, if ``--init`` shapes the rest.
KEY = 'shape_by_init'
_PATCH = 'resize_patches_to'  # until the network has been shaped
#: Options of the backbone that follow from a file.
BACKBONE = (
    'arch',
    'patch_size',
    'img_size',
    'qkv_bias',
    'layer_scale_init_value',
    'num_registers',
    'rope',
    'pos_resize',
)
_CROPS = ('global_size', 'local_size')


def request_shape(
    config: Config, options: Optional[Iterable[str]] = None, patch_size: Optional[int] = None
) -> None:
    """Let :func:`shape_by_init` shape the network.

    Args:
        config (Config): Changed in place.
        options (iterable, optional): Dotted keys that the user has set; they are not changed.
        patch_size (int, optional): Patch size to which that of the weights is resized.
    """
    if patch_size is not None:
        config[_PATCH] = patch_size
    config[KEY] = sorted(
        key for key in options or () if key.startswith(('model.', 'train_dataloader.dataset.crops'))
    )


def shape_by_init(config: Config, init: DetectedCheckpoint) -> None:
    """Set what follows from the initial weights: the network, crop sizes and pool sizes.

    What the user has set stays. Nothing changes if the config fits already, or if the weights are
    those of the config and not of ``--init``.

    Args:
        config (Config): A pre-training config; changed in place.
        init (DetectedCheckpoint): The initial weights.

    Raises:
        ValueError: If the architecture of the weights is unknown.
    """
    explicit = config.get(KEY)
    if explicit is None:
        return
    backbone = config.model.backbone
    old_patch = option_of(MODELS, backbone, 'patch_size')
    changes = _of_backbone(backbone, init)
    patch_size = config.pop(_PATCH, None)
    if patch_size is not None:
        changes.pop('model.backbone.img_size', None)  # positions are resized, too
        changes['model.backbone.patch_size'] = patch_size
    changed = {key: value for key, value in changes.items() if not _is_set(key, explicit)}
    for key, value in changed.items():
        backbone[key.rpartition('.')[2]] = value
    changed.update(_fit_crops(config, explicit, old_patch))
    if changed:
        shown = ', '.join(f'{key}={value}' for key, value in changed.items())
        print_log(f'shaped like {init}: {shown}', logger='current')


def origin(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the initial weights of a training and their license, as far as it is known.

    Args:
        config (Mapping): A pre-training config.
    """
    init = (config.get('model') or {}).get('init_cfg') or {}
    name = init.get('checkpoint') if isinstance(init, dict) else None
    if not name:
        return dict(weights='none')
    known = find_known_weights(str(name))
    license = dict(license=known.license, source=known.source) if known else {}
    return dict(weights=str(name), **license)


def restore_shape(config: Config) -> None:
    """Shape the network of a resumed run as its checkpoint, if its initial weights shaped it.

    ``started_from`` of the config and what is trained become those of the run.

    Args:
        config (Config): With ``load_from``; changed in place.
    """
    stored = on_first_rank(lambda: _stored(config.get('load_from')))
    started = stored.get('started_from') or origin(stored)
    config.pop(_PATCH, None)
    if 'started_from' in stored or started['weights'] != 'none':  # older runs drop their init
        config.started_from = started
    restore_adaptation(config, stored)
    if not isinstance(stored.get(KEY), list):
        return
    explicit = config.get(KEY) or ()
    for part, names in (
        ('model.backbone', BACKBONE),
        ('model.pairs', ('pool_sizes',)),
        ('train_dataloader.dataset.crops', _CROPS),
    ):
        source, target = _part(stored, part), _part(config, part)
        for name in names:
            if name in source and not _is_set(f'{part}.{name}', explicit):
                target[name] = source[name]
    config[KEY] = list(stored[KEY])


def _of_backbone(backbone: Mapping[str, Any], init: DetectedCheckpoint) -> dict[str, Any]:
    """Dotted keys and values in which the network of a file differs from that of a config."""
    stated = architecture(backbone.get('arch', 'deit-small'))
    width = init.tensors['backbone.patch_embed.projection.weight'].shape[0]
    heads = stated['num_heads'] if stated['embed_dims'] == width else None
    try:
        found = init.architecture()
    except ValueError:
        if heads is None:
            raise
        found = init.architecture(heads)
    wanted: dict[str, Any] = {}
    of_file = architecture(found['arch'])
    if any(stated[key] != of_file[key] for key in stated if key not in {*_APART, 'layer_scale'}):
        wanted['arch'], stated = found['arch'], of_file
    for key, default in _APART.items():
        own = backbone.get(key)
        current = stated.get(key, default) if own is None else own
        if key == 'layer_scale_init_value' and own is None:
            current = 1e-5 if stated['layer_scale'] else 0.0
        value = found.get(key, default)
        if key == 'pos_resize' and found.get('rope'):
            continue
        is_same = bool(current) == bool(value) if 'scale' in key else current == value
        if not is_same:
            wanted[key] = value
            if value is None:  # None stands for that of the architecture
                wanted['arch'] = found['arch']
    if found['qkv_bias'] != backbone.get('qkv_bias', True):
        wanted['qkv_bias'] = found['qkv_bias']
    if found['patch_size'] != option_of(MODELS, backbone, 'patch_size'):
        wanted.update(patch_size=found['patch_size'], img_size=found['img_size'])
    return {f'model.backbone.{key}': value for key, value in wanted.items()}


#: Options of the backbone that an architecture may have, too, and their defaults.
_APART: dict[str, Any] = dict(
    num_registers=0, rope=None, pos_resize='dino', layer_scale_init_value=0.0
)


def _fit_crops(config: Config, explicit: Iterable[str], old_patch: int) -> dict[str, Any]:
    """Round crop sizes to the patch size, and scale pool sizes with the patch grid."""
    patch = option_of(MODELS, config.model.backbone, 'patch_size')
    if patch == old_patch:
        return {}
    dataset, changed = config.train_dataloader.dataset, {}
    crops = dict(dataset.get('crops') or {})
    old = {name: crops.get(name, default_of(MultiCrop, name)) for name in _CROPS}
    for name in _CROPS:
        key = f'train_dataloader.dataset.crops.{name}'
        if old[name] % patch and not _is_set(key, explicit):
            crops[name] = changed[key] = max(1, round(old[name] / patch)) * patch
    if changed:
        dataset.crops = crops
    old_grid = old['global_size'] // old_patch
    grid = crops.get('global_size', old['global_size']) // patch
    if grid != old_grid and not _is_set('model.pairs.pool_sizes', explicit):
        scaled = scaled_pool_sizes(config, grid / old_grid)
        changed['model.pairs.pool_sizes'] = scaled
        config.model.pairs = dict(config.model.get('pairs') or {}, pool_sizes=scaled)
    return changed


def scaled_pool_sizes(config: Config, factor: float) -> tuple[int, ...]:
    """Scale the grids to which patches are pooled before they are ranked.

    Args:
        config (Config): A pre-training config.
        factor (float): Side of the new patch grid of a global crop, relative to the old one.

    Returns:
        tuple[int, ...]: New ``model.pairs.pool_sizes``.
    """
    return tuple(max(1, round(size * factor)) for size in pool_sizes(config))


def pool_sizes(config: Config) -> tuple[int, ...]:
    """Return ``model.pairs.pool_sizes`` of a config, or the default."""
    pairs = config.model.get('pairs') or {}
    return tuple(pairs.get('pool_sizes', default_of(PatchPairSampler, 'pool_sizes')))


def _stored(checkpoint: Optional[str]) -> dict[str, Any]:
    """Config of the run that saved a checkpoint; empty if it is unknown."""
    if not checkpoint or not Path(checkpoint).is_file():
        return {}
    try:
        meta = read_lazily(checkpoint).get('meta') or {}
    except Exception:  # reported when the file is loaded
        return {}
    return assignments(str(meta.get('cfg', '')))


def _part(config: Any, key: str) -> Any:
    """Nested dict of a config; empty ones are inserted where there is none."""
    for name in key.split('.'):
        if not isinstance(config.get(name), dict):
            config[name] = {}
        config = config[name]
    return config


def _is_set(key: str, explicit: Iterable[str]) -> bool:
    """Whether the user has set an option, or the part that it belongs to."""
    return any(
        key == own or key.startswith(f'{own}.') or own.startswith(f'{key}.') for own in explicit
    )
