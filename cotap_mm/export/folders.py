"""Write folders that transformers and timm read: weights, config and preprocessing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from cotap_mm.files.atomic_write import atomic_write
from cotap_mm.ops.imagenet import IMAGENET_MEAN, IMAGENET_STD
from cotap_mm.weights.formats.folders import FILTER_WEIGHTS

from .hf_models import hf_config, hf_model, to_hf
from .state_dicts import added, check_out, has_key_bias, stored_periods
from .timm_models import TIMM_RULE, sides, timm_config, to_timm

_WEIGHTS = 'model.safetensors'


def write_folder(
    library: str,
    tensors: dict[str, Tensor],
    architecture: dict[str, Any],
    out: Path,
    overwrite: bool = False,
) -> list[str]:
    """Write a folder that ``transformers.AutoModel`` or timm (``local-dir:``, ``hf-hub:``) reads.

    It contains the ViT. If the network has an object-aware filter, its tensors are in a file
    of their own, which :func:`cotap_mm.load` reads and other libraries ignore.

    Args:
        library (str): ``'hf'`` or ``'timm'``.
        tensors (dict[str, Tensor]): Network in the layout of the algorithm (``backbone.*``,
            ``neck.*``); other tensors are skipped.
        architecture (dict): See :func:`cotap_mm.weights.architecture.architecture_of`.
        out (Path): The folder.
        overwrite (bool): Replace an existing model. Defaults to False.

    Returns:
        list[str]: Names of the written tensors, by our names.

    Raises:
        FileExistsError: If the folder contains a model and ``overwrite`` is False.
        ImportError: If safetensors is not installed.
        ValueError: If the library has no such network.
    """
    check_out(out / _WEIGHTS, ('.safetensors',), overwrite)
    vit = part(tensors, 'backbone.')
    neck = {name: value for name, value in tensors.items() if name.startswith('neck.')}
    key_bias = has_key_bias(vit)
    if library == 'hf':
        weights, config = to_hf(vit, architecture), hf_config(architecture, key_bias)
    else:
        # timm can omit the final norm, which CoTAP does not have.
        has_norm = 'ln1.weight' in vit
        weights = to_timm(vit, architecture)
        config = timm_config(architecture, has_norm, key_bias)
        if not has_norm:
            weights = {name: value for name, value in weights.items() if name[:5] != 'norm.'}
    config.update(_own_keys(vit, architecture, key_bias))
    if added(vit, weights):
        config['cotap_added'] = added(vit, weights)
    save_safetensors(weights, out / _WEIGHTS, dict(format='pt'))
    if neck:
        save_safetensors(neck, out / FILTER_WEIGHTS, dict(format='pt'))
    elif (out / FILTER_WEIGHTS).exists():
        (out / FILTER_WEIGHTS).unlink()  # of the network that is replaced
    _write_json(config, out / 'config.json')
    _write_json(preprocessor_config(architecture), out / 'preprocessor_config.json')
    return [name for name in tensors if name.startswith(('backbone.', 'neck.'))]


def differences(library: str, vit: Mapping[str, Tensor], architecture: dict[str, Any]) -> list[str]:
    """List where a network computes other features in another library.

    Args:
        library (str): ``'hf'`` or ``'timm'``.
        vit (Mapping[str, Tensor]): Tensors by the names of ``mmpretrain.VisionTransformer``.
        architecture (dict): See :func:`cotap_mm.weights.architecture.architecture_of`.

    Returns:
        list[str]: Clauses without a full stop.
    """
    name, rule = 'timm', TIMM_RULE
    if library == 'hf':
        name, rule = 'transformers', hf_model(architecture).rule
    rope, own = architecture.get('rope'), architecture.get('pos_resize', 'dino')
    if rope is not None:
        if stored_periods(vit, rope['theta']) is None:
            return []
        return [
            f'{name} computes the periods of rotary positions in float32, those of this network '
            'are rounded, so its features differ slightly'
        ]
    if own == rule:
        return []
    height, width = sides(architecture)
    return [
        f'at image sizes other than {height} x {width}, features differ: {name} resizes position '
        f'embeddings by the rule {rule!r}, this network by {own!r}'
    ]


def _own_keys(vit: dict[str, Tensor], architecture: dict, key_bias: bool) -> dict[str, Any]:
    """What :func:`cotap_mm.load` needs, and other libraries ignore or compute by their rules."""
    rope = architecture.get('rope')
    if rope is None:
        return dict(cotap_pos_resize=architecture.get('pos_resize', 'dino'))
    periods = stored_periods(vit, rope['theta'])
    keys: dict[str, Any] = dict(rope_theta=rope['theta'], key_bias=key_bias)
    return keys if periods is None else dict(keys, cotap_rope_periods=periods)


def preprocessor_config(architecture: dict) -> dict:
    """Build the content of ``preprocessor_config.json`` of a ``ViTImageProcessor``."""
    height, width = sides(architecture)
    return dict(
        image_processor_type='ViTImageProcessor',
        do_resize=True,
        size=dict(height=height, width=width),
        resample=3,  # bicubic
        do_rescale=True,
        rescale_factor=1 / 255,
        do_normalize=True,
        image_mean=list(IMAGENET_MEAN),
        image_std=list(IMAGENET_STD),
    )


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names start with a prefix, without it."""
    return {
        name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)
    }


def save_safetensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write a file of safetensors.

    Args:
        tensors (dict[str, Tensor]): Tensors by name.
        path (Path): File to write.
        metadata (dict[str, str]): Header of the file.

    Raises:
        ImportError: If safetensors is not installed.
    """
    try:
        from safetensors.torch import save_file
    except ImportError as error:
        raise ImportError(
            f'writing {path} needs the package safetensors: pip install safetensors'
        ) from error
    # Clone, since safetensors rejects tensors that share a storage.
    dense = {name: value.detach().clone().contiguous() for name, value in tensors.items()}
    with atomic_write(path) as unfinished:
        unfinished.touch()
        mode = unfinished.stat().st_mode
        save_file(dense, str(unfinished), metadata=metadata)
        unfinished.chmod(mode)  # safetensors makes files that only their owner can read


def _write_json(content: dict, path: Path) -> None:
    with atomic_write(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')
