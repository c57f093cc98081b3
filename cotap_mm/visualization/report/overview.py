"""One picture that compares networks on chosen patches, for a report or a README."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from cotap_mm.visualization.errors import NotAvailable
from cotap_mm.visualization.figures.overview import (
    COUNT,
    Cutout,
    NetworkView,
    Query,
    overview_figure,
)
from cotap_mm.visualization.figures.pca import shared_pca_maps
from cotap_mm.visualization.figures.similarity import similarity_map
from cotap_mm.visualization.report.retrieval import crop_around, nearest_patches

from .html import Report
from .image_set import ImageSet, encode_images, read_images
from .inputs import ReportInputs
from .panels import Patch, channel_note, patch_on_grid

AROUND = 0.3  # side of a cutout, as share of the shorter side of an image
COLORS = 96  # a picture of two queries then has less than 500 kB
SHARPER = 2  # cutouts are enlarged, so they are read at this multiple of the encoded size


def add_overview(report: Report, inputs: ReportInputs) -> None:
    """Add similarity, components and retrieval of the chosen patches.

    Args:
        report (Report): Report to extend.
        inputs (ReportInputs): At least two images; each patch of its ``patches`` is one query.

    Raises:
        NotAvailable: If there is only one image.
    """
    overview = _Overview(inputs)
    queries = [overview.query(patch) for patch in inputs.patches]
    others = len(overview.pool.pixels) - 1
    shared = ' and '.join(inputs.encoders)
    basis = (
        'first three as red, green, blue'
        if len(inputs.encoders) < 2
        else 'one basis for all rows'
        if overview.shares_basis
        else 'own basis in each row, aligned'
    )
    report.add_picture(
        'overview',
        f'Overview: {shared}',
        'Similarity: cosine of the framed patch to every patch of its photograph, bright is '
        'similar; each map has its own scale, from its lowest value to 1. Principal components: '
        f'the first three as red, green and blue. {channel_note(inputs.features)} Retrieval: the '
        f'{COUNT} patches of {others} other photographs that are most similar to the framed one.',
        overview_figure(
            queries,
            (
                'the framed patch is the query',
                'to the framed patch, bright is high',
                basis,
                f'best patches of {others} other photographs',
            ),
        ),
        num_colors=COLORS,
    )


class _Overview:
    """Features that all queries of an overview share."""

    def __init__(self, inputs: ReportInputs) -> None:
        self.inputs = inputs
        self.indices = sorted({*inputs.pool_indices, *inputs.shown_indices})
        if len(self.indices) < 2:
            raise NotAvailable('needs at least two images, got one')
        self.pool: ImageSet = read_images(inputs.source, self.indices, inputs.size)
        self.features: dict[str, Tensor] = {
            name: encode_images(encoder, self.pool.pixels, inputs.options.window)
            for name, encoder in inputs.encoders.items()
        }
        self.components = shared_pca_maps(inputs.features)
        channels = {features.shape[1] for features in self.features.values()}
        self.shares_basis = len(channels) == 1

    def query(self, patch: Patch) -> Query:
        """Compute what is drawn for a patch (image, row, column) of the shown images."""
        grid = self.inputs.first_encoder.grid(*self.inputs.size)
        image = self.indices.index(self.inputs.shown_indices[patch[0]])
        networks = {}
        for name, features in self.features.items():
            row, column = patch_on_grid(patch, grid, features)
            matches = nearest_patches(
                features, (image, row, column), COUNT, apart=max(1, min(features.shape[2:]) // 6)
            )
            networks[name] = NetworkView(
                similarity_map(features[image], (row, column)),
                self.components[name][patch[0]],
                [self._cutout(m.image, m.row, m.column, features.shape[2:]) for m in matches],
            )
        rows, columns = grid
        box = (patch[2] / columns, patch[1] / rows, 1 / columns, 1 / rows)
        zoom = self._cutout(image, patch[1], patch[2], grid)
        return Query(self.pool.pixels[image], box, zoom, networks)

    def _cutout(self, image: int, row: int, column: int, grid: Any) -> Cutout:
        height, width = (SHARPER * side for side in self.inputs.size)
        sharp = read_images(self.inputs.source, [self.indices[image]], (height, width)).pixels[0]
        patch = height / grid[0], width / grid[1]
        center = (row + 0.5) * patch[0], (column + 0.5) * patch[1]
        pixels, (y, x) = crop_around(sharp, center, round(AROUND * min(height, width)))
        side = len(pixels)
        box = (x - patch[1] / 2, y - patch[0] / 2, patch[1], patch[0])
        left, top, wide, high = (value / side for value in box)
        return Cutout(pixels, (left, top, wide, high))
