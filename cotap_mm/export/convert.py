"""Convert weights of any supported source for another library."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Optional, Union

import torch
from torch import Tensor

from cotap_mm.deprecation import renamed_argument
from cotap_mm.files.atomic_write import atomic_write
from cotap_mm.weights.checkpoint import AnyCheckpoint, DetectedCheckpoint, detect_checkpoint
from cotap_mm.weights.report import LoadReport

from .folders import differences, part, save_safetensors, write_folder
from .graph import export_graph
from .known_weights import derived_from
from .provenance import provenance_of
from .state_dicts import added, check_out, check_parts, to_mmseg, with_periods
from .timm_models import to_timm

#: Targets, and the valid suffixes of the output; Hugging Face's is a folder, timm's may be one.
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
_FILES = {suffix for suffixes in TARGETS.values() for suffix in suffixes}


@renamed_argument('branch', 'network')
def convert(
    checkpoint: AnyCheckpoint,
    out: Union[str, Path],
    to: str = 'cotap',
    overwrite: bool = False,
    source: str = 'auto',
    network: Optional[str] = None,
    trust: bool = False,
    num_heads: Optional[int] = None,
    size: Sequence[int] = (224, 224),
) -> LoadReport:
    """Convert a checkpoint for another library.

    ``'mmpretrain'``, ``'mmseg'``, ``'timm'`` and ``'hf'`` write the ViT, without filter and heads;
    ``'safetensors'``, ``'onnx'`` and ``'torchscript'`` include the filter; ``'cotap'`` writes
    everything, by our names.

    Args:
        checkpoint (str | Path | dict | DetectedCheckpoint): See
            :func:`cotap_mm.weights.load_pretrained`.
        out (str | Path): ``*.pth`` or ``*.safetensors``; a folder for ``'hf'``; one of the two or
            a folder (no suffix) for ``'timm'``; ``*.onnx``; ``*.pt`` for TorchScript.
        to (str): One of :data:`TARGETS`. Defaults to ``'cotap'``.
        overwrite (bool): Replace existing output. Defaults to False.
        source (str): ``'auto'``, or the expected origin as a check. Defaults to ``'auto'``.
        network (str, optional): ``'student'`` or ``'teacher'`` if a file has both.
        trust (bool): Unpickle the file fully if safe reading fails. Defaults to False.
        num_heads (int, optional): Number of attention heads, if the target needs it and the
            file does not state it.
        size (Sequence[int]): Height and width in pixels of the input of a graph (ONNX,
            TorchScript). Defaults to (224, 224).

    Returns:
        LoadReport: Which tensors were written and skipped, and where features differ in the other
        library.

    Raises:
        FileExistsError: If ``out`` exists and ``overwrite`` is False.
        FileNotFoundError: If the checkpoint does not exist, or the download fails.
        ImportError: If a package for the target is missing.
        ValueError: If an argument is invalid, the format of the file is unknown, or the other
            library has no such network.
    """
    if to not in TARGETS:
        raise ValueError(f'to must be one of {", ".join(TARGETS)}, got {to!r}')
    out = Path(out)
    is_folder = to == 'hf' or (to == 'timm' and not out.suffix)
    if not is_folder:
        check_out(out, TARGETS[to], overwrite)
    elif out.suffix in _FILES:
        raise ValueError(f'hf is a folder with several files; give a name without {out.suffix}')
    detected = detect_checkpoint(checkpoint, source, network, trust)
    tensors, report = detected.tensors, detected.new_report()
    if to in ('onnx', 'torchscript'):
        export_graph(detected, out, size, overwrite, num_heads)
        tensors = _select(tensors, report, ('backbone.', 'neck.'))
    elif is_folder:
        architecture = detected.architecture(num_heads)
        tensors = _select(tensors, report, ('backbone.',))
        write_folder(to, tensors, architecture, out, overwrite)
        report.notes += differences(to, part(tensors, 'backbone.'), architecture)
    else:
        stated = _stated(detected, num_heads, needed=to == 'safetensors')
        if to == 'safetensors':
            tensors = _select(tensors, report, ('backbone.', 'neck.'))
        elif to != 'cotap':
            bare = part(_select(tensors, report, ('backbone.',)), 'backbone.')
            tensors = _renamed(bare, to, stated, report)
        # The key 'branch' is part of the file format.
        origin = derived_from(_origin(detected))
        stated.update(dict(derived_from=origin) if origin else {})
        _write(tensors, out, dict(source=report.source, branch=report.network, **stated))
    report.loaded = list(tensors)
    return report


def _renamed(
    bare: dict[str, Tensor], to: str, stated: dict, report: LoadReport
) -> dict[str, Tensor]:
    """Rename the tensors of a ViT for a library; completes the architecture and the report."""
    if to != 'timm':
        check_parts(bare, to)
        return to_mmseg(bare) if to == 'mmseg' else bare
    architecture = stated.get('architecture')
    renamed = to_timm(bare, architecture)
    if architecture is not None:
        report.notes += differences(to, bare, architecture)
        readable = dict(with_periods(architecture, bare), added=added(bare, renamed))
        stated['architecture'] = readable
    return renamed


def _origin(detected: DetectedCheckpoint) -> str:
    """Initial weights of a training, or the name of weights that are only converted."""
    init = provenance_of(detected.content).init
    if init or 'neck.prototypes' in detected.tensors or not detected.is_stored:
        return init
    is_name = re.match(r'^(https?|cotap_mm)://|^(hf|timm):', detected.name)
    return detected.name if is_name else Path(detected.name).name


def _select(
    tensors: dict[str, Tensor], report: LoadReport, starts: tuple[str, ...]
) -> dict[str, Tensor]:
    """Select parts of a network; the other tensors are reported as dropped."""
    report.dropped += [name for name in tensors if not name.startswith(starts)]
    return {name: value for name, value in tensors.items() if name.startswith(starts)}


def _stated(detected: DetectedCheckpoint, num_heads: Optional[int], needed: bool) -> dict:
    """Return the architecture, to be stored with the weights, unless it is unknown."""
    try:
        return dict(architecture=detected.architecture(num_heads))
    except ValueError:
        if needed or num_heads:
            raise
        return {}


def _write(tensors: dict[str, Tensor], out: Path, meta: dict) -> None:
    if out.suffix == '.safetensors':
        texts = {key: v if isinstance(v, str) else json.dumps(v) for key, v in meta.items()}
        save_safetensors(tensors, out, texts)
        return
    # Clone, since a view would be saved with its whole storage.
    tensors = {name: value.detach().clone().contiguous() for name, value in tensors.items()}
    with atomic_write(out) as unfinished:
        torch.save(dict(state_dict=tensors, meta=meta), unfinished)
