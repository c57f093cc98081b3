"""What network a checkpoint is of, read from its tensors and from what was saved beside them."""
import ast
from typing import Any, Dict, Optional, Tuple

from torch import Tensor

_WIDTH_OF_A_HEAD = 64  # of every ViT of DINO, iBOT, Mugs, Leopart, timm and Hugging Face


def architecture_of(tensors: Dict[str, Tensor], meta: Optional[dict] = None,
                    num_heads: Optional[int] = None) -> Dict[str, Any]:
    """Arguments for :class:`cotap_mm.models.CoTAPViT` that fit a checkpoint.

    All sizes show in the tensors' shapes, except two. The number of attention heads is taken
    from ``num_heads``, else from the configuration in our own checkpoints' ``meta``, else
    it follows from the 64 channels a head of the ViTs in the literature. The grid of the
    position embeddings is taken from there, too, else it is a square.

    Args:
        tensors (dict[str, Tensor]): In the layout of the algorithm (``backbone.*``, ``neck.*``).
        meta (dict, optional): ``meta`` of a checkpoint.
        num_heads (int, optional): Attention heads.

    Returns:
        dict: ``arch``, ``patch_size``, ``in_channels``, ``img_size``, ``qkv_bias``,
        ``use_filter``, and ``num_prototypes`` with the filter.

    Raises:
        ValueError: If the number of heads or the grid cannot be told.
    """
    patch = tensors['backbone.patch_embed.projection.weight']  # (d, channels, p, p)
    width, channels, size = patch.shape[:3]
    blocks = {name.split('.')[2] for name in tensors if name.startswith('backbone.layers.')}
    hidden = tensors['backbone.layers.0.ffn.layers.0.0.weight'].shape[0]
    rows, columns = stated_grid(tensors, meta) or _square_grid(tensors['backbone.pos_embed'])
    heads = num_heads or _heads_in_meta(meta or {}) or _usual_heads(width)
    prototypes = tensors.get('neck.prototypes')
    found: Dict[str, Any] = dict(
        arch=dict(embed_dims=width, num_layers=len(blocks), num_heads=heads,
                  feedforward_channels=hidden),
        patch_size=size, in_channels=channels,
        img_size=rows * size if rows == columns else (rows * size, columns * size),
        qkv_bias='backbone.layers.0.attn.qkv.bias' in tensors, use_filter=prototypes is not None)
    scale = tensors.get('backbone.layers.0.attn.gamma1.weight')
    if scale is not None:
        found['layer_scale_init_value'] = 1e-5  # any value: it makes room for the file's
    if prototypes is not None:
        found['num_prototypes'] = len(prototypes)
    return found


def stated_grid(tensors: Dict[str, Tensor],
                meta: Optional[dict] = None) -> Optional[Tuple[int, int]]:
    """Rows and columns of the position embeddings by the ``img_size`` beside the weights.

    Args:
        tensors (dict[str, Tensor]): As in :func:`architecture_of`.
        meta (dict, optional): ``meta`` of a checkpoint, with a config or an architecture.

    Returns:
        tuple[int, int] | None: None if no size is stated, or one with another number of patches.
    """
    patch, positions = (tensors.get(f'backbone.{name}') for name in (
        'patch_embed.projection.weight', 'pos_embed'))
    if patch is None or positions is None or patch.ndim != 4 or positions.ndim != 3:
        return None
    stated = _stated_backbone(meta or {}).get('img_size')
    sides = [stated] * 2 if isinstance(stated, int) else stated
    if not isinstance(sides, (list, tuple)) or [type(side) for side in sides] != [int, int]:
        return None
    rows, columns = (-(-side // patch.shape[2]) for side in sides)  # sides are padded to patches
    return (rows, columns) if 1 + rows * columns == positions.shape[1] else None


def _square_grid(positions: Tensor) -> Tuple[int, int]:
    count = positions.shape[1] - 1
    side = round(max(count, 0)**0.5)
    if not side or side**2 != count:
        raise ValueError(f'the {count} position embeddings are no square grid, and nothing beside '
                         'the weights states img_size; give a checkpoint as MMEngine saves it, '
                         'whose meta holds the config')
    return side, side


def _usual_heads(width: int) -> int:
    if width % _WIDTH_OF_A_HEAD:
        raise ValueError(f'the number of attention heads of a ViT of width {width} cannot be told '
                         'from its weights; pass num_heads=...')
    return width // _WIDTH_OF_A_HEAD


def _heads_in_meta(meta: dict) -> Optional[int]:
    arch = _stated_backbone(meta).get('arch')
    if isinstance(arch, dict):
        return arch.get('num_heads')
    if isinstance(arch, str):
        from mmpretrain.models import VisionTransformer
        return VisionTransformer.arch_zoo.get(arch, {}).get('num_heads')
    return None


def _stated_backbone(meta: dict) -> dict:
    """Arguments of the backbone that a training config or an export of ours states."""
    if isinstance(meta.get('architecture'), dict):
        return meta['architecture']
    backbone = _literal_assignment(str(meta.get('cfg', '')), 'model').get('backbone')
    return backbone if isinstance(backbone, dict) else {}


def _literal_assignment(text: str, name: str) -> dict:
    """The dict assigned to ``name`` in a config's text, without running it."""
    try:
        statements = ast.parse(text).body
    except SyntaxError:
        return {}
    for statement in statements:
        if isinstance(statement, ast.Assign) and isinstance(
                statement.targets[0], ast.Name) and statement.targets[0].id == name:
            value = _literal(statement.value)
            return value if isinstance(value, dict) else {}
    return {}


def _literal(node: ast.AST) -> Any:
    """Constants, lists, tuples and ``dict(...)``; None for anything else."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_literal(part) for part in node.elts]
    if isinstance(node, ast.Dict):
        return {_literal(key): _literal(value) for key, value in zip(node.keys, node.values)
                if key is not None}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict':
        return {part.arg: _literal(part.value) for part in node.keywords if part.arg}
    return None
