"""What a checkpoint is, and its tensors' names in our layout.

Our layout is the one of :class:`cotap_mm.models.CoTAP`: ``backbone.*`` with
MMPretrain's ViT names, ``neck.*``, ``head.patch.*``, ``head.cls.*``.
"""
import re
from typing import Dict, NamedTuple, Optional, Tuple

import torch
from torch import Tensor

#: Families of names, and the sources that use them.
SOURCES = {
    'cotap_mm': 'cotap_mm', 'cotap': 'cotap', 'mmpretrain': 'mmpretrain', 'hf': 'hf',
    'timm': 'timm', 'dino': 'timm', 'ibot': 'timm', 'mugs': 'timm', 'leopart': 'timm'
}

_ANCHORS = (  # a name that each family has exactly once in a network
    ('timm', 'patch_embed.proj.weight'),
    ('mmpretrain', 'patch_embed.projection.weight'),
    ('hf', 'embeddings.patch_embeddings.projection.weight'),
)

_BLOCK = {
    'norm1': 'ln1', 'norm2': 'ln2', 'attn.qkv': 'attn.qkv', 'attn.proj': 'attn.proj',
    'mlp.fc1': 'ffn.layers.0.0', 'mlp.fc2': 'ffn.layers.1',
    'layernorm_before': 'ln1', 'layernorm_after': 'ln2',
    'attention.output.dense': 'attn.proj',
    'intermediate.dense': 'ffn.layers.0.0', 'output.dense': 'ffn.layers.1'
}
_TRUNK = {
    'cls_token': 'cls_token', 'pos_embed': 'pos_embed',
    'patch_embed.proj.weight': 'patch_embed.projection.weight',
    'patch_embed.proj.bias': 'patch_embed.projection.bias',
    'norm.weight': 'ln1.weight', 'norm.bias': 'ln1.bias',
    'embeddings.cls_token': 'cls_token', 'embeddings.position_embeddings': 'pos_embed',
    'embeddings.patch_embeddings.projection.weight': 'patch_embed.projection.weight',
    'embeddings.patch_embeddings.projection.bias': 'patch_embed.projection.bias',
    'layernorm.weight': 'ln1.weight', 'layernorm.bias': 'ln1.bias'
}
_FILTER = {'norm_in': 'norm_prototypes', 'norm_out_patch': 'norm_patch', 'norm_out_cls': 'norm_cls'}
_HEADS = ('patch', 'cls')
# Parts of other methods that CoTAP has no use for.
_FOREIGN = re.compile(
    r'(head|head_dist|fc|fc_norm|classifier|decoder|decoder_.*|predictor|projection_head'
    r'|projection_heads|projector|prototypes|masked_embed|mask_token|last_layer|pooler'
    r'|embeddings\.mask_token|queue.*|center.*)(\.|$)')


class Recognized(NamedTuple):
    """A network found in a file."""
    family: str
    prefix: str
    tensors: Dict[str, Tensor]


def _branches(content: dict) -> Dict[str, dict]:
    """The dict or dicts of tensors in a file; DINO's full files hold two networks."""
    for key in ('state_dict', 'model', 'module'):
        if isinstance(content.get(key), dict):
            return _branches(content[key])
    pair = {key: content[key] for key in ('student', 'teacher')
            if isinstance(content.get(key), dict)}
    return pair or {'': content}


def recognize(content: dict, source: str, branch: Optional[str]) -> Recognized:
    """Find the ViT in a file.

    Args:
        content (dict): The file's content.
        source (str): ``'auto'`` or one of :data:`SOURCES`.
        branch (str, optional): ``'student'`` or ``'teacher'`` where a file has both.
            By default the student of CoTAP (what its authors evaluate) and the teacher
            of DINO, iBOT and Mugs (what theirs do).

    Returns:
        Recognized: Family, prefix and the tensors under it, prefix removed.

    Raises:
        ValueError: If no ViT is found, or it is of another source than stated.
    """
    if source != 'auto' and source not in SOURCES:
        raise ValueError(f"source must be 'auto' or one of {sorted(SOURCES)}, got {source!r}")
    if branch not in (None, 'student', 'teacher'):
        raise ValueError(f"branch must be 'student' or 'teacher', got {branch!r}")
    candidates = []
    for name, tensors in _branches(content).items():
        tensors = {k: v for k, v in tensors.items() if isinstance(v, Tensor)}
        for family, anchor in _ANCHORS:
            for key in tensors:
                if key == anchor or key.endswith('.' + anchor):
                    candidates.append((name, family, key[:-len(anchor)], tensors))
    if not candidates:
        raise ValueError(f'no ViT found: none of the {len(content)} entries '
                         f'({", ".join(map(str, list(content)[:3]))}, ...) leads to a patch '
                         'embedding of DINO, iBOT, timm, Hugging Face, MMPretrain or CoTAP')
    name, family, prefix, tensors = _choose(candidates, branch)
    network = {k[len(prefix):]: v for k, v in tensors.items() if k.startswith(prefix)}
    if family == 'timm' and 'kernel' in network:
        family = 'cotap'
    if family == 'mmpretrain' and prefix.endswith('backbone.'):
        whole = prefix[:-len('backbone.')]
        if whole + 'neck.prototypes' in tensors:
            family = 'cotap_mm'
            network = {k[len(whole):]: v for k, v in tensors.items()
                       if k.startswith(tuple(whole + part for part in ('backbone.', 'neck.',
                                                                       'head.')))}
    if source != 'auto' and SOURCES[source] != family:
        raise ValueError(f"the file holds names of {family!r}, not of source={source!r}; "
                         "use source='auto'")
    return Recognized(family, prefix, network)


def _choose(candidates: list, branch: Optional[str]) -> tuple:
    def is_teacher(candidate: tuple) -> bool:
        return 'teacher' in candidate[0] or 'teacher' in candidate[2]

    if branch is None:
        # A filter or CoTAP's kernel beside the backbone: the student, else the teacher.
        ours = any(key.endswith(('neck.prototypes', 'kernel'))
                   for candidate in candidates for key in candidate[3])
        branch = 'student' if ours else 'teacher'
    fitting = [c for c in candidates if is_teacher(c) == (branch == 'teacher')]
    return (fitting or candidates)[0]


def rename(recognized: Recognized) -> 'Tuple[Dict[str, Tensor], Dict[str, Tensor], list]':
    """Give tensors our names.

    Returns:
        tuple: Tensors in our layout, tensors with names that nothing knows, and
        the names of those left out by design.

    Raises:
        ValueError: If a released head's gain is not 1: its scores would not be cosines.
    """
    if recognized.family in ('cotap_mm', 'mmpretrain'):
        known = recognized.tensors if recognized.family == 'cotap_mm' else {
            'backbone.' + name: value for name, value in recognized.tensors.items()}
        dropped = [n for n in known if n.startswith('backbone.') and _FOREIGN.match(n[9:])]
        return {n: v for n, v in known.items() if n not in dropped}, {}, dropped
    tensors = dict(recognized.tensors)
    if recognized.family == 'hf':
        tensors = _join_qkv(tensors)
    depth = 1 + max((int(m.group(1)) for m in map(re.compile(r'blocks\.(\d+)\.').match, tensors)
                     if m), default=-1)
    known, unknown, dropped = {}, {}, []
    for name, value in tensors.items():
        if name.endswith('last_layer.weight_g'):
            if recognized.family == 'cotap' and not torch.allclose(value, torch.ones_like(value)):
                raise ValueError(f'{name} must be all 1, got values up to {float(value.max()):g}: '
                                 'with another gain the scores would not be cosines')
            dropped.append(name)
            continue
        new = rename_released(name, depth)
        if new is None:
            dropped.append(name)
        elif new:
            known[new] = value
        else:
            unknown[name] = value
    return known, unknown, dropped


def rename_released(name: str, depth: int = 12) -> Optional[str]:
    """Our name for one parameter of a timm-like, released CoTAP, or HF network.

    Args:
        name (str): Name without prefix.
        depth (int): L, number of blocks: only the last one's filter norms are used.

    Returns:
        str | None: Our name; '' if unknown; None if CoTAP has no use for it.
    """
    if name == 'kernel':
        return 'neck.prototypes'
    if name in _TRUNK:
        return 'backbone.' + _TRUNK[name]
    match = re.match(r'projection_heads\.([01])\.(?:projection_head\.(.+)|last_layer\.weight_v)$',
                     name)
    if match:
        inner = 'mlp.' + match.group(2) if match.group(2) else 'centers'
        return f'head.{_HEADS[int(match.group(1))]}.{inner}'
    match = re.match(r'(?:blocks|encoder\.layer)\.(\d+)\.(.+)\.(weight|bias)$', name)
    if match:
        index, part, kind = match.groups()
        if part in _FILTER:
            return f'neck.{_FILTER[part]}.{kind}' if int(index) == depth - 1 else None
        return f'backbone.layers.{index}.{_BLOCK[part]}.{kind}' if part in _BLOCK else ''
    return None if _FOREIGN.match(name) else ''


def _join_qkv(tensors: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """Hugging Face keeps query, key and value apart; a ViT here has one qkv."""
    joined = {}
    for name, value in tensors.items():
        match = re.match(r'encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\.(\w+)$',
                         name)
        if match is None:
            joined[name] = value
        elif match.group(2) == 'query':
            parts = [tensors[name.replace('.query.', f'.{part}.')]
                     for part in ('query', 'key', 'value')]
            joined[f'encoder.layer.{match.group(1)}.attn.qkv.{match.group(3)}'] = torch.cat(parts)
    return joined
