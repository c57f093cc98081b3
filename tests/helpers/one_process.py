"""Training on several ranks, and the equivalent training in one process with the whole batch.

What the method defines per GPU, the list of ranked pairs and the template bank, is computed
separately for each rank's part of the batch; everything else is computed on the whole batch.
"""

from __future__ import annotations

import torch
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import build_optim_wrapper
from torch import nn

from cotap_mm.models.modules import RandomDraws
from tests.helpers.tiny import LOSSES, build_tiny, make_inputs

IMAGES = 2  # per rank and branch; as many positives
MEMORY = dict(
    patch_queue=dict(temperature=0.05, per_step=10_000),
    cls_queue=dict(temperature=0.07, per_step=10_000),
    template_bank=dict(size=12, per_step=3),
)


class SameDraws(RandomDraws):
    """Draws that do not depend on how the batch is split over ranks."""

    def order(self, purpose, count):
        return torch.arange(count)

    def foreground_patches(self, foreground, count):
        first = foreground.to(torch.int8).argsort(descending=True, stable=True)[:count]
        return first, foreground[first].sum()

    def negatives(self, num_images, num_negatives):
        return torch.stack(
            [
                (torch.arange(num_images) + 1 + i) % num_images
                for i in range(min(num_negatives, num_images - 1))
            ]
        )


def part_of(batch, world, rank):
    """Images and positives of one rank in a tensor with all images, then all positives."""
    return batch.unflatten(0, (2, world, -1))[:, rank].flatten(0, 1)


class PairsOfEachRank(nn.Module):
    """A list of pairs for each rank's part of the batch."""

    def __init__(self, pairs, world):
        super().__init__()
        self.pairs, self.world = pairs, world

    def forward(self, student, teacher, foreground, draws):
        for rank in range(self.world):
            yield from self.pairs(
                *(part_of(each, self.world, rank) for each in (student, teacher, foreground)), draws
            )


class BankOfEachRank(nn.Module):
    """A template bank for each rank; the first one starts the prototypes."""

    def __init__(self, banks, num_global):
        super().__init__()
        self.banks, self.num_global = nn.ModuleList(banks), num_global

    def collect(self, patches, grid, order):
        crops = patches.unflatten(0, (-1, self.num_global))
        for rank, bank in enumerate(self.banks):
            mine = part_of(crops, len(self.banks), rank).flatten(0, 1)
            bank.collect(mine, grid, torch.arange(len(mine)))

    def start_prototypes(self, prototypes):
        if all(bank.is_full for bank in self.banks):
            self.banks[0].start_prototypes(prototypes)

    def contents(self):
        return [bank.contents() for bank in self.banks]

    def norms(self):
        return [bank.norms() for bank in self.banks]


class MeanOverBanks(nn.Module):
    """Mean of a loss over the banks of the ranks."""

    def __init__(self, loss):
        super().__init__()
        self.loss = loss

    def forward(self, prototypes, banks, norms):
        return torch.stack([self.loss(prototypes, *each) for each in zip(banks, norms)]).mean()


def build(world, losses, seed=0):
    """Build a model whose queues hold what ``world`` ranks hold together."""
    torch.manual_seed(seed)
    rows = world * IMAGES * 2 * 2  # CLS tokens of a step, on all ranks
    memory = dict(
        MEMORY,
        patch_queue=dict(MEMORY['patch_queue'], size=16 * rows * 8),
        cls_queue=dict(MEMORY['cls_queue'], size=2 * rows),
    )
    model = build_tiny({name: LOSSES[name] for name in losses}, memory=memory)
    model.draws = SameDraws()
    return model.double()  # so that thresholds select the same items


def train(model, inputs_of, steps, accumulate):
    """Train; return losses of each step, gradients of each update, and the final state."""
    net = getattr(model, 'module', model)
    optim = build_optim_wrapper(
        net,
        dict(
            type='cotap_mm.MixedPrecisionOptimWrapper',
            accumulative_counts=accumulate,
            optimizer=dict(type='SGD', lr=1e-3),
        ),
    )
    losses, gradients = [], []
    optim.optimizer.register_step_pre_hook(
        lambda *_: gradients.append(
            {
                name: param.grad.clone()
                for name, param in net.named_parameters()
                if param.grad is not None
            }
        )
    )
    for step in range(steps):
        with optim.optim_context(model):
            terms = model(inputs_of(step), mode='loss')
        losses.append({name: value.detach() for name, value in terms.items()})
        optim.update_params(sum(terms.values()))
        if (step + 1) % accumulate == 0:
            net.teacher.update(net.student, 0.9)
    return dict(
        losses=losses,
        gradients=gradients,
        weights=dict(net.named_parameters()),
        patch_queue=net.patch_queue.newest_first(),
        cls_queue=net.cls_queue.newest_first(),
    )


class OneAfterAnother:
    """Several trainings, one after another in the same processes."""

    def __init__(self, works):
        self.works = works

    def __call__(self, rank):
        return [work(rank) for work in self.works]


class OnRanks:
    """The training of each rank."""

    def __init__(self, world, losses, steps, accumulate):
        self.world, self.losses = world, losses
        self.steps, self.accumulate = steps, accumulate

    def inputs(self, step, rank):
        inputs = make_inputs(IMAGES, seed=100 * step + rank)
        return {
            branch: {key: value.double() for key, value in views.items()}
            for branch, views in inputs.items()
        }

    def __call__(self, rank):
        model = MMDistributedDataParallel(build(self.world, self.losses), broadcast_buffers=False)
        return train(model, lambda step: self.inputs(step, rank), self.steps, self.accumulate)

    def alone(self):
        """Run the equivalent training in one process."""

        def whole(step):
            parts = [self.inputs(step, rank) for rank in range(self.world)]
            return {
                branch: {
                    key: self.joined([part[branch][key] for part in parts])
                    for key in parts[0][branch]
                }
                for branch in parts[0]
            }

        model = build(self.world, self.losses)
        model.pairs = PairsOfEachRank(model.pairs, self.world)
        if 'prototype_entropy' in self.losses:
            banks = [build(self.world, self.losses).template_bank for _ in range(self.world)]
            model.template_bank = BankOfEachRank(banks, num_global=2)
            model.losses['prototype_entropy'] = MeanOverBanks(model.losses['prototype_entropy'])
        return train(model, whole, self.steps, self.accumulate)

    @staticmethod
    def joined(parts):
        """Concatenate the images of all ranks, then the positives of all ranks."""
        halves = [part.unflatten(0, (2, -1)) for part in parts]
        return torch.cat(halves, dim=1).flatten(0, 1)
