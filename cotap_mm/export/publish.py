"""A trained network as a file for others: small, with its origin, told apart by its name."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Optional, Union

import mmengine
import torch
from torch import Tensor

from cotap_mm.files.atomic_write import UNFINISHED, atomic_write, checksum
from cotap_mm.version import __version__
from cotap_mm.weights.architecture import architecture_of
from cotap_mm.weights.loading import read_in_our_names
from cotap_mm.weights.reading import Checkpoint, read_checkpoint


def publish(
    checkpoint: Checkpoint,
    out: Union[str, Path],
    license: str,
    branch: Optional[str] = None,
    trust: bool = False,
) -> Path:
    """Strip a checkpoint of what only training needs, and say where it comes from.

    Of a pre-training checkpoint one branch is kept, with filter and heads, without queues
    and template bank; of a checkpoint of MMSegmentation, MMDetection or MMPretrain the
    whole model. Optimiser, schedules and logs go. The meta keep the config and where training
    stood, and get the licence, versions, and the hash of the weights.

    Args:
        checkpoint (str | Path): What training has saved.
        out (str | Path): ``NAME.pth``; written as ``NAME-HASH.pth`` with the first 8
            digits of the file's SHA-256, as all OpenMMLab projects do.
        license (str): Of the weights, e.g. ``'Apache-2.0'``.
        branch (str, optional): ``'student'`` or ``'teacher'``; by default the student.
        trust (bool): Unpickle fully where safe reading is refused. Defaults to False.

    Returns:
        Path: The file written.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If it holds no weights, or ``out`` or ``license`` does not fit.
    """
    out = Path(out)
    if out.suffix != '.pth':
        raise ValueError(f'the result must be called *.pth, got {out.name}')
    if not license.strip():
        raise ValueError(
            "license must be named, e.g. 'Apache-2.0'; without one nobody may use the weights"
        )
    content = read_checkpoint(checkpoint, trust)
    state = content.get('state_dict')
    if not isinstance(state, dict):
        raise ValueError(f'{checkpoint} holds no state_dict; give a checkpoint that MMEngine saved')
    found = content.get('meta') if isinstance(content.get('meta'), dict) else {}
    meta = {key: found[key] for key in ('cfg', 'iter', 'epoch', 'dataset_meta') if key in found}
    if any(name.startswith('teacher.') for name in state):
        state, _, _ = read_in_our_names(content, 'cotap_mm', branch)
        meta.update(branch=branch or 'student', architecture=architecture_of(state, found))
    elif branch is not None:
        raise ValueError(f'{checkpoint} has no teacher, so it has no branches; leave branch out')
    weights = {name: value.detach().clone().contiguous() for name, value in state.items()}
    meta.update(
        license=license,
        sha256=weights_hash(weights),
        versions=dict(
            cotap_mm=__version__, mmengine=mmengine.__version__, torch=str(torch.__version__)
        ),
    )
    # Not written as ``out``, which may exist, and may be the checkpoint itself.
    draft = out.with_name(f'{UNFINISHED}{os.getpid()}-draft-{out.name}')
    with atomic_write(draft) as unfinished:
        torch.save(dict(meta=meta, state_dict=weights), unfinished)
    return draft.replace(out.with_name(f'{out.stem}-{checksum(draft)[:8]}.pth'))


def weights_hash(weights: dict[str, Tensor]) -> str:
    """SHA-256 of names and values in the order of the names, in hexadecimal.

    It stays when the same weights are saved anew, which changes the hash of the file.
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name].detach().cpu().contiguous()
        digest.update(name.encode())
        digest.update(value.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
