"""What the checks of downstream data share."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, UnidentifiedImageError

from cotap_mm.datasets.sources.decoding import image_header
from cotap_mm.datasets.sources.files import read_image_bytes
from cotap_mm.datasets.sources.value_range import Samples

SAMPLE = 64  # files of a data set that are opened in any case
SECONDS = 5.0  # spent on opening more of them, so that small data sets are seen whole
EXIST = 1000  # files whose existence is checked
_ORIENTATION = 0x0112  # EXIF tag; from 5 on, width and height are swapped


class Findings:
    """What the checks found.

    Attributes:
        errors (list): Problems that make the run impossible, in sentences.
        warnings (list): What is suspicious.
        class_orders (dict): Name of a part -> the part, and its classes in the order in which
            they are numbered.
        deep_images (list): Images with more than 8 bits among those that were looked at.
    """

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self.class_orders: dict[str, tuple[Part, tuple[str, ...]]] = {}
        self.deep_images: list[DeepImage] = []


class Part(NamedTuple):
    """One data set of a run.

    Attributes:
        name (str): 'train', 'val' or 'test'.
        config (dict): Of the data set, without wrappers.
        heads (tuple): Of the model, see :func:`heads_of`.
    """

    name: str
    config: dict[str, Any]
    heads: tuple[Any, ...]

    def __str__(self) -> str:
        kind = self.config.get('type')
        return f'{self.name} data ({getattr(kind, "__name__", kind)})'

    def reads_labels(self) -> bool:
        """Whether the pipeline loads annotations in the library's usual way."""
        return any(
            name_of(step) == 'LoadAnnotations' for step in steps_of(self.config.get('pipeline'))
        )

    def option(self, key: str) -> bool:
        """Whether a step that loads annotations has an option switched on."""
        return any(
            name_of(step) == 'LoadAnnotations' and step.get(key)
            for step in steps_of(self.config.get('pipeline'))
        )


class DeepImage(NamedTuple):
    """An image with more than 8 bits: its data set, its path, and some of its values."""

    part: Part
    path: str
    values: Samples


def steps_of(pipeline: Any) -> Iterator[dict[str, Any]]:
    """All steps of a pipeline, nested ones too."""
    if isinstance(pipeline, (list, tuple)):
        for each in pipeline:
            yield from steps_of(each)
    elif isinstance(pipeline, dict):
        if 'type' in pipeline:
            yield pipeline
        for value in pipeline.values():
            yield from steps_of(value)


def spread(items: Sequence[Any], most: int) -> list[Any]:
    """At most ``most`` items, evenly spread."""
    kept = min(most, len(items))
    return [items[i * len(items) // kept] for i in range(kept)]


def look_through(items: Sequence[Any]) -> Iterator[Any]:
    """:data:`SAMPLE` items, evenly spread, then the others for :data:`SECONDS`."""
    start = time.monotonic()
    first = {i * len(items) // SAMPLE for i in range(SAMPLE)} if len(items) > SAMPLE else set()
    for index in sorted(first):
        yield items[index]
    for index, item in enumerate(items):
        if index in first:
            continue
        if first and time.monotonic() - start > SECONDS:
            return
        yield item


def image_size(path: str) -> tuple[int, int]:
    """Height and width of an image as it is shown, from its header.

    Raises:
        ValueError: If the file is not an image.
    """
    try:
        if not Path(path).is_file():
            raise ValueError('not a regular file')
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(_ORIENTATION, 1) >= 5
    except UnidentifiedImageError as error:  # perhaps a TIFF that only OpenCV reads
        try:
            return image_header(read_image_bytes(path))[:2]
        except Exception:
            raise _unreadable(path, error) from error
    except Exception as error:  # decoders raise many types
        raise _unreadable(path, error) from error
    return (width, height) if turned else (height, width)


def _unreadable(path: str, error: Exception) -> ValueError:
    return ValueError(
        f'image {path} cannot be read ({type(error).__name__}: {error}); remove it, or replace it'
    )


def missing_files(paths: Sequence[str]) -> list[str]:
    """Those of up to :data:`EXIST` paths that do not exist."""
    return [path for path in spread(paths, EXIST) if not Path(path).exists()]


def counted(missing: Sequence[str], of: int, what: str) -> str:
    """Sentence about missing files."""
    share = f'{len(missing)} of {min(of, EXIST)}' + (' sampled' if of > EXIST else '')
    return f'{share} {what} do not exist, the first is {missing[0]}'


def names(values: Sequence[Any], most: int = 12) -> str:
    """A list for a sentence, shortened."""
    more = f', ... ({len(values)} in all)' if len(values) > most else ''
    return ', '.join(map(str, values[:most])) + more


def name_of(step: Any) -> str:
    """Type of a step without its scope."""
    kind = step.get('type') if isinstance(step, dict) else step
    return (kind if isinstance(kind, str) else getattr(kind, '__name__', '')).split('.')[-1]
