"""Compare a network with its initial weights when its training ends."""

from __future__ import annotations

import logging
from typing import Any, Optional

from mmengine.hooks import Hook
from mmengine.logging import print_log

from cotap_mm.evaluation.hook import Score, scores_of
from cotap_mm.models.device_crops import first_crops
from cotap_mm.registry import HOOKS
from cotap_mm.rules import check_arguments, whole

from .monitor_hook import measure_monitors

# Keys in MMEngine's message hub, which checkpoints hold: name -> value.
_BEFORE, _AFTER = 'before_training', 'after_training'
_CROPS = 'crops_before_training'  # uint8 (B, 3, h, w)


@HOOKS.register_module()
class BeforeAfterHook(Hook):
    """Measure the initial network and the trained one in the same way, and log both.

    Needs no labels: the monitors of the student on the same crops of the first batch, and the
    mean of each loss over the first and the last steps. Scores of an
    :class:`~cotap_mm.evaluation.hook.EvaluationHook` are listed, too. If no measured network is
    better than the initial one, a warning says so.

    Args:
        num_images (int): Number of images for the monitors. Defaults to 8.
        window (int): Number of steps for the means of losses, at most half of the training.
            Defaults to 50.

    Raises:
        ValueError: If a number is less than 1.
    """

    priority = 'LOW'  # before checkpoints are saved, which hold what it notes

    @check_arguments(num_images=whole(1), window=whole(1))
    def __init__(self, num_images: int = 8, window: int = 50) -> None:
        self.num_images = num_images
        self.window = window

    def before_train_iter(self, runner, batch_idx: int, data_batch: Any = None) -> None:
        """Measure the initial network on crops of the first batch, and keep them."""
        if runner.iter or not isinstance(data_batch, dict) or 'patch' not in data_batch:
            return
        crops = first_crops(data_batch, self.num_images)
        runner.message_hub.update_info(_CROPS, crops.clone())
        runner.message_hub.update_info(_BEFORE, self._monitors(runner))

    def after_train_iter(
        self, runner, batch_idx: int, data_batch: Any = None, outputs: Optional[dict] = None
    ) -> None:
        """Note the first losses, as soon as all of them have been computed for a while."""
        if runner.iter + 1 == min(1000, max(runner.max_iters // 2, 1)):
            known = runner.message_hub.runtime_info.get(_BEFORE, {})
            runner.message_hub.update_info(_BEFORE, {**known, **self._losses(runner, first=True)})

    def after_train(self, runner) -> None:
        """Log what has changed, if the training is complete."""
        if runner.iter < runner.max_iters:
            return
        after = {**self._monitors(runner), **self._losses(runner, first=False)}
        runner.message_hub.update_info(_AFTER, after)
        rows = [(name, *pair) for name, pair in before_and_after(runner).items()]
        if not rows:
            return
        width = max(len(name) for name, *_ in rows)
        lines = [
            f'  {name:{width}}  {_shown(old)} -> {_shown(new)}  ({new - old:+.3g})'
            for name, old, new in rows
        ]
        print_log(
            f'before -> after, from the initial weights to iteration {runner.iter} (losses: mean '
            f'of the first and last {self._steps(runner)} steps):\n' + '\n'.join(lines),
            logger='current',
        )
        scores = scores_of(runner)
        if scores:
            text, level = describe_best(scores, runner.message_hub.runtime_info.get('best_ckpt'))
            print_log(text, logger='current', level=level)

    @staticmethod
    def _monitors(runner) -> dict[str, float]:
        """Measure the student in eval mode; every rank must call this."""
        crops = runner.message_hub.runtime_info.get(_CROPS)
        if crops is None:
            return {}
        was_training = runner.model.training
        runner.model.eval()
        values = measure_monitors(runner, crops)
        runner.model.train(was_training)
        return {f'monitor/{name}': float(value) for name, value in values.items()}

    def _steps(self, runner) -> int:
        return max(min(self.window, runner.max_iters // 2), 1)

    def _losses(self, runner, first: bool) -> dict[str, float]:
        """Means over the first or last steps in which a loss was computed."""
        means, window = {}, self._steps(runner)
        for name, history in runner.message_hub.log_scalars.items():
            if not name.startswith('train/loss_'):
                continue
            values = history.data[0]
            values = values[values != 0]  # cluster losses are 0 until their queue is full
            if len(values):
                chosen = values[:window] if first else values[-window:]
                means[name[len('train/') :]] = float(chosen.mean())
        return means


def before_and_after(runner) -> dict[str, tuple[float, float]]:
    """Return all values that were measured for the initial weights, with those at the end.

    Args:
        runner (Runner): After its training.

    Returns:
        dict: Scores first, then monitors and losses, which a training without this hook lacks.
    """
    info = runner.message_hub.runtime_info
    before, after = (info.get(key, {}) for key in (_BEFORE, _AFTER))
    scores = {
        name: (score.first, score.last)
        for name, score in scores_of(runner).items()
        if score.first_step == 0
    }
    return {**scores, **{name: (before[name], after[name]) for name in after if name in before}}


def describe_best(scores: dict[str, Score], checkpoint: Optional[str]) -> tuple[str, int]:
    """Tell which measured network is the best.

    Args:
        scores (dict[str, Score]): Of all evaluations.
        checkpoint (str, optional): Best checkpoint, if one was saved.

    Returns:
        tuple[str, int]: The sentence, and its level in the log.
    """
    compared = {name: score for name, score in scores.items() if score.first_step == 0}
    better = [
        f'{name} {score.best:.2f} at iteration {score.best_step} (initial weights: '
        f'{score.first:.2f})'
        for name, score in compared.items()
        if score.best_step
    ]
    if better or not compared:
        shown = better or [
            f'{name} {score.best:.2f} at iteration {score.best_step}'
            for name, score in scores.items()
        ]
        where = f'; checkpoint: {checkpoint}' if checkpoint else ''
        return f'best: {", ".join(shown)}{where}', logging.INFO
    name, score = next(iter(compared.items()))
    return (
        f'no network of this training has a better {name} than its initial weights '
        f'({score.first:.2f}); use those. The learning rate may be too high, the training too '
        'short, or the images too few. --lora, --trainable-blocks, losses.gram, and '
        'freeze_backbone_iters or layer_decay_rate of optim_wrapper.paramwise_cfg change the '
        'network less',
        logging.WARNING,
    )


def _shown(value: float) -> str:
    """Nine characters of a number."""
    return f'{value:9.3f}' if abs(value) >= 0.01 or not value else f'{value:9.2e}'
