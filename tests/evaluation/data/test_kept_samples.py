"""Images of a repeated evaluation are read once, as long as they fit."""

from __future__ import annotations

import pytest
import torch

from cotap_mm.encoders.images import resize_image
from cotap_mm.evaluation import LabeledSet
from cotap_mm.evaluation.batches import iter_batches
from cotap_mm.evaluation.class_presence import WatchedLabels
from cotap_mm.evaluation.data.kept_samples import KeptSamples
from tests.helpers.pixel_scenes import noise_scenes


class Counted:
    """Data set that writes each image into the same memory, and lists what is read."""

    def __init__(self, samples):
        self.samples, self.read = samples, []
        self.image = torch.zeros(16, 16, 3, dtype=torch.uint8).permute(2, 0, 1)  # as decoders do

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        self.read.append(index)
        return dict(self.samples[index], image=self.image.copy_(self.samples[index]['image']))

    def label_file(self, index):
        return f'{index}.png'


@pytest.mark.parametrize('size', [None, 8])
def test_kept_samples_equal_the_data_set(size):
    counted = Counted(noise_scenes(3))
    kept = KeptSamples(counted, size)
    for _ in range(2):
        for index, wanted in enumerate(noise_scenes(3)):
            found = kept[index]
            assert torch.equal(found['image'], resize_image(wanted['image'], size))
            assert torch.equal(found['label'].long(), wanted['label'])
            assert found['label'].dtype == torch.uint8
        assert counted.read == [0, 1, 2]
    # The memory format decides how a network computes, and so about its last bit.
    sample = resize_image(Counted(noise_scenes(1))[0]['image'], size)
    assert kept[0]['image'].stride() == sample.stride()
    assert len(kept) == 3 and kept.label_file(2) == '2.png'


def test_samples_that_do_not_fit_are_read_again():
    counted = Counted(noise_scenes(3))
    kept = KeptSamples(counted, most_bytes=2 * 4 * 16**2)  # images and labels of two
    for _ in range(3):
        assert all(
            torch.equal(kept[index]['image'], wanted['image'])
            for index, wanted in enumerate(noise_scenes(3))
        )
    assert counted.read == [0, 1, 2, 2, 2]


def test_labels_that_are_no_bytes_stay_as_they_are():
    image = torch.zeros(3, 4, 4, dtype=torch.uint8)
    labels = [7, torch.tensor(7), torch.full((4, 4), 256), torch.full((4, 4), -1)]
    kept = KeptSamples([dict(image=image, label=label) for label in labels])
    for _ in range(2):
        assert kept[0]['label'] == 7 and kept[1]['label'] == 7 and kept.label_file(0) == ''
        for index in (2, 3):
            with pytest.raises(ValueError, match=r'labels must be 0\.\.8 or 255'):
                WatchedLabels(kept, 9)[index]


def test_protocols_get_the_same_batches_and_counts():
    scenes = noise_scenes(3)
    plain, watched = WatchedLabels(scenes, 3), WatchedLabels(KeptSamples(scenes, 8), 3)
    for wanted, found in zip(
        iter_batches(LabeledSet(plain, 3, 8, 2)), iter_batches(LabeledSet(watched, 3, 8, 2))
    ):
        assert torch.equal(found.images, wanted.images)
        assert all(a.dtype == torch.long for a in found.labels)
        assert all(torch.equal(a, b) for a, b in zip(found.labels, wanted.labels))
    pixels = torch.stack([scene['label'] for scene in scenes])
    counts = [int((pixels == value).sum()) for value in (0, 1, 2, 255)]
    assert plain.counts.tolist() == watched.counts.tolist() == counts
