"""Any protocol while training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

from mmengine.hooks import Hook
from mmengine.runner import Runner

from cotap_mm import signals
from cotap_mm.datasets.sources.joined import share_range
from cotap_mm.distributed.collectives import world_size
from cotap_mm.distributed.fsdp import require_unsharded
from cotap_mm.distributed.model_wrapper import unwrap
from cotap_mm.encoders.vit import CoTAPEncoder
from cotap_mm.evaluation.data.load import EvaluationData
from cotap_mm.evaluation.data.segmentation import build_labeled
from cotap_mm.random_state import preserve_random_state
from cotap_mm.registry import HOOKS

from .evaluate import Result, check_options, evaluate, find_protocol


@HOOKS.register_module()
class EvaluationHook(Hook):
    """Run a protocol before training, every n iterations, and at the end.

    The images are shared out to all ranks; MMEngine's visualizer, which is active on rank
    0, writes. Training goes on as if nothing had happened: train/eval modes and random
    states are given back. Keep the data small (``limit`` of the data sets).

    Example::

        custom_hooks = [
            dict(type='EvaluationHook', protocol='dense-retrieval', interval=2000, num_classes=11,
                 train=dict(type='ImageMaskFolder', images='images/train',
                            labels='labels/train'),
                 val=dict(type='ImageMaskFolder', images='images/val', labels='labels/val'),
                 options=dict(image_size=(360, 480), memory_size=100_000))]

    The headline values stand as ``dense_retrieval/mIoU_<branch>`` (output 'filter') or
    ``dense_retrieval/mIoU_<branch>_backbone``, in per cent, in the message hub and in
    the visualizer's backends; other protocols have their own names there.

    Args:
        val: Data set or config of what is scored; see :func:`build_labeled`.
        num_classes (int): Number of classes.
        train: The same, of what the protocol learns from, if it does.
        protocol (str): One of :data:`~cotap_mm.evaluation.evaluate.PROTOCOLS`. Defaults to
            ``'dense-retrieval'``.
        interval (int): Iterations between two measurements. Defaults to 1000.
        measure (sequence): Pairs (branch, output). Defaults to student and teacher,
            output 'filter'.
        options (dict, optional): Settings of the protocol, such as k or image_size.

    Attributes:
        history (list): ``(iterations, (branch, output), Result)`` of every measurement.

    Raises:
        ValueError: If the interval is not positive, the protocol or an option is unknown, or
            training images are missing.
    """

    # After the EMA hook (NORMAL), which moves the teacher; before the logger.
    priority = 'LOW'

    def __init__(
        self,
        val: Any,
        num_classes: int,
        train: Any = None,
        protocol: str = 'dense-retrieval',
        interval: int = 1000,
        measure: Sequence[tuple[str, str]] = (('student', 'filter'), ('teacher', 'filter')),
        options: Optional[dict[str, Any]] = None,
    ) -> None:
        if interval < 1:
            raise ValueError(f'interval must be at least 1 iteration, got {interval}')
        found = find_protocol(protocol)
        self.options = check_options(protocol, dict(options or {}))
        if found.learns and train is None:
            raise ValueError(f'{protocol} learns from labelled images: give train as well as val')
        self.protocol = protocol
        self.data = EvaluationData(
            'val',
            found.kind,
            [str(i) for i in range(num_classes)],
            build_labeled(val),
            None if train is None else build_labeled(train),
        )
        share_range((self.data.train, self.data.val))
        self.interval = interval
        self.measure = [tuple(pair) for pair in measure]
        self.history: list[tuple[int, tuple[str, str], Result]] = []

    def before_train(self, runner: Runner) -> None:
        """Measure where training starts.

        Raises:
            ValueError: If the network is shared out among the ranks.
        """
        require_unsharded(runner.model, 'EvaluationHook')
        self._evaluate_unless_stopped(runner, runner.iter)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Optional[dict] = None
    ) -> None:
        """Measure every ``interval`` iterations, and after the last one."""
        if (runner.iter + 1) % self.interval == 0 or runner.iter + 1 == runner.max_iters:
            self._evaluate_unless_stopped(runner, runner.iter + 1)

    def _evaluate_unless_stopped(self, runner: Runner, step: int) -> None:
        """Measure; after a signal in a training, leave that to the run that continues it."""
        try:
            with signals.interruptible(alone=world_size() == 1):
                self.evaluate(runner, step)
        except signals.Stopped:
            if not signals.is_deferred():  # nobody would save
                raise
            runner.logger.warning(
                f'iteration {step}: evaluation interrupted by a signal; the '
                'resumed run measures again'
            )

    def evaluate(self, runner: Runner, step: int) -> dict[str, float]:
        """Measure now and log.

        Args:
            runner (Runner): Holds the model, message hub and visualizer.
            step (int): Iterations done.

        Returns:
            dict: Name of each value -> headline score in per cent.
        """
        model = unwrap(runner.model)
        values = {}
        with preserve_random_state():
            for branch, output in self.measure:
                found = evaluate(
                    CoTAPEncoder(model, branch, output), self.data, self.protocol, **self.options
                )
                self.history.append((step, (branch, output), found))
                suffix = '' if output == 'filter' else f'_{output}'
                name = f'{self.protocol.replace("-", "_")}/{found.metric}_{branch}{suffix}'
                values[name] = found.value
        for name, value in values.items():
            runner.message_hub.update_scalar(name, value)
        runner.visualizer.add_scalars(values, step=step)
        runner.logger.info(
            f'iteration {step}: '
            + ', '.join(f'{name} {value:.2f}' for name, value in values.items())
        )
        return values
