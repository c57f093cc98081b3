"""Publish a checkpoint: strip training state, add provenance and a hash."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Optional, Union

import mmengine
import torch

from cotap_mm.deprecation import renamed_argument
from cotap_mm.files.atomic_write import UNFINISHED, atomic_write, checksum
from cotap_mm.version import __version__
from cotap_mm.weights.checkpoint import (
    AnyCheckpoint,
    DetectedCheckpoint,
    checkpoint_name,
    detect_checkpoint,
)
from cotap_mm.weights.hashing import weights_hash
from cotap_mm.weights.reading import read_checkpoint

from .known_weights import check_license, derived_from
from .provenance import provenance_of


@renamed_argument('branch', 'network')
def publish(
    checkpoint: AnyCheckpoint,
    out: Union[str, Path],
    license: str,
    network: Optional[str] = None,
    trust: bool = False,
    checked: bool = False,
) -> Path:
    """Strip a checkpoint of its training state and record its provenance.

    From a pre-training checkpoint one network is kept, with filter and heads, without queues
    and template bank; from a checkpoint of MMSegmentation, MMDetection or MMPretrain the whole
    model. Optimizer, schedules and logs are removed. ``meta`` keeps the config and the
    iteration, and gets the license, versions, and the hash of the weights.

    Args:
        checkpoint (str | Path | dict | DetectedCheckpoint): Checkpoint saved by training.
        out (str | Path): ``NAME.pth``; written as ``NAME-HASH.pth`` with the first 8
            digits of the file's SHA-256, as in all OpenMMLab projects. The hash is computed
            from the written file, which is read back for it.
        license (str): License of the weights, e.g. ``'Apache-2.0'``.
        network (str, optional): ``'student'`` or ``'teacher'``; by default the student.
        trust (bool): Unpickle the file fully if safe reading fails. Defaults to False.
        checked (bool): You have checked that ``license`` is allowed although that of the initial
            weights is another one. Defaults to False.

    Returns:
        Path: The written file.

    Raises:
        FileNotFoundError: If the checkpoint does not exist.
        ValueError: If the checkpoint has no weights, ``out`` or ``license`` is invalid, or the
            initial weights have another license.
    """
    out = Path(out)
    if out.suffix != '.pth':
        raise ValueError(f'the output must be named *.pth, got {out.name}')
    if not license.strip():
        raise ValueError(
            "license must not be empty, e.g. 'Apache-2.0'; without a license nobody may use the "
            'weights'
        )
    is_detected = isinstance(checkpoint, DetectedCheckpoint)
    content = checkpoint.content if is_detected else read_checkpoint(checkpoint, trust)
    state = content.get('state_dict')
    if not isinstance(state, dict):
        raise ValueError(
            f'{checkpoint_name(checkpoint)} has no state_dict; give a checkpoint saved by MMEngine'
        )
    init = provenance_of(content).init
    check_license(license, init, checked)
    old = content.get('meta') if isinstance(content.get('meta'), dict) else {}
    meta = {key: old[key] for key in ('cfg', 'iter', 'epoch', 'dataset_meta') if key in old}
    if any(name.startswith('teacher.') for name in state):
        detected = detect_checkpoint(checkpoint if is_detected else content, 'cotap_mm', network)
        state = detected.tensors
        # The key 'branch' is part of the file format.
        meta.update(branch=detected.network or 'student', architecture=detected.architecture())
    elif network is not None:
        raise ValueError(
            f'{checkpoint_name(checkpoint)} has no teacher, so there is no choice; omit network'
        )
    weights = {name: value.detach().clone().contiguous() for name, value in state.items()}
    meta.update(
        license=license,
        derived_from=derived_from(init),
        sha256=weights_hash(weights),
        versions=dict(
            cotap_mm=__version__, mmengine=mmengine.__version__, torch=str(torch.__version__)
        ),
    )
    # Do not write to ``out``, which may exist, and may be the checkpoint itself.
    draft = out.with_name(f'{UNFINISHED}{os.getpid()}-draft-{out.name}')
    with atomic_write(draft) as unfinished:
        torch.save(dict(meta=meta, state_dict=weights), unfinished)
    return draft.replace(out.with_name(f'{out.stem}-{checksum(draft)[:8]}.pth'))
