"""What a checkpoint is: whose names it has, and where in it the network lies."""

from __future__ import annotations

from typing import Any, NamedTuple, Optional

import torch
from torch import Tensor

from .naming import without_wrappers
from .parts import SEPARATOR, tensor_groups

#: Sources that can be stated, and the family of names that each uses.
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

_ANCHORS = (  # a name that each family has exactly once in a network
    ('timm', 'patch_embed.proj.weight'),
    ('mmpretrain', 'patch_embed.projection.weight'),
    ('hf', 'embeddings.patch_embeddings.projection.weight'),
)


class Recognized(NamedTuple):
    """A network found in a file.

    Attributes:
        family (str): ``'cotap_mm'``, ``'cotap'``, ``'timm'``, ``'hf'`` or ``'mmpretrain'``.
        branch (str): ``'student'``, ``'teacher'``, or ``''`` if the file does not say.
        tensors (dict[str, Tensor]): The network's tensors, prefixes removed; for
            ``'cotap_mm'`` in the layout of the algorithm.
        teacher (dict[str, Tensor] | None): The teacher of one of our own training
            checkpoints, in the same layout.
        outside (list[str]): Other tensors of the file, by their full name.
    """

    family: str
    branch: str
    tensors: dict[str, Tensor]
    teacher: Optional[dict[str, Tensor]]
    outside: list[str]


class _Candidate(NamedTuple):
    family: str
    branch: str
    prefix: str
    place: str  # keys of the containers and prefix
    tensors: dict[str, Tensor]  # the whole group that it was found in


def recognize(content: dict, source: str = 'auto', branch: Optional[str] = None) -> Recognized:
    """Find the ViT in a file.

    Args:
        content (dict): The file's content.
        source (str): ``'auto'`` or one of :data:`SOURCES`. Defaults to ``'auto'``.
        branch (str, optional): ``'student'`` or ``'teacher'`` where a file has both.
            By default the student of CoTAP (what its authors evaluate) and the teacher
            of DINO, iBOT and Mugs (what theirs do).

    Returns:
        Recognized: Family, branch and tensors.

    Raises:
        ValueError: If no ViT is found, it is of another source than stated, the file
            has not the branch asked for, or there are several to choose from.
    """
    if source != 'auto' and source not in SOURCES:
        raise ValueError(f"source must be 'auto' or one of {sorted(SOURCES)}, got {source!r}")
    if branch not in (None, 'student', 'teacher'):
        raise ValueError(f"branch must be 'student' or 'teacher', got {branch!r}")
    candidates = _candidates(content)
    if not candidates:
        raise ValueError(
            f'no ViT found: none of the {len(content)} entries '
            f'({", ".join(map(str, list(content)[:3]))}, ...) leads to a patch '
            'embedding of DINO, iBOT, timm, Hugging Face, MMPretrain or CoTAP'
        )
    chosen = _choose(candidates, branch)
    if source != 'auto' and SOURCES[source] != chosen.family:
        raise ValueError(
            f'the file holds names of {chosen.family!r}, not of source={source!r}; '
            "use source='auto'"
        )
    network = _network(chosen)
    inside = set(network.values())
    teacher = None
    if chosen.family == 'cotap_mm':
        teachers = [c for c in candidates if c.family == 'cotap_mm' and c.branch == 'teacher']
        if len(teachers) == 1:
            names = _network(teachers[0])
            teacher = {new: teachers[0].tensors[old] for new, old in names.items()}
            inside.update(names.values())
    return Recognized(
        chosen.family,
        chosen.branch,
        {new: chosen.tensors[old] for new, old in network.items()},
        teacher,
        [name for name in chosen.tensors if name not in inside],
    )


def _usual_groups(content: dict) -> dict[str, dict[str, Any]]:
    """Where nearly all files have their weights; DINO's full files hold two networks."""
    groups, place, seen = tensor_groups(content), '', set()
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
            content, place = content[key], f'{place}.{key}'.lstrip('.')
    pair = [
        f'{place}.{key}'.lstrip('.')
        for key in ('student', 'teacher')
        if isinstance(content.get(key), dict)
    ]
    return {name: groups[name] for name in pair or [place] if name in groups}


def _candidates(content: dict) -> list[_Candidate]:
    """ViTs in the usual places, else anywhere in the file."""
    return _candidates_in(_usual_groups(content)) or _candidates_in(tensor_groups(content))


def _candidates_in(groups: dict[str, dict[str, Any]]) -> list[_Candidate]:
    found = []
    for group, entries in groups.items():
        if not any('patch_embed' in name for name in entries):
            continue
        names = without_wrappers(entries)
        tensors = {new: torch.as_tensor(entries[old]) for new, old in names.items()}
        for family, anchor in _ANCHORS:
            for name in tensors:
                if name == anchor or name.endswith('.' + anchor):
                    prefix = name[: -len(anchor)]
                    place = f'{group}.{prefix}'.strip('.')
                    branch = next((b for b in ('teacher', 'student') if b in place), '')
                    found.append(
                        _Candidate(_refine(family, prefix, tensors), branch, prefix, place, tensors)
                    )
    return found


def _refine(family: str, prefix: str, tensors: dict[str, Tensor]) -> str:
    """Tell CoTAP from the family whose names its backbone has."""
    if family == 'timm' and prefix + 'kernel' in tensors:
        return 'cotap'
    beside = prefix[: -len('backbone.')] if prefix.endswith('backbone.') else prefix
    if family == 'mmpretrain' and (
        beside + 'neck.prototypes' in tensors or prefix + 'neck.prototypes' in tensors
    ):
        return 'cotap_mm'
    return family


def _choose(candidates: list[_Candidate], branch: Optional[str]) -> _Candidate:
    if branch is not None:
        order = [branch, '']
    elif any(c.family in ('cotap', 'cotap_mm') for c in candidates):
        order = ['student', '', 'teacher']
    else:
        order = ['', 'teacher', 'student']  # a network without a mark is the result itself
    for wanted in order:
        fitting = [c for c in candidates if c.branch == wanted]
        if len(fitting) > 1:
            names = ', '.join(
                f'FILE{SEPARATOR}{c.place}' if c.place else 'the outermost names' for c in fitting
            )
            raise ValueError(f'the file holds {len(fitting)} ViTs; choose one of them: {names}')
        if fitting:
            return fitting[0]
    raise ValueError(
        f'the file holds no {branch}, only a {candidates[0].branch}; '
        f'use branch={candidates[0].branch!r}'
    )


def _network(candidate: _Candidate) -> dict[str, str]:
    """Names without prefix -> names in the file."""
    prefix, tensors = candidate.prefix, candidate.tensors
    inner = {name[len(prefix) :]: name for name in tensors if name.startswith(prefix)}
    if candidate.family != 'cotap_mm':
        return inner
    if 'neck.prototypes' in inner:  # a ViT with the filter as its neck
        return {
            (name if name.startswith('neck.') else 'backbone.' + name): old
            for name, old in inner.items()
        }
    whole = prefix[: -len('backbone.')]
    return {
        name[len(whole) :]: name
        for name in tensors
        if name.startswith(tuple(whole + part for part in ('backbone.', 'neck.', 'head.')))
    }
