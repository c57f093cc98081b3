"""Build the neighbor files of a config with ``neighbors='auto'``."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import torch
from mmengine.config import Config
from mmengine.logging import print_log

from cotap_mm.datasets.neighbors.file import OLD_SUFFIX, SUFFIX, neighbor_meta, open_neighbors
from cotap_mm.datasets.neighbors.options import SearchOptions
from cotap_mm.datasets.neighbors.search import build_neighbors
from cotap_mm.datasets.sources.fingerprints import fingerprint_of
from cotap_mm.datasets.sources.names import Names, names_of
from cotap_mm.datasets.sources.protocol import ImageSource, prepare
from cotap_mm.datasets.sources.value_range import ValueRange
from cotap_mm.distributed.first_rank import on_first_rank
from cotap_mm.encoders.global_encoder import GlobalEncoder, identity_of
from cotap_mm.registry import DATASETS, MODELS, build, option_of
from cotap_mm.weights import DetectedCheckpoint

#: Names of the files that ``neighbors='auto'`` builds.
AUTO_NAME = re.compile(r'neighbors_(patch|cls)_[0-9a-f]{12}\.np[yz]')


def ensure_neighbors(
    cfg: Config,
    work_dir: str | Path,
    device: Optional[str] = None,
    used_before: Optional[dict[str, str]] = None,
    init: Optional[DetectedCheckpoint] = None,
    sources: Optional[dict[str, ImageSource]] = None,
) -> None:
    """Build the neighbor file of each branch with ``neighbors='auto'`` and set its path.

    The initial backbone of the config computes the features, and ``cfg.neighbor_search`` has
    the options of the search, :class:`.SearchOptions`. The file is kept in
    ``work_dir``, which all ranks must share, and reused as long as the backbone and the images
    are unchanged: their names, sizes and modification times (or contents, see
    :mod:`.fingerprints`).

    Args:
        cfg (Config): Changed in place (``train_dataloader.dataset``).
        work_dir (str | Path): Folder for the files.
        device (str, optional): Defaults to the GPU if there is one.
        used_before (dict[str, str], optional): Option -> file that a resumed run was trained
            with and that no longer exists. It is rebuilt if nothing it depends on has changed.
        init (DetectedCheckpoint, optional): The checkpoint of ``cfg.model.init_cfg``, if it has
            been read before.
        sources (dict[str, ImageSource], optional): Images of the branches, if they have been opened
            before; they keep the neighbors that are read.

    Raises:
        FileNotFoundError: If images or the checkpoint do not exist.
        ValueError: If there are too few images, the checkpoint does not fit, or a file that was
            used before would have other content.
    """
    dataset = cfg.train_dataloader.dataset
    for branch, key in (('patch', 'neighbors'), ('cls', 'cls_neighbors')):
        if not dataset.get(branch):
            continue
        if dataset.get(key) == 'auto':
            source = (sources or {}).get(branch) or build(DATASETS, dataset[branch])
            lost = (used_before or {}).get(key)
            dataset[key] = str(_ensure(cfg, branch, source, Path(work_dir), device, lost, init))


def warn_of_changed_images(path: str | Path, source: ImageSource) -> None:
    """Warn a resumed run if its images have changed since its neighbors were computed.

    Args:
        path (str | Path): Neighbor file. It is skipped unless ``'auto'`` has built it: others
            may describe a copy of the images.
        source (ImageSource): The images.
    """
    if not AUTO_NAME.fullmatch(Path(path).name):
        return
    try:
        then = neighbor_meta(path).get('images')
    except (OSError, ValueError):  # reported when the file is loaded
        return
    if then is not None and then != fingerprint_of(source, like=then):
        print_log(
            f'images have changed since {path} was built (their contents, sizes or modification '
            'times differ). It is still used, because this run started with it; a new run in '
            'another work folder computes neighbors again',
            logger='current',
            level=logging.WARNING,
        )


def _ensure(
    cfg: Config,
    branch: str,
    source: ImageSource,
    work_dir: Path,
    device: Optional[str],
    used_before: Optional[str],
    read: Optional[DetectedCheckpoint],
) -> Path:
    dataset, backbone = cfg.train_dataloader.dataset, cfg.model.backbone
    init = cfg.model.get('init_cfg') or {}
    num_neighbors = option_of(DATASETS, dataset, 'num_neighbors')
    size = option_of(MODELS, backbone, 'img_size')
    crop = (dataset.get('crops') or {}).get('global_size')
    if crop and isinstance(size, int):  # DINOv2's 518 pixels would take five times as long
        size = min(size, crop)
    values = on_first_rank(lambda: prepare(source))
    if isinstance(values, ValueRange):  # stored with the run
        source.value_range = values
        dataset[branch].value_range = values.as_option()
    names = names_of(source)
    options = SearchOptions(**(cfg.get('neighbor_search') or {}))

    def find_file() -> tuple[str, bool, bool]:
        identity = identity_of(backbone, init.get('checkpoint'), size)
        digests = [_digest(identity, num_neighbors, source)]
        if options.search != 'exact':  # exact neighbors are used if they exist
            digests.insert(0, _digest(identity, num_neighbors, source, options))
        stems = [f'neighbors_{branch}_{digest}' for digest in digests]
        if used_before is not None:
            old = f'neighbors_{branch}_{_digest_of_names(identity, num_neighbors, names)}'
            path = work_dir / _rebuilt_name([*stems, old], used_before)
            return str(path), path.is_file(), path.stem == stems[0]
        paths = [work_dir / f'{stem}{suffix}' for stem in stems for suffix in (SUFFIX, OLD_SUFFIX)]
        existing = next((path for path in paths if path.is_file()), None)
        return str(existing or paths[0]), existing is not None, True

    path, exists, is_own = on_first_rank(find_file)
    out = Path(path)
    if not exists:
        print_log(
            f"neighbors='auto': computing neighbors of the {len(source)} images of the {branch} "
            f'branch with the initial backbone; they are kept in {out}',
            logger='current',
        )
        encoder = GlobalEncoder(
            backbone,
            read or init.get('checkpoint'),
            size,
            device or ('cuda' if torch.cuda.is_available() else 'cpu'),
            init.get('source', 'auto'),
            init.get('trust', False),
            init.get('resize_patches', False),
        )
        build_neighbors(
            source,
            encoder,
            out,
            num_neighbors,
            num_workers=cfg.train_dataloader.get('num_workers', 0),
            options=options if is_own else SearchOptions(),  # a lost file of an exact search
        )
        torch.cuda.empty_cache()
    indices = open_neighbors(out, names, num_neighbors)
    source.loaded_neighbors = [str(out), num_neighbors, indices]  # type: ignore[attr-defined]
    return out


def _digest(
    identity: str, num_neighbors: int, source: ImageSource, options: Optional[SearchOptions] = None
) -> str:
    """Hash of everything that a neighbor file depends on; 12 hexadecimal digits."""
    parts = [identity, str(num_neighbors), fingerprint_of(source)]
    if options is not None:
        parts.append(f'{options.search} {options.nprobe}')
    return hashlib.sha256('\n'.join(parts).encode()).hexdigest()[:12]


def _digest_of_names(identity: str, num_neighbors: int, names: Names) -> str:
    """Hash of version 0.1, without sizes and modification times of the images."""
    before = f'{identity}\n{num_neighbors}\n'.encode(errors='surrogateescape')
    return names.digest(b'\n', before)[:12]


def _rebuilt_name(stems: Sequence[str], used_before: str) -> str:
    """Name under which to rebuild the file that a run was trained with.

    Raises:
        ValueError: If the rebuilt file would differ.
    """
    lost = Path(used_before)
    if lost.stem not in stems or lost.suffix not in (SUFFIX, OLD_SUFFIX):
        raise ValueError(
            f'the neighbor file {used_before} of this run does not exist any more, and its init '
            'checkpoint, images or options have changed, so a new file would hold other '
            'neighbors. Restore the file in the work folder, or set one with --neighbors '
            '(--cls-neighbors)'
        )
    print_log(
        f'the neighbor file {used_before} of this run does not exist any more; it is rebuilt '
        'from the same images and init checkpoint',
        logger='current',
        level=logging.WARNING,
    )
    return lost.name
