from __future__ import annotations

import numpy as np
import pytest
import torch

from cotap_mm.visualization import class_legend, crops_with_boxes, foreground_overlay, label_map


@pytest.mark.slow
def test_crops_with_boxes_uses_one_color_per_box(scenes):
    image = scenes.read(0)
    boxes = torch.tensor([[0, 0, 24, 24], [4, 4, 32, 32], [2, 2, 10, 10.0]])
    picture = crops_with_boxes(image, boxes, [image] * 3, num_global=2, title='crops')
    colors = {tuple(color) for color in np.unique(picture.reshape(-1, 3), axis=0).tolist()}
    assert {(213, 94, 0), (0, 114, 178), (0, 158, 115)} <= colors
    with pytest.raises(ValueError, match=r'3 crops need boxes of shape \(3, 4\), got \(2, 4\)'):
        crops_with_boxes(image, boxes[:2], [image] * 3)


def test_foreground_keeps_color_and_dims_the_rest():
    image = np.full((8, 8, 3), (200, 100, 0), dtype=np.uint8)
    found = foreground_overlay(image, torch.tensor([[True, False], [False, False]]))
    assert found[1, 1].tolist() == [200, 100, 0]
    assert found[6, 6].tolist() == [60, 60, 60]
    assert found[1, 4].tolist() == [230, 159, 0]  # the edge


def test_label_map_and_its_legend(scenes):
    palette = scenes.PALETTE
    label = np.array([[0, 2], [255, 0]], dtype=np.uint8)
    found = label_map(label, palette)
    assert found[0].tolist() == [list(palette[0]), list(palette[2])]
    assert class_legend([label, label[:1]], scenes.CLASSES, palette) == {
        'red': palette[0],
        'blue': palette[2],
        'ignored': (190, 190, 190),
    }
    with pytest.raises(ValueError, match=r'0\.\.2 \(the palette\) or 255, got 0\.\.3'):
        label_map(label + np.uint8(1), palette)
