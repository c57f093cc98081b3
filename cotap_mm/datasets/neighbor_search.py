"""Which images look alike: exact cosine neighbours of their global features."""
import hashlib
import logging
import time
from pathlib import Path
from typing import Optional

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dist import barrier, is_main_process
from mmengine.logging import print_log
from mmengine.utils import ProgressBar
from torch import Tensor

from cotap_mm.registry import DATASETS, build

from .global_features import GlobalEncoder, extract_features, identity_of, remove_part
from .neighbors import load_neighbors, save_neighbors


def build_neighbors(source, encoder, out: 'str | Path', num_neighbors: int = 7,
                    batch_size: int = 32, num_workers: int = 2, use_faiss: bool = False) -> Path:
    """Compute and write the neighbour file of an image source.

    Memory stays bounded: the features, of 118,287 images at width 768 363 MB, are in a
    memory-mapped file beside ``out`` until the end, and the similarities are computed in
    blocks. A run that was interrupted goes on where it stopped.

    An image that cannot be decoded is nobody's neighbour; its own row holds any images
    that can be, and is not used, since training replaces such an image.

    Args:
        source (object): Image source, see :mod:`cotap_mm.datasets.image_source`.
        encoder (object): As :class:`GlobalEncoder`: callable, ``identity``,
            ``image_size`` and ``device``.
        out (str | Path): The file to write, ``*.npz``.
        num_neighbors (int): k. Defaults to 7.
        batch_size (int): Images a forward pass. Defaults to 32.
        num_workers (int): Reading processes. Defaults to 2.
        use_faiss (bool): Search with faiss, which must be installed.

    Returns:
        Path: ``out``.

    Raises:
        ValueError: If fewer than 2 images can be decoded.
        ImportError: If faiss is asked for and not installed.
    """
    out = Path(out)
    if num_neighbors < 1:
        raise ValueError(f'num_neighbors must be at least 1, got {num_neighbors}')
    if use_faiss:
        _import_faiss()
    out.parent.mkdir(parents=True, exist_ok=True)
    names = [source.name(i) for i in range(len(source))]
    part = out.with_name(f'{out.name}.features')
    features = torch.from_numpy(extract_features(source, encoder, part, batch_size, num_workers))
    readable = torch.cat([rows.any(dim=1) for rows in features.split(4096)])
    num_readable = int(readable.sum())
    if num_readable < 2:
        del features
        remove_part(part)  # else the images, once repaired, would not be read again
        raise ValueError(f'neighbours need at least 2 images, {num_readable} of {len(names)} can '
                         'be decoded')
    if num_readable < len(names):
        bad = [names[i] for i in (~readable).nonzero().flatten().tolist()]
        print_log(f'{len(bad)} of {len(names)} images cannot be decoded and are no neighbours, '
                  f'e.g. {", ".join(bad[:20])}', logger='current', level=logging.WARNING)
    k = min(num_neighbors, num_readable - 1)
    search = _search_faiss if use_faiss else search_neighbors
    indices = search(features, k, encoder.device, readable)
    save_neighbors(out, names, indices.numpy(), dict(
        encoder=encoder.identity, image_size=encoder.image_size, num_images=len(names),
        num_readable=num_readable, built=time.strftime('%Y-%m-%d')))
    del features
    remove_part(part)
    return out


@torch.no_grad()
def search_neighbors(features: Tensor, num_neighbors: int, device: str = 'cpu',
                     is_candidate: Optional[Tensor] = None, block: int = 2048) -> Tensor:
    """Exact nearest neighbours by cosine, without the whole matrix of similarities.

    Args:
        features (Tensor): Unit length (or zero), shape (N, C).
        num_neighbors (int): k, less than the number of candidates.
        device (str): Where the products are computed.
        is_candidate (Tensor, optional): Rows that may be neighbours, bool (N,).
        block (int): Rows and columns of one product, which needs about 12 * block^2
            bytes. Defaults to 2048.

    Returns:
        Tensor: Indices, nearest first, never the row itself, shape (N, k), int64.
    """
    count = len(features)
    candidates = torch.arange(count) if is_candidate is None else is_candidate.nonzero().flatten()
    columns = candidates.split(block)
    found = torch.empty(count, num_neighbors, dtype=torch.long)
    progress = ProgressBar(count)
    for start in range(0, count, block):
        rows = features[start:start + block].to(device)
        itself = torch.arange(start, start + len(rows), device=device)
        best = rows.new_empty(len(rows), 0)
        where = torch.empty(len(rows), 0, dtype=torch.long, device=device)
        for index in columns:
            cosine = rows @ features[index].to(device).T  # (rows, columns)
            index = index.to(device).expand(len(rows), -1)
            cosine.masked_fill_(index == itself[:, None], -float('inf'))
            best = torch.cat([best, cosine], dim=1)
            best, order = best.topk(min(num_neighbors, best.shape[1]), dim=1)
            where = torch.cat([where, index], dim=1).gather(1, order)
        found[start:start + len(rows)] = where.cpu()
        progress.update(len(rows))
    return found


def _import_faiss():
    try:
        import faiss
    except ImportError as error:
        raise ImportError('faiss is not installed: pip install faiss-cpu, or leave --faiss '
                          'out') from error
    return faiss


def _search_faiss(features: Tensor, num_neighbors: int, device: str,
                  is_candidate: Tensor) -> Tensor:
    """As :func:`search_neighbors`; faiss holds a second copy of the features in memory."""
    faiss = _import_faiss()
    rows = np.ascontiguousarray(features.numpy(), dtype=np.float32)
    candidates = np.flatnonzero(is_candidate.numpy())
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows[candidates])
    found = candidates[index.search(rows, num_neighbors + 1)[1]]  # (N, k + 1)
    itself = found == np.arange(len(rows))[:, None]
    order = np.argsort(itself, axis=1, kind='stable')  # the image itself goes last
    return torch.from_numpy(np.take_along_axis(found, order, axis=1)[:, :num_neighbors].copy())


def ensure_neighbors(cfg: Config, work_dir: 'str | Path', device: Optional[str] = None) -> None:
    """Build what a config calls ``neighbors='auto'`` and put the file's path in its place.

    The initial backbone of the config computes the features. The file is kept in
    ``work_dir``, which all ranks must see, and used again while images and backbone
    stay the same.

    Args:
        cfg (Config): Changed in place (``train_dataloader.dataset``).
        work_dir (str | Path): Where the files go.
        device (str, optional): Defaults to the GPU if there is one.

    Raises:
        FileNotFoundError: If images or the checkpoint cannot be had.
        ValueError: If there are too few images, or the checkpoint does not fit.
    """
    dataset = cfg.train_dataloader.dataset
    for branch, key in (('patch', 'neighbors'), ('cls', 'cls_neighbors')):
        if dataset.get(key) == 'auto' and dataset.get(branch):
            dataset[key] = str(_ensure(cfg, branch, Path(work_dir), device))


def _ensure(cfg: Config, branch: str, work_dir: Path, device: Optional[str]) -> Path:
    dataset, backbone = cfg.train_dataloader.dataset, cfg.model.backbone
    init = cfg.model.get('init_cfg') or {}
    num_neighbors, size = dataset.get('num_neighbors', 7), backbone.get('img_size', 224)
    source = build(DATASETS, dataset[branch])
    names = [source.name(i) for i in range(len(source))]
    identity = identity_of(backbone, init.get('checkpoint'), size)
    digest = hashlib.sha256('\n'.join([identity, str(num_neighbors), *names]).encode())
    out = work_dir / f'neighbors_{branch}_{digest.hexdigest()[:12]}.npz'
    failure = out.with_name(f'{out.name}.failed')
    if is_main_process() and failure.exists():
        failure.unlink()
    barrier()
    if is_main_process() and not out.is_file():
        print_log(f"neighbors='auto': comparing the {len(source)} images of the {branch} branch "
                  f'with the initial backbone, once; kept in {out}', logger='current')
        work_dir.mkdir(parents=True, exist_ok=True)
        try:
            encoder = GlobalEncoder(backbone, init.get('checkpoint'), size, device or (
                'cuda' if torch.cuda.is_available() else 'cpu'), init.get('source', 'auto'),
                init.get('trust', False))
            build_neighbors(source, encoder, out, num_neighbors,
                            num_workers=cfg.train_dataloader.get('num_workers', 0))
        except BaseException as error:
            failure.write_text(f'{type(error).__name__}: {error}', encoding='utf-8')
            raise
        torch.cuda.empty_cache()
    _wait_for(out, failure)
    load_neighbors(out, names, num_neighbors)
    return out


def _wait_for(out: Path, failure: Path, seconds: float = 1.0) -> None:
    """Until rank 0 has written ``out``.

    Not a barrier: those give up after 10 to 30 minutes, and ImageNet takes longer.
    """
    while not out.is_file():
        if failure.is_file():
            raise RuntimeError('rank 0 could not build the neighbours: '
                               f'{failure.read_text(encoding="utf-8")}')
        time.sleep(seconds)
