"""Weights out: the names of other libraries, and graphs that run without us.

Other libraries put a final layer norm behind the last block; CoTAP has none. Where a library
insists on one it gets weight 1 and bias 0, and its features *before* that norm are ours.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Optional, Union

import torch
from torch import Tensor, nn

from cotap_mm.encoders.load import build_network
from cotap_mm.files.atomic_write import atomic_write
from cotap_mm.weights.reading import Checkpoint

_TIMM = {
    'patch_embed.projection': 'patch_embed.proj',
    'ln1': 'norm1',
    'ln2': 'norm2',
    'attn.qkv': 'attn.qkv',
    'attn.proj': 'attn.proj',
    'ffn.layers.0.0': 'mlp.fc1',
    'ffn.layers.1': 'mlp.fc2',
    'attn.gamma1': 'ls1',
    'ffn.gamma2': 'ls2',
}
_HF = {
    'patch_embed.projection': 'embeddings.patch_embeddings.projection',
    'ln1': 'layernorm_before',
    'ln2': 'layernorm_after',
    'attn.proj': 'attention.output.dense',
    'ffn.layers.0.0': 'intermediate.dense',
    'ffn.layers.1': 'output.dense',
}


def to_mmseg(vit: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of ``mmseg.VisionTransformer``.

    Build it with ``patch_bias=True`` and ``norm_cfg=dict(type='LN', eps=1e-6)``; neither is
    its default.

    Args:
        vit (dict[str, Tensor]): Names of ``mmpretrain.VisionTransformer``, like all below.
    """
    renamed = {}
    for name, value in vit.items():
        name = name.replace('.attn.qkv.', '.attn.attn.in_proj_').replace(
            '.attn.proj.', '.attn.attn.out_proj.'
        )
        renamed[name] = value
    return renamed


def to_timm(vit: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of ``timm``'s VisionTransformer (and of DINO and iBOT)."""
    renamed = {}
    for name, value in vit.items():
        if name in ('cls_token', 'pos_embed'):
            renamed[name] = value
            continue
        where, inner, kind = _split(name)
        theirs = 'norm' if _is_final_norm(name) else _known(inner, _TIMM, name, 'timm')
        kind = 'gamma' if theirs in ('ls1', 'ls2') else kind
        renamed[f'{where}{theirs}.{kind}'] = value
    return {**_plain_norm('norm', vit), **renamed}


def to_hf(vit: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of Hugging Face's ``ViTModel``, which keeps query, key and value apart."""
    renamed = {
        'embeddings.cls_token': vit['cls_token'],
        'embeddings.position_embeddings': vit['pos_embed'],
    }
    for name, value in vit.items():
        if name in ('cls_token', 'pos_embed'):
            continue
        where, inner, kind = _split(name)
        where = where.replace('blocks.', 'encoder.layer.')
        if inner == 'attn.qkv':
            for part, piece in zip(('query', 'key', 'value'), value.chunk(3)):
                renamed[f'{where}attention.attention.{part}.{kind}'] = piece
        else:
            theirs = (
                'layernorm'
                if _is_final_norm(name)
                else _known(inner, _HF, name, 'Hugging Face ViT')
            )
            renamed[f'{where}{theirs}.{kind}'] = value
    return {**_plain_norm('layernorm', vit), **renamed}


def _is_final_norm(name: str) -> bool:
    return name.startswith('ln1.')


def _split(name: str) -> tuple[str, str, str]:
    """'layers.3.attn.qkv.weight' -> 'blocks.3.', 'attn.qkv', 'weight'."""
    inner, kind = name.rsplit('.', 1)
    if not inner.startswith('layers.'):
        return '', inner, kind
    _, index, inner = inner.split('.', 2)
    return f'blocks.{index}.', inner, kind


def _known(inner: str, names: dict[str, str], name: str, library: str) -> str:
    if inner not in names:
        raise ValueError(f'{library} has no place for {name}')
    return names[inner]


def _plain_norm(name: str, vit: dict[str, Tensor]) -> dict[str, Tensor]:
    width = vit['cls_token'].shape[-1]
    return {f'{name}.weight': torch.ones(width), f'{name}.bias': torch.zeros(width)}


def hf_config(architecture: dict) -> dict:
    """``config.json`` of a ``ViTModel``."""
    arch = architecture['arch']
    return dict(
        architectures=['ViTModel'],
        model_type='vit',
        hidden_size=arch['embed_dims'],
        num_hidden_layers=arch['num_layers'],
        num_attention_heads=arch['num_heads'],
        intermediate_size=arch['feedforward_channels'],
        hidden_act='gelu',
        layer_norm_eps=1e-6,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        image_size=architecture['img_size'],
        patch_size=architecture['patch_size'],
        num_channels=architecture['in_channels'],
        qkv_bias=architecture['qkv_bias'],
    )


class EncoderGraph(nn.Module):
    """Normalised images (B, 3, H, W) -> CLS (B, C) and patch map (B, C, h, w).

    Args:
        network (nn.Module): A :class:`CoTAPViT` with ``out_type='raw'``.
        size (Sequence[int]): H and W, multiples of the patch size.
        final_norm (nn.Module, optional): Of a plain ViT's tokens. Defaults to None.
    """

    def __init__(
        self, network: nn.Module, size: Sequence[int], final_norm: Optional[nn.Module] = None
    ) -> None:
        super().__init__()
        self.network = network
        self.final_norm = nn.Identity() if final_norm is None else final_norm
        self.grid = tuple(side // network.patch_size for side in size)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Encode."""
        tokens = self.final_norm(self.network(images)[0])
        return tokens[:, 0], tokens[:, 1:].transpose(1, 2).unflatten(2, self.grid)


def export_graph(
    checkpoint: Checkpoint,
    out: Union[str, Path],
    size: Sequence[int],
    overwrite: bool = False,
    **options,
) -> EncoderGraph:
    """Write a network with its filter as ONNX or TorchScript.

    The batch may have any size; height and width are fixed, since position embeddings of
    that size are part of the graph. The input is normalised RGB (see
    :func:`cotap_mm.evaluation.normalize_images`).

    Args:
        checkpoint (str | Path | dict): As for :func:`cotap_mm.load`.
        out (str | Path): ``*.onnx`` or ``*.pt`` (TorchScript).
        size (Sequence[int]): Height and width in pixels, multiples of the patch size.
        overwrite (bool): Replace an existing file. Defaults to False.
        **options: Other arguments of :func:`cotap_mm.load` except ``device``.

    Returns:
        EncoderGraph: What was written, for comparison.

    Raises:
        FileExistsError: If ``out`` exists and ``overwrite`` is False.
        ImportError: If ONNX is asked for and its packages are missing.
        ValueError: If the ending or the size does not fit.
    """
    out = Path(out)
    check_out(out, ('.onnx', '.pt'), overwrite)
    network, _, final_norm = build_network(checkpoint, img_size=tuple(size), **options)
    wrong = [side for side in size if side % network.patch_size]
    if len(size) != 2 or wrong:
        raise ValueError(
            f'size must be height and width, multiples of {network.patch_size}, got {tuple(size)}'
        )
    graph = EncoderGraph(network, size, final_norm).eval()
    images = torch.zeros(2, network.patch_embed.projection.in_channels, *size)
    with atomic_write(out) as unfinished:
        if out.suffix == '.pt':
            with torch.no_grad():
                torch.jit.trace(graph, images).save(str(unfinished))
        else:
            _write_onnx(graph, images, unfinished)
    return graph


def _write_onnx(graph: nn.Module, images: Tensor, out: Path) -> None:
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise ImportError('ONNX needs two packages: pip install onnx onnxscript') from error
    names = dict(input_names=['images'], output_names=['cls', 'patches'])
    batch = {name: {0: 'batch'} for name in ('images', 'cls', 'patches')}
    # The tracing exporter: it exists since torch 2.1 and writes one file.
    extra = dict(dynamo=False) if torch.__version__ >= '2.5' else {}
    with torch.no_grad():
        torch.onnx.export(
            graph, (images,), str(out), dynamic_axes=batch, opset_version=17, **names, **extra
        )


def check_out(out: Path, endings: Sequence[str], overwrite: bool) -> None:
    """Refuse a result of another kind, or one that would replace a file.

    Raises:
        FileExistsError: If ``out`` exists and ``overwrite`` is False.
        ValueError: If ``out`` has another ending.
    """
    if out.suffix not in endings:
        raise ValueError(f'the result must be called *{" or *".join(endings)}, got {out.name}')
    if out.exists() and not overwrite:
        raise FileExistsError(
            f'{out} exists; give another name, or overwrite it on purpose '
            '(overwrite=True, --overwrite)'
        )


def write_hf(
    vit: dict[str, Tensor], architecture: dict, out: Path, overwrite: bool = False
) -> None:
    """Write a folder that ``ViTModel.from_pretrained`` reads.

    Raises:
        FileExistsError: If the folder holds a model and ``overwrite`` is False.
    """
    check_out(out / 'model.safetensors', ('.safetensors',), overwrite)
    from safetensors.torch import save_file

    tensors = {name: value.detach().clone().contiguous() for name, value in to_hf(vit).items()}
    with atomic_write(out / 'model.safetensors') as unfinished:
        save_file(tensors, str(unfinished), metadata=dict(format='pt'))
    (out / 'config.json').write_text(json.dumps(hf_config(architecture), indent=2) + '\n')
