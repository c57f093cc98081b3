from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cotap_mm.evaluation import CoTAPEncoder, LabeledScenes
from cotap_mm.visualization import Report
from cotap_mm.visualization.report import before_after
from cotap_mm.visualization.report.example import Example, choose_example


def test_example_follows_an_object_of_both_images(scenes, make_algorithm):
    images = [scenes.read(i) for i in range(4)]
    labels = [scenes.label(i) for i in range(4)]
    encoder = CoTAPEncoder(make_algorithm())
    example = choose_example(encoder, images, labels, scenes.CLASSES)
    assert example.image == 0 and example.neighbor == 2
    assert example.name == 'red' and example.patch == (1, 0)


def test_example_exists_even_if_neighbors_share_nothing(scenes, make_algorithm):
    labels = [np.full((16, 16), kind, dtype=np.uint8) for kind in (0, 1)]
    images = [np.full((16, 16, 3), 90 * (kind + 1), dtype=np.uint8) for kind in (0, 1)]
    encoder = CoTAPEncoder(make_algorithm())
    example = choose_example(encoder, images, labels, scenes.CLASSES)
    assert example == (0, 1, (0, 0), 'red')


class FakePairs:
    """One sample as NeighborPairs returns it; the first image could not be read."""

    def __init__(self, scenes):
        scenes.name = 'image {}'.format
        self.branches = dict(patch=SimpleNamespace(source=scenes, is_large_enough=None))

    def __getitem__(self, index):
        pixels = torch.full((2, 2, 8, 8, 3), 9, dtype=torch.uint8)
        boxes = torch.tensor([0.0, 0, 16, 16]).expand(2, 3, 4)
        return dict(
            patch=dict(
                global_crops=pixels,
                local_crops=pixels[:, :1, :4, :4],
                boxes=boxes,
                path=['image 1', 'image 2'],
            )
        )


def test_crops_show_the_image_that_was_cropped(scenes, tmp_path):
    report = Report('test', 'crops')
    read, asked = scenes.read, []
    scenes.read = lambda index, enough: asked.append(index) or read(index, enough)
    before_after.add_training_crops(report, FakePairs(scenes))
    assert asked == [1] and list(report.pictures) == ['crops.png']


@pytest.mark.slow
def test_all_sections(scenes, make_algorithm, tmp_path):
    networks = {'before': make_algorithm(), 'after': make_algorithm()}
    images = [scenes.read(i) for i in range(4)]
    example = Example(0, 2, (1, 0), 'red')
    report = Report('test', 'all sections')
    state = torch.random.get_rng_state()
    before_after.add_networks(report, networks, images, example)
    before_after.add_student_prototypes(report, 'after', networks['after'], images)
    encoders = {name: CoTAPEncoder(network) for name, network in networks.items()}
    before_after.add_retrieval(report, encoders, LabeledScenes(scenes), scenes)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(network.training for network in networks.values())
    report.save(tmp_path)
    assert sorted(path.stem for path in tmp_path.glob('*.png')) == [
        'components',
        'foreground',
        'prototypes',
        'retrieval',
        'similarity',
    ]
