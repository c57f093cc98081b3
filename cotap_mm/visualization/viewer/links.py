"""State of the viewer's page as a link, and as a command that draws the same figure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode

from cotap_mm.visualization.errors import NotAvailable

from .sheet import Point

MOST_LETTERS = 8192  # of a link; 24 images with long names have about 3,000
#: Mode of the viewer -> kind of ``cotap visualize``.
KINDS = dict(
    similarity='similarity',
    components='pca',
    clusters='clusters',
    assignments='assignments',
    prototypes='prototypes',
    attention='attention',
    foreground='attention',
    norms='norms',
)


class View(NamedTuple):
    """State of the page.

    Attributes:
        chosen (list): Indices of the shown images, ascending.
        mode (str): Name of the mode.
        number (int): Index of the prototype.
        count (int): Number of clusters.
        point (Point): The chosen patch.
        networks (tuple): Names of the shown networks; () for all.
    """

    chosen: list[int]
    mode: str
    number: int
    count: int
    point: Point
    networks: tuple[str, ...] = ()


def write_link(view: View, names: Sequence[str], grid: tuple[int, int]) -> str:
    """Write a state as the part of a URL after ``#``.

    Images are written by name, so that a link survives a change of the folder.

    Args:
        view (View): State of the page.
        names (sequence): Names of all images.
        grid (tuple): Patch grid (h, w) that row and column count on.

    Returns:
        str: ``mode=...&on=...&row=...``, percent-encoded.
    """
    row, column = view.point.patch(grid)
    slot = min(view.point.slot, len(view.chosen) - 1)
    return urlencode(
        [
            ('mode', view.mode),
            ('prototype', view.number),
            ('clusters', view.count),
            ('on', slot),
            ('row', row),
            ('column', column),
            ('grid', f'{grid[0]}x{grid[1]}'),
            *(('image', names[index]) for index in view.chosen),
            *(('network', name) for name in view.networks),
        ]
    )


def read_link(text: str, names: Sequence[str], grid: tuple[int, int], default: View) -> View:
    """Read a state from a link.

    Repeated images are shown once, and all of them in the order of ``names``.

    Args:
        text (str): From :func:`write_link`; missing parts have their default.
        names (sequence): Names of all images.
        grid (tuple): Patch grid (h, w) of the networks. A patch of a link with another grid is
            moved to the same location.
        default (View): State for an empty link.

    Returns:
        View: The state; of images and networks, only images are checked to exist.

    Raises:
        NotAvailable: If the link is malformed or names an unknown image.
    """
    if len(text) > MOST_LETTERS:
        raise NotAvailable(f'the link has more than {MOST_LETTERS} characters')
    try:
        parts = parse_qsl(text, max_num_fields=100)
    except ValueError:
        raise NotAvailable('the link has more than 100 parts') from None
    first = dict(reversed(parts))
    wanted = [value for key, value in parts if key == 'image']
    where = {name: index for index, name in enumerate(names)}
    for name in wanted:
        if name not in where:
            raise NotAvailable(f'the link shows {name[:100]}, which is not among the images')
    indices = [where[name] for name in wanted] or default.chosen
    chosen = sorted(set(indices))

    def number(key: str, otherwise: int) -> int:
        value = first.get(key, str(otherwise))
        if not (value.isascii() and value.isdigit() and len(value) <= 6):
            raise NotAvailable(f'{key} in the link must be a number, got {value[:20]!r}')
        return int(value)

    point = default.point
    if 'row' in first or 'column' in first or 'on' in first:
        rows, columns = _read_grid(first.get('grid', ''), grid)
        row, column = (number(key, 0) for key in ('row', 'column'))
        slot = chosen.index(indices[min(number('on', 0), len(indices) - 1)])
        x, y = ((at + 0.5) / of for at, of in ((column, columns), (row, rows)))
        point = Point(slot, min(x, 1.0), min(y, 1.0))
    return View(
        chosen,
        first.get('mode', default.mode)[:50],
        number('prototype', default.number),
        number('clusters', default.count),
        point,
        tuple(dict.fromkeys(value[:100] for key, value in parts if key == 'network')),
    )


def _read_grid(text: str, otherwise: tuple[int, int]) -> tuple[int, int]:
    if not text:
        return otherwise
    if not re.fullmatch(r'[1-9]\d{0,4}x[1-9]\d{0,4}', text, re.ASCII):
        raise NotAvailable(f'grid in the link must be ROWSxCOLUMNS, got {text[:20]!r}')
    rows, columns = text.split('x')
    return int(rows), int(columns)


class FigureCommand:
    """Writes a ``cotap visualize`` command for a state of the page.

    Everyone who can open the page can read it, so files and folders are written without their
    path: it is to be run in their folder.

    Args:
        checkpoints (mapping): Name of each network -> its checkpoint.
        images (str): Folder or list of the images.
        size (tuple): Height and width of the images in pixels.
        grids (mapping): Name of each network -> its patch grid (h, w).
        options (sequence): Further arguments, without paths. Defaults to ().
    """

    def __init__(
        self,
        checkpoints: Mapping[str, str],
        images: str,
        size: tuple[int, int],
        grids: Mapping[str, tuple[int, int]],
        options: Sequence[str] = (),
    ) -> None:
        self.checkpoints, self.images = checkpoints, images
        self.size, self.grids, self.options = size, grids, options

    def __call__(self, view: View, names: Sequence[str]) -> str:
        """Return the command for a state; ``names`` are those of all images."""
        slot = min(view.point.slot, len(view.chosen) - 1)
        shown = [name for name in self.checkpoints if name in (view.networks or self.checkpoints)]
        words = ['cotap', 'visualize']
        words += [f'{name}={file_name(self.checkpoints[name])}' for name in shown]
        words += ['--images', file_name(self.images), '--kinds', KINDS.get(view.mode, view.mode)]
        words += ['--select', *(names[index] for index in view.chosen)]
        words += ['--patch', *map(str, (slot, *view.point.patch(self.grids[shown[0]])))]
        if view.mode == 'clusters':
            words += ['--clusters', str(view.count)]
        words += ['--size', *map(str, self.size), *self.options, '--out', 'figure']
        return shlex.join(words)


def file_name(text: str) -> str:
    """Remove the path of a file, folder or URL; keep ``random:`` and names of networks."""
    prefix = 'random:' if text.startswith('random:') else ''
    rest = text[len(prefix) :]
    if rest.startswith(('timm:', 'hf:', 'cotap_mm://')):
        return text
    return prefix + (PurePath(re.sub(r'^\w+://|[?#].*', '', rest)).name or '.')
