"""Search the nearest neighbors of images by exact cosine similarity of global features."""

from __future__ import annotations

import hashlib
import logging
import time
from pathlib import Path
from typing import Optional

import numpy as np
import torch
from mmengine.dist import barrier
from mmengine.logging import print_log
from torch import Tensor

from cotap_mm.datasets.sources.fingerprints import fingerprint_of
from cotap_mm.datasets.sources.names import names_of
from cotap_mm.datasets.sources.protocol import ImageSource, prepare
from cotap_mm.distributed.collectives import rank, world_size
from cotap_mm.distributed.failures import show_progress
from cotap_mm.distributed.file_barrier import SharedBuild, build_together
from cotap_mm.distributed.first_rank import on_first_rank
from cotap_mm.errors import UserError
from cotap_mm.files.atomic_write import printable
from cotap_mm.ops.nearest import BLOCK_SIZE, Memory, build_search, import_faiss, nearest
from cotap_mm.progress import Progress

from .encoder import GlobalFeatureEncoder
from .feature_file import FeatureFile
from .features import extract_features, feature_file
from .file import is_neighbor_file_of, save_neighbors

_PART = 8192  # images per feature file


def build_neighbors(
    source: ImageSource,
    encoder: GlobalFeatureEncoder,
    out: str | Path,
    num_neighbors: int = 7,
    batch_size: int = 32,
    num_workers: int = 2,
    use_faiss: bool = False,
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
        out (str | Path): The file to write, ``*.npz``; in a folder that all ranks share.
        num_neighbors (int): Number of neighbors of each image, k. Defaults to 7.
        batch_size (int): Images per forward pass. Defaults to 32.
        num_workers (int): Number of data loader workers of each rank. Defaults to 2.
        use_faiss (bool): Search with faiss, which must be installed. Defaults to False.

    Returns:
        Path: ``out``.

    Raises:
        ValueError: If fewer than 2 images can be decoded.
        ImportError: If ``use_faiss`` is set and faiss is not installed.
        UserError: If another rank failed, died or was stopped; if another run has built a
            different file at ``out`` in the meantime; if the disk is full.
    """
    out = Path(out)
    if num_neighbors < 1:
        raise ValueError(f'num_neighbors must be at least 1, got {num_neighbors}')
    names = names_of(source)
    # Taken from rank 0: a rank that expects other files than the others write would wait forever.
    fingerprint, first_names = on_first_rank(lambda: (fingerprint_of(source), _hash(names)))
    source._fingerprint = fingerprint  # type: ignore[attr-defined]
    meta = dict(
        encoder=encoder.identity,
        image_size=encoder.image_size,
        num_images=len(names),
        images=fingerprint,
    )
    with build_together(
        out,
        '\n'.join([encoder.identity, *names]),
        lambda: is_neighbor_file_of(out, names, num_neighbors, meta),
    ) as build:
        if _hash(names) != first_names:
            raise UserError(
                f'rank {rank()} has {len(names)} images that differ from those of rank '
                '0; all ranks must see the same files'
            )
        if build is None:
            return out
        if use_faiss:
            import_faiss()
        features = _extract(source, encoder, build, batch_size, num_workers)
        readable = torch.cat([rows.any(dim=1) for part in features for rows in part.split(4096)])
        num_readable = int(readable.sum())
        if num_readable < 2:
            barrier()  # all have read the features
            build.clean_up()  # otherwise repaired images would not be read again
            raise ValueError(
                f'neighbors need at least 2 images, {num_readable} of {len(names)} can be decoded'
            )
        rows = range(len(names) * rank() // world_size(), len(names) * (rank() + 1) // world_size())
        shard = search_neighbors(
            features,
            min(num_neighbors, num_readable - 1),
            encoder.device,
            readable,
            rows=rows,
            use_faiss=use_faiss,
        )
        indices = build.collect(shard.numpy(), len(names))
        if indices is not None:
            if num_readable < len(names):
                bad = [printable(names[i]) for i in (~readable).nonzero().flatten().tolist()]
                print_log(
                    f'{len(bad)} of {len(names)} images cannot be decoded and are not used as '
                    f'neighbors, e.g. {", ".join(bad[:20])}',
                    logger='current',
                    level=logging.WARNING,
                )
            save_neighbors(
                out,
                names,
                indices,
                dict(
                    meta,
                    num_readable=num_readable,
                    built=time.strftime('%Y-%m-%d'),
                    value_range=str(prepare(source)),
                ),
            )
        build.clean_up()
    return out


def _hash(names: list[str]) -> str:
    return hashlib.sha256('\n'.join(names).encode('utf-8', 'surrogateescape')).hexdigest()


def _extract(
    source: ImageSource,
    encoder: GlobalFeatureEncoder,
    build: SharedBuild,
    batch_size: int,
    num_workers: int,
) -> list[FeatureFile]:
    """Compute the features of all images in parts, sharded across ranks."""
    parts = {
        build.features(number): range(start, min(start + _PART, len(source)))
        for number, start in enumerate(range(0, len(source), _PART))
    }
    own = [part for number, part in enumerate(parts) if number % world_size() == rank()]
    with Progress(sum(len(parts[part]) for part in own), 'features for neighbors') as progress:
        for part in own:
            extract_features(source, encoder, part, batch_size, num_workers, parts[part], progress)
    files = [feature_file(source, encoder, part, indices) for part, indices in parts.items()]
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


@torch.no_grad()
def search_neighbors(
    features: Memory,
    num_neighbors: int,
    device: str = 'cpu',
    is_candidate: Optional[Tensor] = None,
    block: Optional[int] = None,
    rows: Optional[range] = None,
    use_faiss: bool = False,
) -> Tensor:
    """Exact nearest neighbors by cosine similarity, without storing the similarity matrix.

    Args:
        features (Tensor | sequence[Tensor]): Features of unit length (or zero), shape (N, C), or
            parts of them.
        num_neighbors (int): Number of neighbors, k, less than the number of candidates.
        device (str): Device of the products. Defaults to ``'cpu'``.
        is_candidate (Tensor, optional): Rows that may be neighbors, bool (N,). Defaults to None,
            all.
        block (int, optional): Rows and columns of one product, which needs about
            8 * block^2 bytes. Defaults to that of :func:`cotap_mm.ops.nearest.nearest`.
        rows (range, optional): Rows whose neighbors are searched. Defaults to None, all.
        use_faiss (bool): Search with faiss on the CPU, which keeps a second copy of the features
            in memory. Defaults to False.

    Returns:
        Tensor: Indices, nearest first and without the row itself, shape (rows, k), int64.
    """
    parts = [features] if isinstance(features, Tensor) else list(features)
    bounds = np.cumsum([0, *map(len, parts)])
    rows = range(int(bounds[-1])) if rows is None else rows
    if use_faiss:
        whole = torch.cat([part[:] for part in parts])
        candidates = (
            torch.arange(len(whole)) if is_candidate is None else is_candidate.nonzero().flatten()
        )
        index = build_search(whole[candidates], 'Flat')
    neighbors = torch.empty(len(rows), num_neighbors, dtype=torch.long)
    step = block or BLOCK_SIZE
    with Progress(len(rows), 'nearest neighbors') as progress:
        for start in range(rows.start, rows.stop, step):
            stop = min(start + step, rows.stop)
            queries = torch.cat(
                [
                    part[max(start - low, 0) : max(stop - low, 0)]
                    for part, low in zip(parts, bounds.tolist())
                ]
            ).to(device)
            if use_faiss:
                near = candidates[index(queries, num_neighbors + 1)[1].cpu()]
            else:
                near = nearest(queries, parts, num_neighbors + 1, block, is_candidate)[1].cpu()
            itself = near == torch.arange(start, stop)[:, None]
            order = itself.int().argsort(dim=1, stable=True)  # moves the row itself to the end
            neighbors[start - rows.start : stop - rows.start] = near.gather(1, order)[
                :, :num_neighbors
            ]
            progress.update(stop - start)
            show_progress()
    return neighbors
