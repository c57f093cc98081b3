"""Write folders that transformers and timm read: weights, config and preprocessing."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from torch import Tensor

from cotap_mm.files.atomic_write import atomic_write
from cotap_mm.ops.imagenet import IMAGENET_MEAN, IMAGENET_STD
from cotap_mm.weights.formats.folders import FILTER_WEIGHTS

from .state_dicts import check_out, check_plain, to_hf, to_timm

#: timm's name of a ViT by its width; all its sizes are in ``model_args``.
_TIMM_ARCHITECTURES = {192: 'tiny', 384: 'small', 768: 'base', 1024: 'large'}
_WEIGHTS = 'model.safetensors'


def write_folder(
    library: str,
    tensors: dict[str, Tensor],
    architecture: dict[str, Any],
    out: Path,
    overwrite: bool = False,
) -> list[str]:
    """Write a folder that ``transformers.AutoModel`` or timm (``local-dir:``, ``hf-hub:``) reads.

    It contains the plain ViT. If the network has an object-aware filter, its tensors are in a file
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
        ValueError: If the library has no parameter for a tensor.
    """
    check_out(out / _WEIGHTS, ('.safetensors',), overwrite)
    vit = _part(tensors, 'backbone.')
    neck = {name: value for name, value in tensors.items() if name.startswith('neck.')}
    check_plain(vit, dict(hf='Hugging Face', timm='timm')[library])
    if library == 'hf':
        weights, config = to_hf(vit), hf_config(architecture)
    else:
        # timm can omit the final norm, which CoTAP does not have.
        has_norm = 'ln1.weight' in vit
        weights, config = to_timm(vit), timm_config(architecture, has_norm)
        if not has_norm:
            weights = {name: value for name, value in weights.items() if name[:5] != 'norm.'}
    # Other libraries resize position embeddings by rules of their own.
    config['cotap_pos_resize'] = architecture.get('pos_resize', 'dino')
    save_safetensors(weights, out / _WEIGHTS, dict(format='pt'))
    if neck:
        save_safetensors(neck, out / FILTER_WEIGHTS, dict(format='pt'))
    elif (out / FILTER_WEIGHTS).exists():
        (out / FILTER_WEIGHTS).unlink()  # of the network that is replaced
    _write_json(config, out / 'config.json')
    _write_json(preprocessor_config(architecture), out / 'preprocessor_config.json')
    return [name for name in tensors if name.startswith(('backbone.', 'neck.'))]


def hf_config(architecture: dict) -> dict:
    """Build the content of ``config.json`` of a ``ViTModel``.

    Args:
        architecture (dict): See :func:`cotap_mm.weights.architecture.architecture_of`.

    Returns:
        dict: Can be written as JSON.
    """
    arch = architecture['arch']
    return dict(
        architectures=['ViTModel'],
        model_type='vit',
        hidden_size=arch['embed_dims'],
        num_hidden_layers=arch['num_layers'],
        num_attention_heads=arch['num_heads'],
        intermediate_size=arch['feedforward_channels'],
        hidden_act='gelu',
        layer_norm_eps=arch.get('norm_eps', 1e-6),
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        image_size=architecture['img_size'],
        patch_size=architecture['patch_size'],
        num_channels=architecture['in_channels'],
        qkv_bias=architecture['qkv_bias'],
    )


def timm_config(architecture: dict, final_norm: bool) -> dict[str, Any]:
    """Build the content of ``config.json`` of a VisionTransformer of timm.

    Args:
        architecture (dict): See :func:`cotap_mm.weights.architecture.architecture_of`.
        final_norm (bool): Whether there is a norm after the last block.

    Returns:
        dict: Can be written as JSON.
    """
    arch, width = architecture['arch'], architecture['arch']['embed_dims']
    height, columns = _sides(architecture)
    arguments: dict[str, Any] = dict(
        img_size=[height, columns],
        patch_size=architecture['patch_size'],
        embed_dim=width,
        depth=arch['num_layers'],
        num_heads=arch['num_heads'],
        mlp_ratio=_ratio(arch['feedforward_channels'], width),
        qkv_bias=architecture['qkv_bias'],
        global_pool='token',
        final_norm=final_norm,
        dynamic_img_size=True,
    )
    if 'layer_scale_init_value' in architecture:
        arguments['init_values'] = architecture['layer_scale_init_value']
    size = _TIMM_ARCHITECTURES.get(width, 'base')
    channels = architecture['in_channels']
    return dict(
        architecture=f'vit_{size}_patch16_224',
        num_classes=0,
        num_features=width,
        global_pool='token',
        model_args=arguments if channels == 3 else dict(arguments, in_chans=channels),
        pretrained_cfg=dict(
            input_size=[channels, height, columns],
            fixed_input_size=False,
            interpolation='bicubic',
            crop_pct=1.0,
            num_classes=0,
            first_conv='patch_embed.proj',
            classifier='head',
            mean=list(IMAGENET_MEAN),
            std=list(IMAGENET_STD),
        ),
    )


def preprocessor_config(architecture: dict) -> dict:
    """Build the content of ``preprocessor_config.json`` of a ``ViTImageProcessor``."""
    height, width = _sides(architecture)
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


def _ratio(hidden: int, width: int) -> float:
    """Ratio that gives ``hidden`` when it is multiplied by ``width`` and rounded down."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


def _sides(architecture: dict) -> tuple[int, int]:
    size = architecture['img_size']
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
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
