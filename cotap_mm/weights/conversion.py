"""Weights of any source, written to a file in our names."""
import os
from pathlib import Path
from typing import Dict, Optional, Union

import torch
from torch import Tensor

from .fitting import LoadReport
from .loading import read_in_our_names
from .reading import Checkpoint

#: What can be written: the algorithm's layout, or a ViT with or without its filter.
LAYOUTS = ('algorithm', 'vit')


def to_our_layout(checkpoint: Checkpoint, source: str = 'auto', branch: Optional[str] = None,
                  trust: bool = False, layout: str = 'algorithm'
                  ) -> 'tuple[Dict[str, Tensor], LoadReport]':
    """Tensors of a checkpoint under our names.

    Args:
        checkpoint (str | Path | dict): As for :func:`cotap_mm.weights.load_pretrained`,
            like ``source``, ``branch`` and ``trust``.
        source (str): Defaults to ``'auto'``.
        branch (str, optional): ``'student'`` or ``'teacher'``.
        trust (bool): Defaults to False.
        layout (str): ``'algorithm'`` for CoTAP's names (``backbone.*``, ``neck.*``,
            ``head.*``), ``'vit'`` for those of ``mmpretrain.VisionTransformer`` alone,
            which MMPretrain and MMSegmentation load. Defaults to ``'algorithm'``.

    Returns:
        tuple[dict[str, Tensor], LoadReport]: Tensors, and what was taken and left.

    Raises:
        FileNotFoundError: If there is no such file, or a URL cannot be had.
        ValueError: If an argument is unknown, or the file is not understood.
    """
    if layout not in LAYOUTS:
        raise ValueError(f'layout must be one of {LAYOUTS}, got {layout!r}')
    tensors, _, report = read_in_our_names(checkpoint, source, branch, trust)
    if layout == 'vit':
        start = 'backbone.'
        report.dropped += [name for name in tensors if not name.startswith(start)]
        tensors = {name[len(start):]: value for name, value in tensors.items()
                   if name.startswith(start)}
    report.loaded = list(tensors)
    return tensors, report


def convert(checkpoint: Checkpoint, out: Union[str, Path], overwrite: bool = False,
            **options) -> LoadReport:
    """Write a checkpoint in our names.

    Args:
        checkpoint (str | Path | dict): As for :func:`to_our_layout`.
        out (str | Path): ``*.pth``, read by every OpenMMLab project, or ``*.safetensors``.
        overwrite (bool): Replace an existing file. Defaults to False.
        **options: As for :func:`to_our_layout`.

    Returns:
        LoadReport: What was taken and left.

    Raises:
        FileExistsError: If ``out`` exists and ``overwrite`` is False.
        ValueError: If the ending of ``out`` is another, or as in :func:`to_our_layout`.
    """
    out = Path(out)
    if out.suffix not in ('.pth', '.safetensors'):
        raise ValueError(f'the result must be called *.pth or *.safetensors, got {out.name}')
    if out.exists() and not overwrite:
        raise FileExistsError(f'{out} exists; give another name, or overwrite it on purpose '
                              '(overwrite=True, --overwrite)')
    tensors, report = to_our_layout(checkpoint, **options)
    tensors = {name: value.detach().clone().contiguous() for name, value in tensors.items()}
    meta = dict(source=report.source, branch=report.branch)
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(out.name + '.part')
    if out.suffix == '.pth':
        torch.save(dict(state_dict=tensors, meta=meta), unfinished)
    else:
        from safetensors.torch import save_file
        save_file(tensors, str(unfinished), metadata=meta)
    os.replace(unfinished, out)  # a broken run leaves no half file under the final name
    return report
