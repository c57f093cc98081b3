"""Names of architectures, and what they consist of."""

from __future__ import annotations

from functools import cache
from typing import Any

from cotap_mm.rules import check_rules, whole

_SIZES = {  # width, blocks, heads, hidden channels of the MLP
    'small': (384, 12, 6, 1536),
    'base': (768, 12, 12, 3072),
    'large': (1024, 24, 16, 4096),
}
#: Keys of an architecture besides the four that MMPretrain requires, and their defaults.
OPTIONS: dict[str, Any] = dict(
    ffn='mlp',  # or 'swiglu': a gated MLP, whose feedforward_channels are those after the gate
    layer_scale=False,
    norm_eps=1e-6,
    qk_norm=False,
    key_bias=None,  # by default, keys have a bias if queries have one, but not with rope
    num_registers=0,
    rope=None,
    pos_resize='dino',
)
REQUIRED = ('embed_dims', 'num_layers', 'num_heads', 'feedforward_channels')


def _sized(width: int, blocks: int, heads: int, hidden: int, **options: Any) -> dict[str, Any]:
    return dict(zip(REQUIRED, (width, blocks, heads, hidden)), **options)


def _families() -> dict[str, dict[str, Any]]:
    registers = dict(layer_scale=True, num_registers=4, pos_resize='antialias')
    rotary = dict(layer_scale=True, num_registers=4, norm_eps=1e-5, rope=dict(theta=100.0))
    gated = dict(ffn='swiglu')
    found = {'deit-large': _sized(*_SIZES['large'])}
    for size, numbers in _SIZES.items():
        found[f'dinov2-{size}'] = _sized(*numbers, layer_scale=True)
        found[f'dinov2-reg-{size}'] = _sized(*numbers, **registers)
        found[f'dinov3-{size}'] = _sized(*numbers, **rotary)
    giant = (1536, 40, 24, 4096)
    found['dinov2-giant'] = _sized(*giant, layer_scale=True, **gated)
    found.update(
        {f'dinov2-{size[0]}': found[f'dinov2-{size}'] for size in ('small', 'base', 'giant')}
    )
    found['dinov2-reg-giant'] = _sized(*giant, **registers, **gated)
    found['franca-base'] = _sized(768, 12, 12, 2048, layer_scale=True, **gated)
    found['franca-large'] = _sized(1024, 24, 16, 2736, layer_scale=True, **gated)
    found['franca-giant'] = found['dinov2-giant']
    found['dinov3-small-plus'] = _sized(384, 12, 6, 1536, **rotary, **gated)
    found['dinov3-huge-plus'] = _sized(1280, 32, 20, 5120, **rotary, **gated)
    found['dinov3-7b'] = _sized(4096, 40, 32, 8192, **rotary, **gated)
    return found


@cache
def architectures() -> dict[str, dict[str, Any]]:
    """Return name -> architecture: MMPretrain's, and those of DINOv2, DINOv3 and Franca.

    MMPretrain's ``'dinov2-small'``, ``'dinov2-base'`` and ``'dinov2-giant'`` have no layer scale,
    and are replaced.
    """
    from mmpretrain.models import VisionTransformer

    return {**VisionTransformer.arch_zoo, **_families()}


def architecture(arch: Any) -> dict[str, Any]:
    """Look up an architecture, and fill in the defaults of its options.

    Args:
        arch (str | dict): Name, or :data:`REQUIRED` and any of :data:`OPTIONS`.

    Returns:
        dict: With all keys.

    Raises:
        ValueError: If the name is unknown, or keys are missing, unknown, or have wrong values.
    """
    if isinstance(arch, str):
        known = architectures()
        if arch.lower() not in known:
            raise ValueError(
                f'arch {arch!r} is unknown; names: {", ".join(sorted(known))}; or give a '
                f'dict with {", ".join(REQUIRED)}'
            )
        arch = known[arch.lower()]
    if not isinstance(arch, dict):
        raise ValueError(f'arch must be a name or a dict, got {type(arch).__name__}')
    lacking = [key for key in REQUIRED if key not in arch]
    unknown = [key for key in arch if key not in REQUIRED and key not in OPTIONS]
    if lacking or unknown:
        raise ValueError(
            f'arch has keys {", ".join(REQUIRED)}, and optionally {", ".join(OPTIONS)}; '
            + '; '.join(
                f'{word} {", ".join(map(str, keys))}'
                for word, keys in (('missing:', lacking), ('unknown:', unknown))
                if keys
            )
        )
    full = {**OPTIONS, **arch}
    if full['ffn'] not in ('mlp', 'swiglu'):
        raise ValueError(f"arch: ffn must be 'mlp' or 'swiglu', got {full['ffn']!r}")
    check_rules(full, {key: whole(1) for key in REQUIRED}, 'arch: ')
    if full['embed_dims'] % full['num_heads']:
        raise ValueError(
            f'arch: embed_dims must be a multiple of num_heads, got {full["embed_dims"]} and '
            f'{full["num_heads"]}'
        )
    return full
