"""Command line that draws the same figure as the viewer's page."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import PurePath

from .links import View

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


class FigureCommand:
    """Writes a ``cotap visualize`` command for a state of the page.

    Everyone who can open the page can read it, so files and folders are written without their
    path: it is to be run in their folder.

    Args:
        checkpoints (mapping): Name of each network -> its checkpoint.
        images (str): Folder or list of the images.
        size (tuple): Height and width of the images in pixels.
        grid (tuple): Patch grid (h, w) of the first network.
        options (sequence): Further arguments, without paths. Defaults to ().
    """

    def __init__(
        self,
        checkpoints: Mapping[str, str],
        images: str,
        size: tuple[int, int],
        grid: tuple[int, int],
        options: Sequence[str] = (),
    ) -> None:
        self.checkpoints, self.images = checkpoints, images
        self.size, self.grid, self.options = size, grid, options

    def __call__(self, view: View, names: Sequence[str]) -> str:
        """Return the command for a state; ``names`` are those of all images."""
        slot = min(view.point.slot, len(view.chosen) - 1)
        words = ['cotap', 'visualize']
        words += [f'{name}={file_name(file)}' for name, file in self.checkpoints.items()]
        words += ['--images', file_name(self.images), '--kinds', KINDS.get(view.mode, view.mode)]
        words += ['--select', *(names[index] for index in view.chosen)]
        words += ['--patch', *map(str, (slot, *view.point.patch(self.grid)))]
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
