"""Pretrained vision transformers of timm by their name."""

from __future__ import annotations

import difflib
from typing import Any

from torch import nn

#: Prefix of the names, as in ``timm:vit_small_patch16_224.dino``.
TIMM = 'timm:'


def create_timm(name: str, pretrained: bool = True, **options: Any) -> nn.Module:
    """Create a model of timm, without its classifier.

    The weights are downloaded by timm, which keeps them in its cache.

    Args:
        name (str): Without the prefix, e.g. ``'vit_small_patch16_224.dino'``.
        pretrained (bool): False keeps random weights. Defaults to True.
        **options: Further arguments of ``timm.create_model``.

    Raises:
        FileNotFoundError: If the weights can be neither downloaded nor found in the cache.
        TypeError: If the model does not take one of the options.
        ValueError: If timm is not installed, or has no such model or weights.
    """
    try:
        import timm
    except ImportError as error:
        raise ValueError(f'{TIMM}{name} needs timm: pip install timm') from error
    base, dot, _ = name.partition('.')
    if not timm.list_models(base):
        raise ValueError(
            f'timm {timm.__version__} has no model {name!r}; similar names: '
            f'{", ".join(_similar(base, timm.list_models())) or "none"}'
        )
    weights = timm.list_models(f'{base}*', pretrained=True)
    weights = [known for known in weights if known.partition('.')[0] == base]
    if pretrained and (name not in weights if dot else not weights):
        raise ValueError(
            f'timm {timm.__version__} has no pretrained weights {name!r}; it has '
            f'{", ".join(_similar(name, weights)) or f"none of {base}"}'
        )
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0, **options)
    except TypeError:
        raise
    except Exception as error:  # of several libraries for downloads
        if not pretrained:
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise FileNotFoundError(
            f'cannot download the weights of timm model {name} ({reason}); check the connection '
            'and the name, or download the file on another machine and give its path'
        ) from error


def read_timm(name: str) -> dict[str, Any]:
    """Read the weights of a plain ViT of timm, like a file.

    Args:
        name (str): Without the prefix.

    Returns:
        dict: ``state_dict`` and ``meta``, as in a checkpoint.

    Raises:
        FileNotFoundError: See :func:`create_timm`.
        ValueError: If there is no such model, or it computes something else than a plain ViT.
    """
    model = create_timm(name)
    _check_plain(name, model)
    config: dict = getattr(model, 'pretrained_cfg', None) or {}
    block = model.blocks[0]
    arch = dict(num_heads=block.attn.num_heads, norm_eps=block.norm1.eps, pos_resize='antialias')
    stated = dict(arch=arch, img_size=model.patch_embed.img_size)
    normalization = {name: config.get(name) for name in ('mean', 'std')}
    return dict(
        state_dict=model.state_dict(),
        meta=dict(architecture=stated, normalization=normalization),
    )


def _similar(name: str, known: list[str]) -> list[str]:
    """Up to five names that start with a name or look like it, vision transformers first."""
    vits = [other for other in known if 'vit' in other or 'deit' in other] or known
    near = [other for other in vits if other.startswith(name)]
    near = near or difflib.get_close_matches(name, vits, 5, 0.5)
    return (near or difflib.get_close_matches(name, known, 5, 0.5) or vits)[:5]


def _check_plain(name: str, model: nn.Module) -> None:
    """Refuse what the names of the tensors do not show; :func:`.rename` refuses the rest."""
    problem = ''
    rope = getattr(model, 'rope', None)
    is_dinov3 = type(rope).__name__ == 'RotaryEmbeddingDinoV3'
    if rope is not None and not is_dinov3:
        problem = f'its rotary positions are {type(rope).__name__}, not those of DINOv3'
    elif is_dinov3 and (rope.temperature != 100 or rope.normalize_coords != 'separate'):
        problem = 'its rotary positions differ from those of DINOv3'
    elif not is_dinov3 and not type(model).__name__.startswith('VisionTransformer'):
        problem = f'it is a {type(model).__name__}'
    elif getattr(model, 'cls_token', None) is None:
        problem = 'it has no CLS token'
    else:
        block = model.blocks[0]
        activation = getattr(getattr(block, 'mlp', None), 'act', None)
        gated = type(block.mlp).__name__ in ('SwiGLU', 'SwiGLUPacked', 'GluMlp')
        is_gelu = isinstance(activation, nn.GELU) and activation.approximate == 'none'
        if not (isinstance(activation, nn.SiLU) if gated else is_gelu):
            problem = f'its activation is {activation}, not GELU'
        elif not isinstance(block.norm1, nn.LayerNorm):
            problem = f'its norms are {type(block.norm1).__name__}, not LayerNorm'
    if problem:
        raise ValueError(
            f'{TIMM}{name} is not a plain ViT: {problem}; choose another one, e.g. '
            f'{TIMM}vit_small_patch16_224.dino'
        )
