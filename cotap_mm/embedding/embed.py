"""Compute features of all images of a folder and write them to one file."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Optional, Union

import torch
from mmengine.logging import print_log

from cotap_mm import signals
from cotap_mm.datasets.sources.files import ImageFiles
from cotap_mm.datasets.sources.open import open_images
from cotap_mm.datasets.sources.protocol import ImageSource
from cotap_mm.datasets.sources.value_range import Option
from cotap_mm.distributed.collectives import rank, world_size
from cotap_mm.distributed.failures import abort_all_ranks_on_error, current_watch
from cotap_mm.distributed.first_rank import on_first_rank
from cotap_mm.encoders.choose import AnyEncoder, as_encoder
from cotap_mm.encoders.images import Size
from cotap_mm.environment import describe_versions
from cotap_mm.errors import UserError
from cotap_mm.files.atomic_write import printable
from cotap_mm.files.locks import Lock, acquire_lock
from cotap_mm.progress import Progress

from .compute import DTYPES, FEATURES, PartBuilder
from .file import Features, format_of, read_features
from .parts import Parts
from .provenance import describe_encoder, describe_images, digest
from .table import Table

_ROWS = 1024  # images per part
_ROWS_OF_PATCHES = 64
_NAMED = 20  # skipped images in the log
_POLL = 0.5  # seconds


def embed(
    encoder: AnyEncoder,
    images: Union[str, Path, Sequence[Union[str, Path]], ImageSource],
    out: Union[str, Path],
    *,
    features: Sequence[str] = ('cls',),
    size: Optional[Size] = 224,
    dtype: str = 'float32',
    batch_size: int = 32,
    num_workers: int = 2,
    device: Optional[Union[str, torch.device]] = None,
    ann_file: Optional[Union[str, Path]] = None,
    value_range: Option = 'auto',
    overwrite: bool = False,
    progress: Optional[bool] = None,
    network: Optional[str] = None,
    output: Optional[str] = None,
    num_heads: Optional[int] = None,
    trust: bool = False,
) -> Features:
    """Compute features of many images and write them to one file.

    ::

        features = cotap_mm.embed('runs/a/iter_2000.pth', 'photos', 'features.npz')
        nearest = (features['cls'] @ features['cls'][0]).argsort()[::-1]
        print([features.ids[i] for i in nearest[:5]])

    A run that is interrupted or killed continues when it is started again, and writes the same
    file. Until the end the features are in a folder next to ``out``. Images that cannot be read
    are skipped and listed in the file. Images with more than 8 bits are scaled from one range of
    values. The ranks of a process group, as in ``torchrun -m cotap_mm embed``, share the work.

    Args:
        encoder (Encoder | str | Path | dict): An encoder, or what :func:`cotap_mm.load` accepts.
        images (str | Path | sequence | ImageSource): Folder (read recursively), text list, COCO
            json, packed file ``*.lmdb``, a list of image files, or an image source.
        out (str | Path): File to write: ``*.npz``, ``*.parquet`` (needs pyarrow) or ``*.zarr``
            (needs zarr).
        features (sequence): Of ``'cls'`` (N, C), ``'mean'`` (mean of the patches, (N, C)) and
            ``'patches'`` (N, C, h, w). Defaults to ``('cls',)``.
        size (int | tuple, optional): Side of a square, or (height, width), in pixels, to which
            all images are resized regardless of their aspect ratio; None keeps the size of each,
            which ``'patches'`` does not allow. Defaults to 224.
        dtype (str): ``'float32'`` or ``'float16'``. Defaults to ``'float32'``.
        batch_size (int): Images per forward pass. Defaults to 32.
        num_workers (int): Number of processes that read images. Defaults to 2.
        device (str | torch.device, optional): Defaults to a GPU if there is one.
        ann_file (str | Path, optional): Text list or COCO json of the images in a folder.
        value_range: How values of more than 8 bits become 0 to 255, see
            :class:`~cotap_mm.datasets.ImageList`. Defaults to ``'auto'``.
        overwrite (bool): Replace an existing file. Defaults to False: a file with the same
            images, weights and settings is returned, any other one is an error.
        progress (bool, optional): Show the progress, see :class:`~cotap_mm.progress.Progress`.
            Defaults to None: a bar on a terminal, a line in a notebook, elsewhere a line every
            30 seconds.
        network (str, optional): See :func:`cotap_mm.load`; so are the following ones.
        output (str, optional): ``'filter'`` or ``'backbone'``.
        num_heads (int, optional): Number of attention heads.
        trust (bool): Unpickle the checkpoint without restrictions. Defaults to False.

    Returns:
        Features: Ids, provenance and skipped images of the file; arrays are read on access.

    Raises:
        FileNotFoundError: If images or checkpoint do not exist.
        ImportError: If the format needs a package that is not installed.
        ValueError: If an argument is wrong, or ``out`` exists and has other content.
        UserError: If no image can be read, features are not finite, or another process writes
            the same file.
    """
    out, names = Path(out), _check(out, features, size, dtype, batch_size, num_workers)
    source = _open(images, ann_file, value_range)
    on_first_rank(lambda: _refuse_foreign(out, overwrite))
    chosen = as_encoder(
        encoder, device, network=network, output=output, num_heads=num_heads, trust=trust
    )
    about = dict(
        **describe_encoder(encoder, chosen),
        **describe_images(images, source),
        features=names,
        size=size,
        dtype=dtype,
        versions=describe_versions(),
    )
    about['task'] = digest(about, names=[source.name(i) for i in range(len(source))])
    if not on_first_rank(lambda: _is_complete(out, about['task'], overwrite)):
        parts = Parts(
            out, about['task'], len(source), _ROWS_OF_PATCHES if 'patches' in names else _ROWS
        )
        builder = PartBuilder(chosen, parts, names, dtype)
        with abort_all_ranks_on_error(lambda: f'embedding into {out.name}'), _held(parts):
            missing = [number for number in range(len(parts)) if not parts.has(number)]
            own = missing[rank() :: world_size()]
            total = parts.done + sum(len(parts.indices(number)) for number in own)
            with Progress(total, 'embedding', parts.done, progress) as shown:
                builder.build(source, own, size, batch_size, num_workers, shown)
            _finish(out, parts, source, about)
    return read_features(out)


def _check(
    out: Union[str, Path],
    features: Sequence[str],
    size: Optional[Size],
    dtype: str,
    batch_size: int,
    num_workers: int,
) -> list[str]:
    """Check all arguments that need no file; returns the names of the features."""
    names = [features] if isinstance(features, str) else list(dict.fromkeys(features))
    unknown = [name for name in names if name not in FEATURES]
    if unknown or not names:
        raise ValueError(
            f'features must be of {", ".join(FEATURES)}, got '
            f'{", ".join(map(str, unknown)) or "none"}'
        )
    if dtype not in DTYPES:
        raise ValueError(f'dtype must be one of {", ".join(DTYPES)}, got {dtype!r}')
    if 'patches' in names and size is None:
        raise ValueError('patches need images of one size; give size, e.g. size=224 (--size 224)')
    sides = [] if size is None else [size] if isinstance(size, int) else list(size)
    if any(side < 1 for side in sides) or len(sides) > 2:
        raise ValueError(f'size must be a side or (height, width) in pixels, got {size}')
    if batch_size < 1 or num_workers < 0:
        raise ValueError(
            f'batch_size must be at least 1 and num_workers at least 0, got {batch_size} and '
            f'{num_workers}'
        )
    module = format_of(Path(out))
    if hasattr(module, 'check_installed'):
        module.check_installed()
    return names


def _open(images: Any, ann_file: Optional[Union[str, Path]], value_range: Option) -> ImageSource:
    if isinstance(images, (str, Path)):
        return open_images(images, ann_file, value_range)
    if isinstance(images, (list, tuple)):
        if not images or not all(isinstance(path, (str, Path)) for path in images):
            raise TypeError(
                'images must be a folder, image files or an image source; features of arrays, '
                'tensors and PIL images are computed by encode'
            )
        if len({str(path) for path in images}) < len(images):
            raise ValueError('images must be different files, since their names are the ids')
        return ImageFiles(images, value_range)
    if not hasattr(images, 'read') or not hasattr(images, 'name'):
        raise TypeError(
            f'images must be a folder, image files or an image source, got {type(images).__name__}'
        )
    return images


def _refuse_foreign(out: Path, overwrite: bool) -> None:
    """Refuse to replace a file that is not a feature file, before anything is computed."""
    if overwrite or not os.path.lexists(out):
        return
    try:
        read_features(out)
    except (OSError, ValueError):
        raise ValueError(
            f'{printable(out)} exists and is not a feature file that can be read; choose another '
            'name, or pass overwrite=True (--overwrite) to replace it'
        ) from None


def _is_complete(out: Path, task: str, overwrite: bool) -> bool:
    """Whether a file has these features already.

    Raises:
        ValueError: If it has others, and they must not be replaced.
    """
    if overwrite or not out.exists():
        return False
    if read_features(out).provenance.get('task') != task:
        raise ValueError(
            f'{printable(out)} has features of other images, weights or settings; choose another '
            'name, or pass overwrite=True (--overwrite) to replace it'
        )
    print_log(f'{printable(out)} has these features already', logger='current')
    return True


@contextmanager
def _held(parts: Parts) -> Iterator[None]:
    """Lock the parts on rank 0; an error or interrupt keeps those that are complete."""
    locks: list[Lock] = []

    def prepare_folder() -> None:
        locks.append(
            acquire_lock(
                parts.lock, 'embedding', 'wait until it finishes, or choose another file for --out'
            )
        )
        parts.open()

    def advice() -> str:
        return (
            f'The features of {parts.done} of {parts.count} images are saved; the same command '
            'continues'
        )

    on_first_rank(prepare_folder)
    if signals.is_listening():
        signals.set_advice(advice)
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(advice()) from None
    finally:
        if locks and not parts.done:
            parts.remove()
        for lock in locks:
            lock.release()


def _finish(out: Path, parts: Parts, source: ImageSource, about: dict[str, Any]) -> None:
    """Write the file on rank 0 when all parts exist; the other ranks wait for it."""
    if rank():
        _wait(lambda: not parts.folder.exists())
        return
    _wait(lambda: all(parts.has(number) for number in range(len(parts))))
    indices, unreadable = parts.readable()
    skipped = {source.name(index): reason for index, reason in unreadable.items()}
    if not indices:
        parts.remove()
        raise UserError(
            f'none of the {len(source)} images can be read, e.g. {next(iter(skipped.values()))}'
        )
    if skipped:
        print_log(
            f'{len(skipped)} of {len(source)} images cannot be read and are skipped: '
            + '; '.join(list(skipped.values())[:_NAMED])
            + ('; ...' if len(skipped) > _NAMED else ''),
            logger='current',
            level=logging.WARNING,
        )
    ids = [source.name(index) for index in indices]
    format_of(out).write(out, Table(ids, parts.shapes(), skipped, about, parts))
    parts.remove()


def _wait(is_ready: Callable[[], bool]) -> None:
    watch = current_watch()
    while not is_ready():
        if watch is not None:
            watch.check(True)
        signals.check()
        time.sleep(_POLL)
