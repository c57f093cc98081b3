"""Results and helpers that the checks of downstream data share."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

from PIL import Image, UnidentifiedImageError

from cotap_mm.datasets.sources.decoding import image_header
from cotap_mm.datasets.sources.files import read_image_bytes
from cotap_mm.datasets.sources.value_range import Samples

SAMPLE = 64  # number of files of a data set that are always opened
SECONDS = 5.0  # time for opening more files, enough for all files of a small data set
EXIST = 1000  # number of files whose existence is checked
_ORIENTATION = 0x0112  # EXIF tag; values >= 5 swap width and height


class Findings:
    """Results of the checks.

    Attributes:
        errors (list[str]): Problems that make the run impossible.
        warnings (list[str]): Suspicious properties of the data.
        class_orders (dict): Name of a part -> the part, and its classes in the order of their
            labels.
        deep_images (list[DeepImage]): Sampled images with more than 8 bits.
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
        config (dict): Config of the data set, without wrappers.
        heads (tuple): Heads of the model, see :func:`.heads_of`.
    """

    name: str
    config: dict[str, Any]
    heads: tuple[Any, ...]

    def __str__(self) -> str:
        kind = self.config.get('type')
        return f'{self.name} data ({getattr(kind, "__name__", kind)})'

    def class_in(self, registry: Any) -> Optional[type]:
        """Class of the data set in a library's registry; None if it is not there."""
        kind = self.config.get('type')
        return registry.get(kind) if isinstance(kind, str) else kind

    def build(self, registry: Any) -> Any:
        """Build the data set of a library without its pipeline and before it lists its files."""
        return registry.build(
            {**self.config, 'pipeline': [], '_scope_': registry.scope, 'lazy_init': True}
        )

    def reads_labels(self) -> bool:
        """Whether the pipeline loads annotations with the library's LoadAnnotations."""
        return any(
            name_of(step) == 'LoadAnnotations' for step in steps_of(self.config.get('pipeline'))
        )

    def option(self, key: str) -> bool:
        """Whether a step that loads annotations has an option enabled."""
        return any(
            name_of(step) == 'LoadAnnotations' and step.get(key)
            for step in steps_of(self.config.get('pipeline'))
        )


class DeepImage(NamedTuple):
    """An image with more than 8 bits: its data set, its path, and a sample of its values."""

    part: Part
    path: str
    values: Samples


def steps_of(pipeline: Any) -> Iterator[dict[str, Any]]:
    """Yield all steps of a pipeline, including nested ones."""
    if isinstance(pipeline, (list, tuple)):
        for step in pipeline:
            yield from steps_of(step)
    elif isinstance(pipeline, dict):
        if 'type' in pipeline:
            yield pipeline
        for value in pipeline.values():
            yield from steps_of(value)


def spread(items: Sequence[Any], most: int) -> list[Any]:
    """Select at most ``most`` evenly spaced items."""
    kept = min(most, len(items))
    return [items[i * len(items) // kept] for i in range(kept)]


def iter_sampled(items: Sequence[Any]) -> Iterator[Any]:
    """Yield :data:`SAMPLE` evenly spaced items, then other items for :data:`SECONDS`."""
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
    """Read height and width of an image from its header, after EXIF rotation.

    Raises:
        ValueError: If the file is not an image.
    """
    try:
        if not Path(path).is_file():
            raise ValueError('not a regular file')
        with Image.open(path) as image:
            width, height = image.size
            is_rotated = image.getexif().get(_ORIENTATION, 1) >= 5
    except UnidentifiedImageError as error:  # may be a TIFF that only OpenCV can read
        try:
            return image_header(read_image_bytes(path))[:2]
        except Exception:
            raise _unreadable(path, error) from error
    except Exception as error:  # decoders raise many types
        raise _unreadable(path, error) from error
    return (width, height) if is_rotated else (height, width)


def _unreadable(path: str, error: Exception) -> ValueError:
    return ValueError(
        f'image {path} cannot be read ({type(error).__name__}: {error}); remove or replace it'
    )


def missing_files(paths: Sequence[str]) -> list[str]:
    """Missing files among up to :data:`EXIST` evenly spaced paths."""
    return [path for path in spread(paths, EXIST) if not Path(path).exists()]


def counted(missing: Sequence[str], of: int, what: str) -> str:
    """Sentence about missing files.

    Args:
        missing (sequence): Missing files among those that were checked.
        of (int): Number of all files.
        what (str): Kind of the files, e.g. 'images'.
    """
    share = f'{len(missing)} of {min(of, EXIST)}' + (' sampled' if of > EXIST else '')
    return f'{share} {what} do not exist, the first is {missing[0]}'


def names(values: Sequence[Any], most: int = 12) -> str:
    """Comma-separated list for a message, shortened to ``most`` values."""
    more = f', ... ({len(values)} in all)' if len(values) > most else ''
    return ', '.join(map(str, values[:most])) + more


def name_of(step: Any) -> str:
    """Type of a step, without its scope."""
    kind = step.get('type') if isinstance(step, dict) else step
    return (kind if isinstance(kind, str) else getattr(kind, '__name__', '')).split('.')[-1]
