"""Build the neighbor file of an image source on all ranks."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any, Optional

import torch
from mmengine.dist import barrier
from mmengine.logging import print_log
from torch import Tensor

from cotap_mm.datasets.sources.fingerprints import fingerprint_of
from cotap_mm.datasets.sources.names import names_of
from cotap_mm.datasets.sources.protocol import ImageSource, prepare
from cotap_mm.distributed.collectives import rank, world_size
from cotap_mm.distributed.file_barrier import SharedBuild, build_together
from cotap_mm.distributed.first_rank import on_first_rank
from cotap_mm.errors import UserError
from cotap_mm.files.atomic_write import printable
from cotap_mm.ops.nearest import import_faiss
from cotap_mm.progress import Progress

from .encoder import GlobalFeatureEncoder
from .feature_file import FeatureFile
from .features import extract_features, feature_file
from .file import is_neighbor_file_of, save_neighbors
from .options import SearchOptions
from .searches.exact import ExactSearch, FeatureParts, NeighborSearch, search_neighbors
from .searches.found import FoundParts
from .searches.ivf import IvfIndexBuild, IvfSearch
from .searches.recall import announce_cost, measure_recall, report_cost, report_recall

__all__ = ['build_neighbors', 'search_neighbors']

_PART = 8192  # images per feature file


@torch.no_grad()
def build_neighbors(
    source: ImageSource,
    encoder: GlobalFeatureEncoder,
    out: str | Path,
    num_neighbors: int = 7,
    batch_size: int = 32,
    num_workers: int = 2,
    use_faiss: bool = False,
    options: Optional[SearchOptions] = None,
) -> Path:
    """Compute the neighbors of an image source and write the neighbor file.

    The work is sharded across ranks. Ranks synchronize by files next to ``out``, without a timeout
    for slow ranks. Memory is bounded: until the end the features are stored in files next to
    ``out`` (363 MB for 118,287 images of width 768), and the similarities are computed in blocks.
    An interrupted run can be resumed with any number of ranks. Only one run at a time builds a
    file: another one waits, and then uses the result.

    An image that cannot be decoded is not a neighbor of any image. Its own row contains arbitrary
    readable images and is never used, since training replaces such an image.

    Args:
        source (ImageSource): The images.
        encoder (GlobalFeatureEncoder): Computes the features.
        out (str | Path): The file to write, ``*.npy``; in a folder that all ranks share.
        num_neighbors (int): Number of neighbors of each image, k. Defaults to 7.
        batch_size (int): Images per forward pass. Defaults to 32.
        num_workers (int): Number of data loader workers of each rank. Defaults to 2.
        use_faiss (bool): Search exactly with faiss, which must be installed. Defaults to False.
        options (SearchOptions, optional): Exact or approximate search, and the type of the
            features on disk. Defaults to None, exact.

    Returns:
        Path: ``out``.

    Raises:
        ValueError: If fewer than 2 images can be decoded, or ``use_faiss`` is set for an
            approximate search.
        ImportError: If faiss is needed and not installed.
        UserError: If another rank failed, died or was stopped; if another run has built a
            different file at ``out`` in the meantime; if the disk is full.
    """
    out, options = Path(out), options or SearchOptions()
    _check_options(num_neighbors, use_faiss, options)
    names = names_of(source)
    # Taken from rank 0: a rank that expects other files than the others write would wait forever.
    fingerprint, first_names = on_first_rank(lambda: (fingerprint_of(source), names.digest()))
    source._fingerprint = fingerprint  # type: ignore[attr-defined]
    meta = dict(
        encoder=encoder.identity,
        image_size=encoder.image_size,
        num_images=len(names),
        images=fingerprint,
        search=options.search,
    )
    with build_together(
        out,
        names.digest(b'\n', f'{encoder.identity}\n'.encode()),
        lambda: is_neighbor_file_of(out, names, num_neighbors, meta),
    ) as build:
        if names.digest() != first_names:
            raise UserError(
                f'rank {rank()} has {len(names)} images that differ from those of rank '
                '0; all ranks must see the same files'
            )
        if build is None:
            return out
        if use_faiss or options.search == 'ivf':
            import_faiss()
        if options.search == 'exact' and rank() == 0:
            announce_cost(len(names))
        files = _extract(
            source, encoder, build, batch_size, num_workers, options.dtype_for(len(names))
        )
        readable = torch.cat([rows.any(dim=1) for part in files for rows in part.split(4096)])
        num_readable = int(readable.sum())
        if num_readable < 2:
            barrier()  # all have read the features
            build.clean_up()  # otherwise repaired images would not be read again
            raise ValueError(
                f'neighbors need at least 2 images, {num_readable} of {len(names)} can be decoded'
            )
        found, how = _search(
            build,
            FeatureParts(files),
            min(num_neighbors, num_readable - 1),
            encoder.device,
            readable,
            use_faiss,
            options,
        )
        if rank() == 0:
            _report_unreadable(readable, source)
            meta.update(
                how,
                num_readable=num_readable,
                built=time.strftime('%Y-%m-%d'),
                value_range=str(prepare(source)),
            )
            save_neighbors(out, names, found.collect(), meta)
        build.clean_up()
    return out


def _extract(
    source: ImageSource,
    encoder: GlobalFeatureEncoder,
    build: SharedBuild,
    batch_size: int,
    num_workers: int,
    dtype: str,
) -> list[FeatureFile]:
    """Compute the features of all images in parts, sharded across ranks."""
    parts = {
        build.features(number): range(start, min(start + _PART, len(source)))
        for number, start in enumerate(range(0, len(source), _PART))
    }
    own = [part for number, part in enumerate(parts) if number % world_size() == rank()]
    with Progress(sum(len(parts[part]) for part in own), 'features for neighbors') as progress:
        for part in own:
            extract_features(
                source, encoder, part, batch_size, num_workers, parts[part], progress, dtype
            )
    files = [feature_file(source, encoder, part, rows, dtype) for part, rows in parts.items()]
    mine = [file for file in files if file.path in own]
    for file in mine:
        if not file.load():
            raise UserError(
                f'{file.path} was damaged or deleted while the neighbors of {build.out.name} '
                'were being built; start again'
            )
    needed = [path for file in mine for path in (file.path, file.record)]
    for file in files:
        build.wait(file.load, own=needed)
    return files


def _search(
    build: SharedBuild,
    features: FeatureParts,
    num_neighbors: int,
    device: str,
    readable: Tensor,
    use_faiss: bool,
    options: SearchOptions,
) -> tuple[FoundParts, dict[str, Any]]:
    """Search the neighbors of all images, sharded across ranks.

    Returns:
        tuple[FoundParts, dict]: The neighbors, and how they were searched.
    """
    contents = ' '.join(f'{part.width} {part.dtype} {part.checksum}' for part in features)
    how: dict[str, Any] = dict(search=options.search)
    search: NeighborSearch
    if options.search == 'ivf':
        index = IvfIndexBuild(build, features, readable, contents)
        search = IvfSearch(index.run(), features, num_neighbors, readable, device, options.nprobe)
        how.update(index=index.factory, nprobe=options.nprobe)
        if rank() == 0:
            recall = measure_recall(search, readable)
            report_recall(recall, search, index.factory, options.nprobe)
            how.update(recall=round(recall, 4))
    else:
        search = ExactSearch(features, num_neighbors, device, readable, use_faiss=use_faiss)
        if rank() == 0:
            report_cost(search)
    task = f'{contents}\n{options.search}'
    task += f' {options.nprobe}' if options.search == 'ivf' else f' {use_faiss}'
    found = FoundParts(build, task, (features.num_rows, num_neighbors))
    found.compute(search)
    return found, how


def _report_unreadable(readable: Tensor, source: ImageSource) -> None:
    bad = (~readable).nonzero().flatten().tolist()
    if bad:
        shown = ', '.join(printable(source.name(index)) for index in bad[:20])
        print_log(
            f'{len(bad)} of {len(readable)} images cannot be decoded and are not used as '
            f'neighbors, e.g. {shown}',
            logger='current',
            level=logging.WARNING,
        )


def _check_options(num_neighbors: int, use_faiss: bool, options: SearchOptions) -> None:
    if num_neighbors < 1:
        raise ValueError(f'num_neighbors must be at least 1, got {num_neighbors}')
    if use_faiss and options.search != 'exact':
        raise ValueError(
            f'use_faiss (--faiss) searches exactly, and search={options.search!r} uses faiss '
            'anyway; leave out one of them'
        )
