"""A two-layer student: trained by one objective on noisy targets, measured by clean retrieval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Callable

import torch
import torch.nn.functional as F
from noisy_targets import NUM_CLASSES, Split, make_task, noisy_targets
from ranking_losses import info_nce, list_mle, smooth_ap, soft_target_divergence, squared_error
from torch import Tensor, nn

from cotap_mm.compat.workarounds import version_numbers
from cotap_mm.models.losses import PatchRankingLoss

HIDDEN, EMBEDDING = 64, 16


class Student(nn.Module):
    """Features (B, d) -> L2-normalised embedding (B, 16)."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(in_channels, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, EMBEDDING)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Embed."""
        return F.normalize(self.layers(features), dim=1)


class Objective(nn.Module):
    """Objective of a batch; ``setting`` is its margin or temperature.

    Args:
        name (str): A key of :data:`SETTINGS`.
        setting (float, optional): None where the objective has none.
    """

    def __init__(self, name: str, setting: Any) -> None:
        super().__init__()
        if name not in SETTINGS:
            raise ValueError(f'objective must be one of {sorted(SETTINGS)}, got {name!r}')
        self.name, self.setting = name, setting
        if name == 'CoTAP':
            self.rank = PatchRankingLoss(tau=setting)
        if name == 'cross-entropy':
            self.centers = nn.Parameter(torch.randn(NUM_CLASSES, EMBEDDING))

    def forward(self, embedding: Tensor, target: Tensor, labels: Tensor) -> Tensor:
        """The loss of embeddings (B, D), with targets (B, B) and classes (B,)."""
        if self.name == 'cross-entropy':
            cosines = embedding @ F.normalize(self.centers, dim=1).T  # (B, C)
            return F.cross_entropy(cosines / self.setting, labels)
        pred = embedding @ embedding.T  # (B, B)
        if self.name == 'CoTAP':
            # One list of all pairs, each once, as in pre-training.
            one, two = torch.triu_indices(len(pred), len(pred), 1, device=pred.device)
            return self.rank(pred[one, two], target[one, two], torch.ones_like(one).bool())
        pred, target = without_diagonal(pred), without_diagonal(target)
        return ROW_LOSSES[self.name](pred, target, self.setting)


# Objectives over rows; a target above one half is the yes of those that need a yes or no.
ROW_LOSSES: dict[str, Callable] = {
    'MSE': lambda pred, target, _: squared_error(pred, target),
    'InfoNCE': lambda pred, target, t: info_nce(pred, target > 0.5, t),
    'soft-target KL': soft_target_divergence,
    'ListMLE': list_mle,
    'Smooth-AP': lambda pred, target, t: smooth_ap(pred, target > 0.5, t),
}
# What tuning chooses from, margin or temperature: the values that mattered in first trials on the
# validation split of the tuning seed.
SETTINGS: dict[str, Sequence[Any]] = {
    'CoTAP': (0.25, 0.5, 1.0),
    'MSE': (None,),
    'cross-entropy': (0.2, 0.5, 1.0),
    'InfoNCE': (0.2, 0.5, 1.0),
    'soft-target KL': (0.2, 0.5, 1.0),
    'ListMLE': (0.5, 1.0, 2.0),
    'Smooth-AP': (0.01, 0.05, 0.2),
}


def without_diagonal(matrix: Tensor) -> Tensor:
    """Drop each sample's pair with itself, (B, B) -> (B, B - 1)."""
    size = len(matrix)
    return matrix.flatten()[1:].view(size - 1, size + 1)[:, :-1].reshape(size, size - 1)


def retrieval_precision(embedding: Tensor, labels: Tensor) -> Tensor:
    """Compute the Average Precision of every sample as a query for the others of its class.

    Equal scores share a place, as in scikit-learn's ``average_precision_score``.

    Args:
        embedding (Tensor): L2-normalised, shape (N, D).
        labels (Tensor): True classes, shape (N,), each at least twice.

    Returns:
        Tensor: Shape (N,), in [0, 1].
    """
    scores = without_diagonal(embedding @ embedding.T)  # (N, N - 1)
    relevant = without_diagonal((labels[:, None] == labels[None, :]).float())
    scores, order = scores.sort(dim=1, descending=True)
    relevant = relevant.gather(1, order)
    places = torch.searchsorted(-scores, -scores, right=True)  # how many are at least as similar
    precision = relevant.cumsum(dim=1).gather(1, places - 1) / places
    return (precision * relevant).sum(dim=1) / relevant.sum(dim=1)


def fit(job: dict[str, Any], train: Split, target: Tensor, labels: Tensor) -> Student:
    """Train a student.

    Initial weights and batches depend only on ``job['seed']``, so all objectives share them.
    """
    device = train.features.device
    torch.manual_seed(job['seed'])
    student = Student(train.features.shape[1]).to(device)
    objective = Objective(job['objective'], job['setting']).to(device)
    parameters = [*student.parameters(), *objective.parameters()]
    fused = device.type == 'cuda' or version_numbers(torch.__version__) >= (2, 4)
    optimizer = torch.optim.AdamW(parameters, lr=job['lr'], weight_decay=1e-4, fused=fused)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, job['steps'])
    generator = torch.Generator().manual_seed(job['seed'])
    for _ in range(job['steps']):
        batch = torch.randperm(len(labels), generator=generator)[: job['batch']].to(device)
        embedding = student(train.features[batch])
        loss = objective(embedding, target[batch][:, batch], labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return student


def train_and_measure(job: dict[str, Any]) -> dict[str, float]:
    """Run one job of the study.

    Args:
        job (dict): ``data``, ``imbalance``, ``noise``, ``level``, ``objective``, ``setting``,
            ``lr``, ``seed``, ``steps``, ``batch``, ``device``, ``train_size``, ``held_out``, and
            ``split``, where to measure: ``'val'`` or ``'test'``.

    Returns:
        dict: Mean Average Precision in per cent, of all queries (``precision``) and of those of
        the three classes rarest in training (``rare``).
    """
    task = make_task(job['data'], job['imbalance'], job['seed'], job['train_size'], job['held_out'])
    target, labels = noisy_targets(task.train.labels, job['noise'], job['level'], job['seed'])
    device = torch.device(job['device'])
    train = Split(*(x.to(device) for x in task.train))
    student = fit(job, train, target.to(device), labels.to(device))
    part: Split = getattr(task, job['split'])
    with torch.no_grad():
        found = (
            100
            * retrieval_precision(student(part.features.to(device)), part.labels.to(device)).cpu()
        )
    rare = torch.isin(part.labels, torch.tensor(task.rare))
    return dict(precision=found.mean().item(), rare=found[rare].mean().item())


def raw_precision(data: str, imbalance: float, seed: int, **sizes: int) -> float:
    """Mean Average Precision of the features themselves, in per cent: what no training gives."""
    task = make_task(data, imbalance, seed, **sizes)
    embedding = F.normalize(task.test.features, dim=1)
    return 100 * retrieval_precision(embedding, task.test.labels).mean().item()
