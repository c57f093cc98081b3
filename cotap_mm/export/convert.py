"""Weights of any source, written for any library."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Optional, Union

import torch
from torch import Tensor

from cotap_mm.files.atomic_write import atomic_write
from cotap_mm.weights.architecture import architecture_of
from cotap_mm.weights.fitting import LoadReport
from cotap_mm.weights.loading import read_in_our_names
from cotap_mm.weights.reading import Checkpoint, read_checkpoint

from .state_dicts import check_out, export_graph, to_mmseg, to_timm, write_hf

#: What can be written, and the endings of the file; a folder for Hugging Face.
TARGETS = {
    'cotap': ('.pth', '.safetensors'),
    'mmpretrain': ('.pth', '.safetensors'),
    'mmseg': ('.pth', '.safetensors'),
    'timm': ('.pth', '.safetensors'),
    'hf': (),
    'safetensors': ('.safetensors',),
    'onnx': ('.onnx',),
    'torchscript': ('.pt',),
}
_RENAMERS = dict(mmpretrain=dict, mmseg=to_mmseg, timm=to_timm)


def convert(
    checkpoint: Checkpoint,
    out: Union[str, Path],
    to: str = 'cotap',
    overwrite: bool = False,
    source: str = 'auto',
    branch: Optional[str] = None,
    trust: bool = False,
    num_heads: Optional[int] = None,
    size: Sequence[int] = (224, 224),
) -> LoadReport:
    """Write a checkpoint for another library.

    ``'mmpretrain'``, ``'mmseg'``, ``'timm'`` and ``'hf'`` are the plain ViT, without
    filter and heads; ``'safetensors'``, ``'onnx'`` and ``'torchscript'`` include the
    filter; ``'cotap'`` is everything, in our names.

    Args:
        checkpoint (str | Path | dict): As for :func:`cotap_mm.weights.load_pretrained`,
            like ``source``, ``branch`` and ``trust``.
        out (str | Path): ``*.pth`` or ``*.safetensors``; a folder for ``'hf'``, ``*.onnx``,
            ``*.pt`` for TorchScript.
        to (str): One of :data:`TARGETS`. Defaults to ``'cotap'``.
        overwrite (bool): Replace an existing result. Defaults to False.
        source (str): Defaults to ``'auto'``.
        branch (str, optional): ``'student'`` or ``'teacher'``.
        trust (bool): Defaults to False.
        num_heads (int, optional): Attention heads, where the file does not tell and the
            result needs it.
        size (Sequence[int]): Height and width of the images of a graph (ONNX,
            TorchScript). Defaults to (224, 224).

    Returns:
        LoadReport: What was taken and left.

    Raises:
        FileExistsError: If ``out`` exists and ``overwrite`` is False.
        FileNotFoundError: If there is no such checkpoint, or a URL cannot be had.
        ImportError: If a package for the result is missing.
        ValueError: If an argument does not fit, or the file is not understood.
    """
    if to not in TARGETS:
        raise ValueError(f'to must be one of {", ".join(TARGETS)}, got {to!r}')
    out = Path(out)
    if TARGETS[to]:
        check_out(out, TARGETS[to], overwrite)
    content = read_checkpoint(checkpoint, trust)
    tensors, _, report = read_in_our_names(content, source, branch)
    meta = content.get('meta') if isinstance(content.get('meta'), dict) else None
    if to in ('onnx', 'torchscript'):
        export_graph(
            content, out, size, overwrite, source=source, branch=branch, num_heads=num_heads
        )
        tensors = _select(tensors, report, ('backbone.', 'neck.'))
    elif to == 'hf':
        architecture = architecture_of(tensors, meta, num_heads)
        tensors = _select(tensors, report, ('backbone.',))
        write_hf(_bare(tensors), architecture, out, overwrite)
    else:
        stated = _stated(tensors, meta, num_heads, needed=to == 'safetensors')
        if to == 'safetensors':
            tensors = _select(tensors, report, ('backbone.', 'neck.'))
        elif to != 'cotap':
            tensors = _RENAMERS[to](_bare(_select(tensors, report, ('backbone.',))))
        _write(tensors, out, dict(source=report.source, branch=report.branch, **stated))
    report.loaded = list(tensors)
    return report


def _select(
    tensors: dict[str, Tensor], report: LoadReport, starts: tuple[str, ...]
) -> dict[str, Tensor]:
    """The wanted parts of a network; the others are reported as left out."""
    report.dropped += [name for name in tensors if not name.startswith(starts)]
    return {name: value for name, value in tensors.items() if name.startswith(starts)}


def _bare(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of ``mmpretrain.VisionTransformer``."""
    return {name[len('backbone.') :]: value for name, value in tensors.items()}


def _stated(
    tensors: dict[str, Tensor], meta: Optional[dict], num_heads: Optional[int], needed: bool
) -> dict:
    """The architecture, to be stored beside the weights, as far as it can be told."""
    try:
        return dict(architecture=architecture_of(tensors, meta, num_heads))
    except ValueError:
        if needed or num_heads:
            raise
        return {}


def _write(tensors: dict[str, Tensor], out: Path, meta: dict) -> None:
    # Copies, since a view would drag its whole storage along.
    tensors = {name: value.detach().clone().contiguous() for name, value in tensors.items()}
    with atomic_write(out) as unfinished:
        if out.suffix == '.pth':
            torch.save(dict(state_dict=tensors, meta=meta), unfinished)
        else:
            from safetensors.torch import save_file

            save_file(
                tensors,
                str(unfinished),
                metadata={
                    name: value if isinstance(value, str) else json.dumps(value)
                    for name, value in meta.items()
                },
            )
