from __future__ import annotations

import numpy as np
import pytest
import torch

from cotap_mm.evaluation import CoTAPEncoder
from cotap_mm.visualization import encode_images, read_images
from cotap_mm.visualization.report.image_set import common_size, in_batches


class Source:
    """Images of growing size; image i has the value 10 i."""

    def __len__(self):
        return 12

    def name(self, index):
        return f'folder/image.{index}.jpg'

    def read(self, index, enough=None):
        return np.full((10 + index, 20, 3), 10 * index, dtype=np.uint8)


@pytest.mark.parametrize(
    'shape, patch, wanted',
    [
        ((360, 480), 16, (336, 448)),  # the longer side becomes 448
        ((480, 360), 16, (448, 336)),
        ((100, 203), 8, (96, 200)),  # small images are not enlarged, but in whole patches
        ((3, 300), 16, (16, 304)),
        ((1000, 1000), 14, (448, 448)),
    ],
)
def test_common_size(shape, patch, wanted):
    assert common_size(np.zeros((*shape, 3), dtype=np.uint8), patch) == wanted


def test_images_have_one_size_and_their_names_and_labels():
    labels = [dict(label=torch.full((2, 2), i)) for i in range(12)]
    found = read_images(Source(), [1, 5], (8, 16), labels)
    assert found.names == ['image.1', 'image.5'] and found.size == (8, 16)
    assert [int(image.max()) for image in found.pixels] == [10, 50]
    assert [image.shape for image in found.pixels] == [(8, 16, 3)] * 2
    assert [int(label[0, 0]) for label in found.labels] == [1, 5]
    assert read_images(Source(), [0], 8).labels is None


def test_batches_are_concatenated_in_order(make_algorithm):
    images = [np.full((16, 24, 3), i, dtype=np.uint8) for i in range(19)]
    sizes = []
    found = in_batches(lambda batch: sizes.append(len(batch)) or batch[:, 0, 0, 0], images)
    assert sizes == [8, 8, 3] and (found.diff() > 0).all()
    encoder = CoTAPEncoder(make_algorithm(), output='backbone')
    patches = encode_images(encoder, images)
    assert patches.shape == (19, 3, 2, 3)
    torch.testing.assert_close(patches[:, 0, 0, 0], found)
    torch.testing.assert_close(encode_images(encoder, images, window=16), patches)
