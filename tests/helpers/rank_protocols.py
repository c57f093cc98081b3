"""Evaluations that two gloo processes run."""

from __future__ import annotations

import torch


def gathered(rank):
    from cotap_mm.distributed.collectives import gather_rows

    return gather_rows(torch.full((rank * 3, 2), float(rank + 1)))


def scores(rank):
    from cotap_mm import evaluation as e
    from tests.helpers.pixel_scenes import PixelEncoder, noise_scenes, scenes

    encoder = PixelEncoder()
    labeled = [dict(sample, label=index % 3) for index, sample in enumerate(noise_scenes(7))]
    results = dict(
        dense=e.dense_retrieval(
            encoder,
            e.LabeledSet(noise_scenes(5), 3),
            e.LabeledSet(noise_scenes(3, seed=1), 3),
            k=4,
            memory_size=30,
        ),
        fewer_images_than_ranks=e.dense_retrieval(
            encoder, e.LabeledSet(scenes(1), 3), e.LabeledSet(scenes(1), 3), k=2
        ),
        clusters=e.overclustering(
            encoder,
            e.LabeledSet(noise_scenes(5), 3),
            num_clusters=(4,),
            seeds=(0,),
            kmeans='sklearn',
            mask_size=16,
        ),
        dispersion=e.dispersion(encoder, e.LabeledSet(noise_scenes(5), 3), purity=0.5),
        knn=e.knn_classification(
            encoder, e.LabeledSet(labeled, 3), e.LabeledSet(labeled[:5], 3), k=3
        ),
        linear=e.linear_classification(
            encoder, e.LabeledSet(labeled, 3), e.LabeledSet(labeled[:5], 3), epochs=3, lr=0.1
        ),
    )
    values = {
        f'{name} {key}': value
        for name, each in results.items()
        for key, value in each.items()
        if isinstance(value, float)
    }
    torch.manual_seed(rank)
    head = e.linear_segmentation(
        encoder,
        e.LabeledSet(scenes(6), 3),
        e.LabeledSet(scenes(3, seed=1), 3),
        steps=40,
        lr=0.3,
        train_batch=6,
    )
    return dict(values=torch.tensor(list(values.values())).double(), linear=head['mIoU'])
