"""Collapse monitors in the log."""
from typing import Optional

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper

from cotap_mm.models.modules import feature_std, prototypes_in_use
from cotap_mm.registry import HOOKS


@HOOKS.register_module()
class MonitorHook(Hook):
    """Ask the algorithm for its monitors on the iterations that are logged.

    Logged as ``monitor/...``: entropies of the cluster assignments, share of foreground,
    spread of the student's features, share of prototypes in use, and the distance
    of teacher and student. They cost one small extra forward pass per interval.

    Args:
        interval (int): Iterations between two measurements; the logger's
            interval. Defaults to 50.
        num_images (int): Crops of the batch for the extra forward pass. Defaults to 8.
    """

    priority = 'NORMAL'  # in front of the logger, which is BELOW_NORMAL

    def __init__(self, interval: int = 50, num_images: int = 8) -> None:
        self.interval = interval
        self.num_images = num_images

    @staticmethod
    def _model(runner):
        return runner.model.module if is_model_wrapper(runner.model) else runner.model

    def before_train_iter(self, runner, batch_idx: int, data_batch: Optional[dict] = None) -> None:
        """Switch the monitors on for iterations that will be logged."""
        self._model(runner).monitor_now = self.every_n_train_iters(runner, self.interval)

    @torch.no_grad()
    def after_train_iter(self, runner, batch_idx: int, data_batch: Optional[dict] = None,
                         outputs: Optional[dict] = None) -> None:
        """Measure what no loss computes."""
        model = self._model(runner)
        if not model.monitor_now:
            return
        crops = data_batch['patch']['global_crops'][:self.num_images, 0, 0].movedim(-1, -3)
        images = model.data_preprocessor.normalize(crops.to(next(model.parameters()).device))
        _, patches = model.encode(images)
        attention = model.prototype_attention(images).flatten(2, 3)
        values = dict(
            feature_std=feature_std(patches.flatten(2).transpose(1, 2).flatten(0, 1)),
            prototypes_in_use=prototypes_in_use(attention),
            teacher_distance=model.teacher.distance(model.student))
        for name, value in values.items():
            runner.message_hub.update_scalar(f'train/monitor/{name}', float(value))
