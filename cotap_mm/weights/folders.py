"""Read checkpoints that are folders or sharded into several files, as Hugging Face saves them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Callable, Optional

#: File names of weights in a folder, in the order of the search.
WEIGHTS = (
    'model.safetensors',
    'model.safetensors.index.json',
    'pytorch_model.bin',
    'pytorch_model.bin.index.json',
)
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
        folder (Path): Folder with one of :data:`WEIGHTS`.
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
        raise FileNotFoundError(
            f'{folder} is a folder without {" or ".join(WEIGHTS[::2])}; give a file'
            + (f', such as {folder / near[-1]}' if near else ', or the folder of a model')
        )
    if path.name.endswith('.index.json'):
        return read_index(path, read)
    return stated_architecture(folder, read(path))


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
    """Add the number of heads and the image size from ``config.json``."""
    path = folder / 'config.json'
    if not path.is_file() or 'meta' in content:
        return content
    config = read_json(path)
    for inner in ('vision_config', 'pretrained_cfg', 'model_args'):
        if isinstance(config.get(inner), dict):
            config = {**config, **config[inner]}
    heads = _positive(config.get('num_attention_heads', config.get('num_heads')))
    size = _positive(config.get('image_size', config.get('img_size')))
    stated: dict[str, Any] = {}
    if heads is not None:
        stated['arch'] = dict(num_heads=heads)
    if size is not None:
        stated['img_size'] = size
    return dict(state_dict=content, meta=dict(architecture=stated)) if stated else content


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
