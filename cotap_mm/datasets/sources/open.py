"""Open the image source at a path: image files or a packed file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional, Union

from cotap_mm.files.atomic_write import printable

from .files import ImageList
from .packed import PACKED_SUFFIX, PackedImages
from .value_range import Option


def image_source(
    path: Union[str, Path],
    ann_file: Optional[Union[str, Path]] = None,
    value_range: Option = 'auto',
) -> dict:
    """Return the config of the image source at a path.

    Args:
        path (str | Path): ``*.lmdb``, or what :class:`ImageList` accepts.
        ann_file (str | Path, optional): See :class:`ImageList`.
        value_range: See :class:`ImageList`; part of the config only if it is not ``'auto'``.

    Returns:
        dict: Config of :class:`PackedImages` or :class:`ImageList`.

    Raises:
        ValueError: If ``ann_file`` is given for a packed file.
    """
    source: dict[str, Any] = dict(type='ImageList', root=str(path))
    if Path(path).suffix == PACKED_SUFFIX and not Path(path).is_dir():
        if ann_file is not None:
            raise ValueError(
                f'{printable(path)} has its own list of images; remove --ann-file '
                f'(ann_file in a config), got {printable(ann_file)}'
            )
        source['type'] = 'PackedImages'
    if ann_file is not None:
        source['ann_file'] = str(ann_file)
    if not (isinstance(value_range, str) and value_range == 'auto'):
        source['value_range'] = value_range
    return source


def open_images(
    path: Union[str, Path],
    ann_file: Optional[Union[str, Path]] = None,
    value_range: Option = 'auto',
) -> Union[ImageList, PackedImages]:
    """Open the image source at a path; see :func:`image_source` for the arguments."""
    options = image_source(path, ann_file, value_range)
    return (PackedImages if options.pop('type') == 'PackedImages' else ImageList)(**options)
