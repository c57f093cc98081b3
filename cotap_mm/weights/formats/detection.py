"""Detect a checkpoint's format and locate the ViT in it."""

from __future__ import annotations

from typing import Any, NamedTuple, Optional

import torch
from torch import Tensor

from .naming import without_wrappers
from .parts import SEPARATOR, tensor_groups
from .unsupported import INSTEAD, unknown_network

#: Sources that can be stated, and the family of names that each of them uses.
SOURCES = {
    'cotap_mm': 'cotap_mm',
    'cotap': 'cotap',
    'mmpretrain': 'mmpretrain',
    'hf': 'hf',
    'timm': 'timm',
    'dino': 'timm',
    'ibot': 'timm',
    'mugs': 'timm',
    'leopart': 'timm',
}

_ANCHORS = (  # the name of a tensor that a network of each family has exactly once
    ('timm', 'patch_embed.proj.weight'),
    ('mmpretrain', 'patch_embed.projection.weight'),
    ('hf', 'embeddings.patch_embeddings.projection.weight'),
    ('hf', 'embeddings.patch_embeddings.weight'),  # DINOv3
)

#: Start of the names of the frozen initial network in one of our own training checkpoints.
_INITIAL = 'anchor.backbone.'


class DetectedViT(NamedTuple):
    """A ViT located in a file, under the file's names.

    Attributes:
        family (str): ``'cotap_mm'``, ``'cotap'``, ``'timm'``, ``'hf'`` or ``'mmpretrain'``.
        network (str): ``'student'``, ``'teacher'``, or ``''`` if the file does not say.
        tensors (dict[str, Tensor]): Tensors of the network without their prefix; for
            ``'cotap_mm'`` in the layout of the algorithm.
        teacher (dict[str, Tensor] | None): The teacher of one of our own training
            checkpoints, in the same layout.
        outside (list[str]): Other tensors of the file, by their full names.
    """

    family: str
    network: str
    tensors: dict[str, Tensor]
    teacher: Optional[dict[str, Tensor]]
    outside: list[str]


class _Candidate(NamedTuple):
    family: str
    network: str
    prefix: str
    path: str  # keys of the containers, and the prefix
    tensors: dict[str, Tensor]  # all tensors of the innermost container


def detect_vit(content: dict, source: str = 'auto', network: Optional[str] = None) -> DetectedViT:
    """Locate the ViT in the content of a file.

    Args:
        content (dict): Content of the file.
        source (str): ``'auto'`` or one of :data:`SOURCES`. Defaults to ``'auto'``.
        network (str, optional): ``'student'`` or ``'teacher'`` if a file has both. By default
            the student of CoTAP and the teacher of DINO, iBOT and Mugs: the networks that
            their authors evaluate.

    Returns:
        DetectedViT: Family, network and tensors.

    Raises:
        ValueError: If the file has no ViT, is of another source than stated, does not have
            the requested network, or has several ViTs to choose from.
    """
    if source != 'auto' and source not in SOURCES:
        raise ValueError(f"source must be 'auto' or one of {sorted(SOURCES)}, got {source!r}")
    if network not in (None, 'student', 'teacher'):
        raise ValueError(f"network must be 'student' or 'teacher', got {network!r}")
    candidates = _candidates(content)
    if not candidates:
        names = (name for entries in tensor_groups(content).values() for name in entries)
        reason = unknown_network(names) or (
            f'none of the {len(content)} entries '
            f'({", ".join(map(str, list(content)[:3]))}, ...) leads to a patch embedding of DINO, '
            'iBOT, timm, Hugging Face, MMPretrain or CoTAP'
        )
        raise ValueError(f'no ViT found: {reason}; {INSTEAD}')
    chosen = _choose(candidates, network)
    if source != 'auto' and SOURCES[source] != chosen.family:
        raise ValueError(
            f'the file holds names of {chosen.family!r}, not of source={source!r}; '
            "use source='auto'"
        )
    names = _names(chosen)
    inside = set(names.values())
    teacher = None
    if chosen.family == 'cotap_mm':
        teachers = [c for c in candidates if c.family == 'cotap_mm' and c.network == 'teacher']
        if len(teachers) == 1:
            teacher_names = _names(teachers[0])
            teacher = {new: teachers[0].tensors[old] for new, old in teacher_names.items()}
            inside.update(teacher_names.values())
    return DetectedViT(
        chosen.family,
        chosen.network,
        {new: chosen.tensors[old] for new, old in names.items()},
        teacher,
        [name for name in chosen.tensors if name not in inside],
    )


def _usual_groups(content: dict) -> dict[str, dict[str, Any]]:
    """Containers that hold the weights in nearly all files; full files of DINO have two."""
    groups, path, seen = tensor_groups(content), '', set()
    while id(content) not in seen:
        seen.add(id(content))
        key = next(
            (
                key
                for key in ('state_dict', 'model', 'module')
                if isinstance(content.get(key), dict)
            ),
            None,
        )
        if key is not None:
            content, path = content[key], f'{path}.{key}'.lstrip('.')
    pair = [
        f'{path}.{key}'.lstrip('.')
        for key in ('student', 'teacher')
        if isinstance(content.get(key), dict)
    ]
    return {name: groups[name] for name in pair or [path] if name in groups}


def _candidates(content: dict) -> list[_Candidate]:
    """List the ViTs in the usual containers, or else in all containers."""
    return _candidates_in(_usual_groups(content)) or _candidates_in(tensor_groups(content))


def _candidates_in(groups: dict[str, dict[str, Any]]) -> list[_Candidate]:
    candidates = []
    for group, entries in groups.items():
        if not any('patch_embed' in name for name in entries):
            continue
        names = without_wrappers(entries)
        tensors = {new: torch.as_tensor(entries[old]) for new, old in names.items()}
        for family, anchor in _ANCHORS:
            for name in tensors:
                if name == anchor or name.endswith('.' + anchor):
                    prefix = name[: -len(anchor)]
                    if prefix == _INITIAL:
                        continue
                    path = f'{group}.{prefix}'.strip('.')
                    network = next((n for n in ('teacher', 'student') if n in path), '')
                    refined = _refine(family, prefix, tensors)
                    candidates.append(_Candidate(refined, network, prefix, path, tensors))
    return candidates


def _refine(family: str, prefix: str, tensors: dict[str, Tensor]) -> str:
    """Distinguish CoTAP from the family whose names its backbone uses."""
    if family == 'timm' and prefix + 'kernel' in tensors:
        return 'cotap'
    outer = prefix[: -len('backbone.')] if prefix.endswith('backbone.') else prefix
    if family == 'mmpretrain' and (
        outer + 'neck.prototypes' in tensors or prefix + 'neck.prototypes' in tensors
    ):
        return 'cotap_mm'
    return family


def _choose(candidates: list[_Candidate], network: Optional[str]) -> _Candidate:
    if network is not None:
        order = [network, '']
    elif any(c.family in ('cotap', 'cotap_mm') for c in candidates):
        order = ['student', '', 'teacher']
    else:
        order = ['', 'teacher', 'student']  # an unmarked network is the final result
    for wanted in order:
        matches = [c for c in candidates if c.network == wanted]
        if len(matches) > 1:
            names = ', '.join(
                f'FILE{SEPARATOR}{c.path}' if c.path else 'the outermost names' for c in matches
            )
            raise ValueError(f'the file holds {len(matches)} ViTs; choose one of them: {names}')
        if matches:
            return matches[0]
    raise ValueError(
        f'the file has no {network}, only a {candidates[0].network}; '
        f'use network={candidates[0].network!r}'
    )


def _names(candidate: _Candidate) -> dict[str, str]:
    """Map names without prefix to names in the file."""
    prefix, tensors = candidate.prefix, candidate.tensors
    inner = {name[len(prefix) :]: name for name in tensors if name.startswith(prefix)}
    if candidate.family != 'cotap_mm':
        return inner
    if 'neck.prototypes' in inner:  # a ViT with the filter as its neck
        return {
            (name if name.startswith('neck.') else 'backbone.' + name): old
            for name, old in inner.items()
        }
    outer = prefix[: -len('backbone.')]
    return {
        name[len(outer) :]: name
        for name in tensors
        if name.startswith(tuple(outer + part for part in ('backbone.', 'neck.', 'head.')))
    }
