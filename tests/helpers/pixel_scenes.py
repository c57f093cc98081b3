"""An encoder of pixel colors, and images whose colors identify the classes."""

from __future__ import annotations

import torch
from torch import nn

from cotap_mm.encoders.encoder import Encoder
from cotap_mm.evaluation.data.labeled_set import LabeledSet, labeled_set_parameters

PATCH = 4


class PixelEncoder(Encoder):
    """Apply ``function`` to the mean color (B, 3, h, w) of each patch."""

    def __init__(self, function=lambda color: color):
        super().__init__(nn.Linear(1, 1), PATCH)
        self.function = function

    def _encode(self, images):
        patches = self.function(nn.functional.avg_pool2d(images, PATCH))
        return patches.mean(dim=(2, 3)), patches


def scenes(count, num_classes=3, grid=4, seed=0):
    """Images whose patches have one class each, and a color that identifies the class."""
    generator = torch.Generator().manual_seed(seed)
    palette = torch.tensor([[250, 10, 10], [10, 250, 10], [10, 10, 250]], dtype=torch.uint8)
    samples = []
    for _ in range(count):
        label = torch.randint(num_classes, (grid, grid), generator=generator)
        label = label.repeat_interleave(PATCH, 0).repeat_interleave(PATCH, 1)
        samples.append(dict(image=palette[label].permute(2, 0, 1).contiguous(), label=label))
    return samples


def noise_scenes(count, size=16, num_classes=3, seed=0):
    """Random pixels and labels, including 255."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(num_classes + 1, (count, size, size), generator=generator)
    label[label == num_classes] = 255
    image = torch.randint(256, (count, 3, size, size), generator=generator)
    return [dict(image=i.to(torch.uint8), label=t) for i, t in zip(image, label)]


def labels_of_patch(sample, row, column):
    """List of the labels of a patch, without 255."""
    top, left = row * PATCH, column * PATCH
    cell = sample['label'][top : top + PATCH, left : left + PATCH]
    return [value for value in cell.flatten().tolist() if value != 255]


def run_protocol(measure, encoder, num_classes=3, **options):
    """Call a protocol with its data sets wrapped in ``LabeledSet``."""
    for name in labeled_set_parameters(measure):
        options[name] = LabeledSet(options[name], num_classes)
    return measure(encoder, **options)
