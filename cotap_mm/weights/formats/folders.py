"""Read checkpoints that are folders or sharded into several files, as Hugging Face saves them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Callable, Optional

from cotap_mm.ops.position import RESIZE_RULES

from .unsupported import check_config

#: File names of weights in a folder, in the order of the search.
WEIGHTS = (
    'model.safetensors',
    'model.safetensors.index.json',
    'pytorch_model.bin',
    'pytorch_model.bin.index.json',
)
#: The object-aware filter of a CoTAP network, in a folder whose weights are the plain ViT.
FILTER_WEIGHTS = 'cotap_filter.safetensors'
_CONFIGS = ('config.json', 'preprocessor_config.json')
_SUFFIXES = ('.safetensors', '.pth', '.pt', '.bin', '.ckpt')
_TRAINING_STATE = re.compile(r'optimizer|scheduler|scaler|rng_state|training_args')
_SHARD = re.compile(r'-(\d{5})-of-(\d{5})\.(safetensors|bin)$')
_MAX_JSON = 32 << 20  # bytes; the index of 10,000 tensors takes about 1 MB

Read = Callable[[Path], dict]


def is_shard(path: Path) -> str:
    """Return ``'part 1 of 2'`` for ``model-00001-of-00002.safetensors``, else ``''``."""
    match = _SHARD.search(path.name)
    return f'part {int(match[1])} of {int(match[2])}' if match else ''


def read_folder(folder: Path, read: Read) -> dict:
    """Read a folder of Hugging Face or timm, with the architecture in its config.

    Args:
        folder (Path): Folder with one of :data:`WEIGHTS`, and :data:`FILTER_WEIGHTS` if it has
            been published from a CoTAP network.
        read (callable): Reads one file.

    Returns:
        dict: ``state_dict`` and ``meta``.

    Raises:
        FileNotFoundError: If the folder has no weights, or a shard is missing.
        ValueError: If a file is damaged.
    """
    path = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if path is None:
        near = sorted(
            file.name
            for pattern in ('*.pth', '*.pt', '*.bin', '*.safetensors')
            for file in folder.glob(pattern)
        )[:5]
        shard = next((name for name in near if is_shard(Path(name))), None)
        if shard:
            raise FileNotFoundError(
                f'{folder} has {is_shard(Path(shard))} of a sharded checkpoint ({shard}), but no '
                '*.index.json; download all files of the checkpoint'
            )
        raise FileNotFoundError(
            f'{folder} is a folder without {" or ".join(WEIGHTS[::2])}; give a file'
            + (f', such as {folder / near[-1]}' if near else ', or the folder of a model')
        )
    if path.name.endswith('.index.json'):
        content = read_index(path, read)
    else:
        content = stated_architecture(folder, read(path))
    if (folder / FILTER_WEIGHTS).is_file():
        # Other libraries read the plain ViT, since they reject or ignore other tensors.
        weights = {**content.get('state_dict', content), **read(folder / FILTER_WEIGHTS)}
        content = dict(state_dict=weights, meta=content.get('meta', {}))
    return content


def read_index(path: Path, read: Read) -> dict:
    """Read a sharded checkpoint.

    Args:
        path (Path): ``*.index.json``, whose ``weight_map`` names the file of each tensor.
        read (callable): Reads one file.

    Returns:
        dict: See :func:`read_folder`.

    Raises:
        FileNotFoundError: If a shard is missing.
        ValueError: If a file is damaged, or a shard lacks a tensor.
    """
    weight_map = read_json(path).get('weight_map')
    if (
        not isinstance(weight_map, dict)
        or not weight_map
        or not all(
            isinstance(name, str) and Path(name).name == name for name in weight_map.values()
        )
    ):
        raise ValueError(
            f'{path} must have a weight_map with the name of a file in the same folder for '
            'each tensor; download it again'
        )
    tensors: dict[str, Any] = {}
    for name in sorted(set(weight_map.values())):
        if not (path.parent / name).is_file():
            raise FileNotFoundError(
                f'{path.parent / name} is missing, although {path.name} lists it; '
                'download all files of the checkpoint'
            )
        tensors.update(read(path.parent / name))
    missing = [name for name in weight_map if name not in tensors]
    if missing:
        raise ValueError(
            f'{path} lists {len(missing)} tensors that are not in its files, e.g. '
            f'{missing[0]!r}; download all files of the checkpoint again'
        )
    return stated_architecture(path.parent, tensors)


def stated_architecture(folder: Path, content: dict) -> dict:
    """Add the number of heads, the image size and the normalization from ``config.json``.

    Transformers states the normalization in ``preprocessor_config.json``.

    Raises:
        ValueError: If a config is damaged, or states a model that is not supported.
    """
    if 'meta' in content:
        return content
    paths = [folder / name for name in _CONFIGS]
    config, preprocessor = [read_json(path) if path.is_file() else {} for path in paths]
    for inner in ('vision_config', 'pretrained_cfg', 'model_args'):
        if isinstance(config.get(inner), dict):
            config = {**config, **config[inner]}
    check_config(config)
    heads = _positive(config.get('num_attention_heads', config.get('num_heads')))
    size = config.get('image_size', config.get('img_size'))
    sides = [_positive(side) for side in (size if isinstance(size, list) else [size])]
    mean = preprocessor.get('image_mean', config.get('mean'))
    std = preprocessor.get('image_std', config.get('std'))
    meta: dict[str, Any] = {}
    arch = _stated_parts(config)
    if heads is not None:
        arch['num_heads'] = heads
    if arch:
        meta['architecture'] = dict(arch=arch)
    if None not in sides and len(sides) in (1, 2):
        meta.setdefault('architecture', {})['img_size'] = sides[0] if len(sides) == 1 else sides
    if isinstance(mean, list) and isinstance(std, list):
        meta['normalization'] = dict(mean=mean, std=std)
    return dict(state_dict=content, meta=meta) if meta else content


def _stated_parts(config: dict) -> dict[str, Any]:
    """Translate what a ``config.json`` says about the parts of a ViT."""
    arch: dict[str, Any] = {}
    names = ('num_register_tokens', 'reg_tokens', 'num_reg_tokens')
    registers = next((config[name] for name in names if name in config), None)
    if isinstance(registers, int):
        arch['num_registers'] = registers
    eps = config.get('layer_norm_eps')
    if isinstance(eps, float) and 0 < eps < 1:
        arch['norm_eps'] = eps
    gated = config.get('use_gated_mlp', config.get('use_swiglu_ffn'))
    if isinstance(gated, bool):
        arch['ffn'] = 'swiglu' if gated else 'mlp'
    if config.get('model_type') == 'dinov3_vit' or config.get('rope_type') == 'dinov3':
        parameters = config.get('rope_parameters')
        parameters = parameters if isinstance(parameters, dict) else {}
        theta = config.get('rope_theta', parameters.get('rope_theta'))
        if isinstance(theta, (int, float)) and theta > 1:
            arch['rope'] = dict(theta=float(theta))
            if 'cotap_rope_periods' in config:
                arch['rope']['periods'] = config['cotap_rope_periods']
        if isinstance(config.get('key_bias'), bool):
            arch['key_bias'] = config['key_bias']
    if config.get('cotap_pos_resize') in RESIZE_RULES:
        arch['pos_resize'] = config['cotap_pos_resize']
    if isinstance(config.get('cotap_added'), list):
        arch['added'] = config['cotap_added']
    return arch


def choose_files(name: str, files: list[str], file: Optional[str] = None) -> tuple[str, list[str]]:
    """Choose the files of a repository on the Hugging Face hub that a model is read from.

    Weights in safetensors are preferred to ``.bin``.

    Args:
        name (str): Name of the model, for messages.
        files (list[str]): Paths of all files in the repository.
        file (str, optional): The file to read. By default the weights of a folder of Hugging
            Face or timm, or else the only file of weights.

    Returns:
        tuple[str, list[str]]: The file to read, ``''`` for the folder, and all needed files.

    Raises:
        FileNotFoundError: If there is no such file, or no file of weights.
        ValueError: If there are several files of weights.
    """
    weights = [path for path in files if _is_weights(path)]
    configs = [path for path in _CONFIGS if path in files]
    shown = ', '.join(weights[:5]) or 'none'
    if file is not None:
        if file not in files:
            raise FileNotFoundError(f'{name}: the repository has no such file; weights: {shown}')
        return file, [file, *configs, *_shards(file, files)]
    for path in WEIGHTS:
        if path in files:
            extra = [FILTER_WEIGHTS] if FILTER_WEIGHTS in files else []
            return '', [path, *configs, *extra, *_shards(path, files)]
    single = [path for path in weights if not is_shard(Path(path)) and path != FILTER_WEIGHTS]
    if len(single) == 1:
        return single[0], [*single, *configs]
    if single:
        raise ValueError(
            f'{name} has {len(single)} files of weights; choose one of them: '
            f'{", ".join(f"{name}/{path}" for path in single[:5])}'
        )
    raise FileNotFoundError(
        f'{name} has no weights that can be read (*{", *".join(_SUFFIXES)}), only '
        f'{", ".join(files[:5]) or "no files"}'
    )


def _is_weights(path: str) -> bool:
    return path.endswith(_SUFFIXES) and not _TRAINING_STATE.search(Path(path).name)


def _shards(path: str, files: list[str]) -> list[str]:
    """Files of a sharded checkpoint, given its index."""
    match = re.fullmatch(r'(.*)\.(safetensors|bin)\.index\.json', path)
    if not match:
        return []
    stem, suffix = match.groups()
    return [
        other
        for other in files
        if other.startswith(f'{stem}-') and other.endswith(suffix) and is_shard(Path(other))
    ]


def read_json(path: Path) -> dict:
    """Read a JSON object.

    Raises:
        ValueError: If the file is not a JSON object, too large, or nested too deeply.
    """
    try:
        if path.stat().st_size > _MAX_JSON:
            raise ValueError(f'{path.stat().st_size} bytes')
        content = json.loads(path.read_text(encoding='utf-8'))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f'{path} is damaged or not a JSON file ({error}); download it again'
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f'{path} must be a JSON object, got {type(content).__name__}')
    return content


def _positive(value: Any) -> Optional[int]:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
