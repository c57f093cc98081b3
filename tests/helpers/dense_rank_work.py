"""In-memory clips, and the evaluations that two gloo processes run."""

from __future__ import annotations

import torch

from tests.helpers.pixel_scenes import PATCH, PixelEncoder, noise_scenes

PALETTE = torch.tensor([[40, 40, 40], [250, 10, 10], [10, 250, 10]], dtype=torch.uint8)


class MemoryClip:
    """The interface of :class:`Clip` without files."""

    def __init__(self, frames, masks, name='clip', scored=None, background=True):
        self.frames, self.all_masks, self.name, self.background = frames, masks, name, background
        self.scored = list(range(1, len(frames))) if scored is None else scored
        self.masks = {index: f'mask {index}' for index in range(len(masks))}

    def mask(self, index):
        return self.all_masks[index]

    def objects(self):
        return sorted(
            set(self.mask(0).unique().tolist()) - {255} - ({0} if self.background else set())
        )


def paint(mask):
    """Frame (3, H, W) whose patches have the colors of a mask (h, w) of patches."""
    image = PALETTE[mask.clamp_max(2)].permute(2, 0, 1)
    return image.repeat_interleave(PATCH, 1).repeat_interleave(PATCH, 2).contiguous()


def moving_clip(count=6, grid=8, name='clip', scored=None):
    """Two objects of 2 x 2 patches; one moves right and one down, one patch per frame."""
    masks = []
    for t in range(count):
        mask = torch.zeros(grid, grid, dtype=torch.long)
        mask[:2, t % (grid - 1) : t % (grid - 1) + 2] = 1
        mask[2 + t % (grid - 3) : 4 + t % (grid - 3), :2] = 2
        masks.append(mask)
    return MemoryClip([paint(mask) for mask in masks], masks, name, scored)


def noise_clip(count, seed, name='noise', size=16, background=True):
    scenes = noise_scenes(count, size, seed=seed)
    return MemoryClip(
        [each['image'] for each in scenes],
        [each['label'] for each in scenes],
        name,
        background=background,
    )


def scores(rank):
    from cotap_mm.evaluation import CoTAPEncoder, LabeledSet
    from cotap_mm.evaluation.protocols.correspondence import correspondence
    from cotap_mm.evaluation.protocols.foreground import foreground
    from cotap_mm.evaluation.protocols.video_segmentation import label_propagation
    from tests.helpers.tiny import build_tiny

    torch.manual_seed(0)  # same weights on both ranks
    network = CoTAPEncoder(build_tiny().eval())
    encoder = PixelEncoder()
    clips = [noise_clip(4, seed, name=f'{seed}', background=seed > 0) for seed in range(3)]
    results = dict(
        video=label_propagation(encoder, clips, image_size=16, radius=2),
        fewer_clips_than_ranks=label_propagation(encoder, clips[:1], image_size=16),
        foreground=foreground(network, LabeledSet(noise_scenes(5, 32), 3)),
        fewer_images_than_ranks=foreground(network, LabeledSet(noise_scenes(1, 32), 3)),
        pairs=correspondence(encoder, LabeledSet(noise_scenes(6), 3)),
        nearest_pairs=correspondence(
            encoder, LabeledSet(noise_scenes(6), 3), pairs='nearest', mutual=True
        ),
        fewer_pairs_than_ranks=correspondence(encoder, LabeledSet(noise_scenes(2), 3)),
    )
    values = {
        f'{name} {key}': value
        for name, each in results.items()
        for key, value in each.items()
        if isinstance(value, (int, float))
    }
    return dict(
        values=torch.tensor(list(values.values())).double(),
        clips=list(results['video']['clips'].items()),
    )
