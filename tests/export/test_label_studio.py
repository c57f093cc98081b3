"""Pre-annotations cover the segments that they are made from."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from cotap_mm.export.label_studio import label_studio_config, label_studio_task


def drawn(task, names, height, width):
    """Label map that a person sees; -1 where there is no polygon."""
    labels = np.full((height, width), -1, np.int32)
    for result in task['predictions'][0]['result']:
        points = np.array(result['value']['points']) / 100 * (width, height) - 0.5
        [name] = result['value']['polygonlabels']
        cv2.fillPoly(labels, [np.round(points).astype(np.int32)], names.index(name))
    return labels


def test_polygons_cover_the_segments():
    labels = np.full((6, 9), -1)
    labels[:3, :4], labels[4:, 5:], labels[1:3, 7] = 0, 1, 1
    names = ['road', 'sky']
    task = json.loads(json.dumps(label_studio_task(labels, 'http://host/a.jpg', names)))
    assert task['data'] == dict(image='http://host/a.jpg')
    results = task['predictions'][0]['result']
    assert len(results) == 3 and len({result['id'] for result in results}) == 3
    for scale in (8, 24):  # of the image, relative to the label map
        wanted = np.kron(labels, np.ones((scale, scale), int))
        same = drawn(task, names, *wanted.shape) == wanted
        assert same.mean() > 0.97


def test_small_segments_and_single_patches():
    labels = np.zeros((10, 10), np.uint8)
    labels[5, 5], labels[0, 0] = 1, 255
    task = label_studio_task(labels, 'a', ['ground', 'spot'], min_area=0)
    names = [result['value']['polygonlabels'] for result in task['predictions'][0]['result']]
    assert names == [['ground'], ['spot']]
    task = label_studio_task(labels, 'a', ['ground', 'spot'], min_area=0.02)
    assert len(task['predictions'][0]['result']) == 1


def test_the_interface_has_the_names_of_the_polygons():
    root = ElementTree.fromstring(label_studio_config(['a & b', '"c" <d>']))
    labels = root.find('PolygonLabels')
    assert [label.get('value') for label in labels] == ['a & b', '"c" <d>']
    [result] = label_studio_task(np.zeros((2, 2), int), 'i', ['x'])['predictions'][0]['result']
    assert result['from_name'] == labels.get('name')
    assert result['to_name'] == labels.get('toName') == root.find('Image').get('name')
    assert root.find('Image').get('value') == '$image'


def test_invalid_labels():
    with pytest.raises(ValueError, match=r'of shape \(h, w\), got float64 \(2, 2\)'):
        label_studio_task(np.zeros((2, 2)), 'a', ['x'])
