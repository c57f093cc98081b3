"""Open the image source at a path or URI: image files, a packed file, or tar shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional, Union

from cotap_mm.files.atomic_write import printable

from .files import ImageList
from .packed import PACKED_SUFFIX, PackedImages
from .shards.images import ShardedImages
from .shards.paths import is_shards
from .value_range import Option

_CLASSES: dict[str, Any] = dict(
    ImageList=ImageList, PackedImages=PackedImages, ShardedImages=ShardedImages
)


def image_source(
    path: Union[str, Path],
    ann_file: Optional[Union[str, Path]] = None,
    value_range: Option = 'auto',
) -> dict:
    """Return the config of the image source at a path.

    Args:
        path (str | Path): ``*.lmdb``, what :class:`ShardedImages` accepts (tar shards, a URI), or
            what :class:`ImageList` accepts.
        ann_file (str | Path, optional): See :class:`ImageList`.
        value_range: See :class:`ImageList`; part of the config only if it is not ``'auto'``.

    Returns:
        dict: Config of :class:`PackedImages`, :class:`ShardedImages` or :class:`ImageList`.

    Raises:
        ValueError: If ``ann_file`` is given for a packed file or shards.
    """
    source: dict[str, Any] = dict(type='ImageList', root=str(path))
    if is_shards(path):
        source['type'] = 'ShardedImages'
    elif Path(path).suffix == PACKED_SUFFIX and not Path(path).is_dir():
        source['type'] = 'PackedImages'
    if source['type'] != 'ImageList' and ann_file is not None:
        raise ValueError(
            f'{printable(path)} has its own list of images; remove --ann-file '
            f'(ann_file in a config), got {printable(ann_file)}'
        )
    if ann_file is not None:
        source['ann_file'] = str(ann_file)
    if not (isinstance(value_range, str) and value_range == 'auto'):
        source['value_range'] = value_range
    return source


def open_images(
    path: Union[str, Path],
    ann_file: Optional[Union[str, Path]] = None,
    value_range: Option = 'auto',
) -> Union[ImageList, PackedImages, ShardedImages]:
    """Open the image source at a path; see :func:`image_source` for the arguments."""
    options = image_source(path, ann_file, value_range)
    return _CLASSES[options.pop('type')](**options)
