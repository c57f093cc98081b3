"""Run an evaluation on two processes, one of which fails."""

from __future__ import annotations

import torch.distributed as dist

from tests.helpers.pixel_scenes import PixelEncoder, noise_scenes


class OneBad:
    """Images; the first image that rank 1 reads is damaged."""

    def __init__(self):
        self.samples = noise_scenes(6)

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        if index == 1:
            raise ValueError('image 1 is damaged')
        return self.samples[index]


def measure(rank):
    from cotap_mm.evaluation import evaluate
    from cotap_mm.evaluation.data.evaluation_data import EvaluationData

    good = EvaluationData('good', 'segmentation', 'abc', noise_scenes(4))
    options = dict(purity=0.4, layers=False)
    evaluate(PixelEncoder(), good, 'dispersion', **options)  # succeeds
    evaluate(PixelEncoder(), good._replace(val=OneBad()), 'dispersion', **options)


def all_fail_alike(rank):
    from cotap_mm.distributed.failures import abort_all_ranks_on_error

    for _ in range(2):  # the second failure is independent of the first
        try:
            with abort_all_ranks_on_error():
                raise ValueError('the same mistake')
        except ValueError:
            pass
        with abort_all_ranks_on_error():
            dist.barrier()
