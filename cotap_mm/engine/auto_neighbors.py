"""Build the neighbor files that a config asks for by ``neighbors='auto'``."""

from __future__ import annotations

import hashlib
import logging
import re
from pathlib import Path
from typing import Optional

import torch
from mmengine.config import Config
from mmengine.logging import print_log

from cotap_mm.datasets.neighbors.file import load_neighbors, neighbor_meta
from cotap_mm.datasets.neighbors.search import build_neighbors
from cotap_mm.datasets.sources.fingerprints import fingerprint_of
from cotap_mm.datasets.sources.protocol import ImageSource, prepare
from cotap_mm.datasets.sources.value_range import ValueRange
from cotap_mm.distributed.first_rank import on_first_rank
from cotap_mm.encoders.global_encoder import GlobalEncoder, identity_of
from cotap_mm.registry import DATASETS, build

#: Names of the files that ``neighbors='auto'`` builds.
AUTO_NAME = re.compile(r'neighbors_(patch|cls)_[0-9a-f]{12}\.npz')


def ensure_neighbors(
    cfg: Config,
    work_dir: str | Path,
    device: Optional[str] = None,
    used_before: Optional[dict[str, str]] = None,
) -> None:
    """Build what a config calls ``neighbors='auto'`` and put the file's path in its place.

    The initial backbone of the config computes the features. The file is kept in
    ``work_dir``, which all ranks must see, and used again while backbone and images, by their
    names, sizes and times of change (or contents, see :mod:`.fingerprints`), stay the same.

    Args:
        cfg (Config): Changed in place (``train_dataloader.dataset``).
        work_dir (str | Path): Where the files go.
        device (str, optional): Defaults to the GPU if there is one.
        used_before (dict[str, str], optional): Files that a resumed run was trained with and
            that are gone, by option. They are built again if everything is as it was.

    Raises:
        FileNotFoundError: If images or the checkpoint cannot be had.
        ValueError: If there are too few images, the checkpoint does not fit, or a file that was
            used before would not be the same.
    """
    dataset = cfg.train_dataloader.dataset
    for branch, key in (('patch', 'neighbors'), ('cls', 'cls_neighbors')):
        if not dataset.get(branch):
            continue
        if dataset.get(key) == 'auto':
            dataset[key] = str(
                _ensure(cfg, branch, Path(work_dir), device, (used_before or {}).get(key))
            )


def warn_of_changed_images(path: str | Path, source: ImageSource) -> None:
    """Warn a resumed run if its images have been changed since its neighbors were found.

    Args:
        path (str | Path): The file; one that was not found by ``'auto'`` may be of a copy of
            the images, and is not looked at.
        source (ImageSource): The images.
    """
    if not AUTO_NAME.fullmatch(Path(path).name):
        return
    try:
        then = neighbor_meta(path).get('images')
    except (OSError, ValueError):  # those who read the file say so
        return
    if then is not None and then != fingerprint_of(source, like=then):
        print_log(
            f'images have been changed since {path} was built (their contents, sizes or '
            'times differ); it is used all the same, since this run was begun with it. A new '
            'run in another work folder finds neighbors again',
            logger='current',
            level=logging.WARNING,
        )


def _ensure(
    cfg: Config, branch: str, work_dir: Path, device: Optional[str], used_before: Optional[str]
) -> Path:
    dataset, backbone = cfg.train_dataloader.dataset, cfg.model.backbone
    init = cfg.model.get('init_cfg') or {}
    num_neighbors, size = dataset.get('num_neighbors', 7), backbone.get('img_size', 224)
    source = build(DATASETS, dataset[branch])
    values = on_first_rank(lambda: prepare(source))
    if isinstance(values, ValueRange):  # stored with the run
        source.value_range = values
        dataset[branch].value_range = values.as_option()
    names = [source.name(i) for i in range(len(source))]

    def look() -> tuple[str, bool]:
        identity = identity_of(backbone, init.get('checkpoint'), size)
        place = work_dir / f'neighbors_{branch}_{_digest(identity, num_neighbors, source)}.npz'
        if used_before is not None:
            place = _same_again(
                place, used_before, _digest_of_names(identity, num_neighbors, names)
            )
        return str(place), place.is_file()

    found, is_there = on_first_rank(look)
    out = Path(found)
    if not is_there:
        print_log(
            f"neighbors='auto': comparing the {len(source)} images of the {branch} branch "
            f'with the initial backbone, once; kept in {out}',
            logger='current',
        )
        encoder = GlobalEncoder(
            backbone,
            init.get('checkpoint'),
            size,
            device or ('cuda' if torch.cuda.is_available() else 'cpu'),
            init.get('source', 'auto'),
            init.get('trust', False),
        )
        build_neighbors(
            source,
            encoder,
            out,
            num_neighbors,
            num_workers=cfg.train_dataloader.get('num_workers', 0),
        )
        torch.cuda.empty_cache()
    load_neighbors(out, names, num_neighbors)
    return out


def _digest(identity: str, num_neighbors: int, source: ImageSource) -> str:
    """Of all that a neighbor file depends on; 12 hexadecimal digits."""
    parts = (identity, str(num_neighbors), fingerprint_of(source))
    return hashlib.sha256('\n'.join(parts).encode()).hexdigest()[:12]


def _digest_of_names(identity: str, num_neighbors: int, names: list[str]) -> str:
    """As :func:`_digest` was, up to version 0.1: without sizes and times of the images."""
    text = '\n'.join([identity, str(num_neighbors), *names])
    return hashlib.sha256(text.encode(errors='surrogateescape')).hexdigest()[:12]


def _same_again(place: Path, used_before: str, digest_before: str) -> Path:
    """Where to build a file again that a run was trained with, if it will be the same."""
    name = Path(used_before).name
    if name not in (place.name, f'{place.name[: -len(digest_before) - 4]}{digest_before}.npz'):
        raise ValueError(
            f'the neighbor file {used_before}, which this run was trained with, is gone, and its '
            'init checkpoint, images or options are not what it was built from, so that other '
            'neighbors would be found. Put the file back into the work folder, or choose one with '
            '--neighbors (--cls-neighbors)'
        )
    print_log(
        f'the neighbor file {used_before}, which this run was trained with, is gone; it is '
        'built again from the same images and init',
        logger='current',
        level=logging.WARNING,
    )
    return place.with_name(name)
