"""Run any protocol during training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Optional

from mmengine.hooks import Hook
from mmengine.runner import Runner

from cotap_mm import signals
from cotap_mm.datasets.opened import hand_on
from cotap_mm.datasets.sources.joined import share_range
from cotap_mm.distributed.collectives import world_size
from cotap_mm.distributed.fsdp import whole_networks
from cotap_mm.distributed.model_wrapper import unwrap
from cotap_mm.encoders.vit import CoTAPEncoder
from cotap_mm.evaluation.data.evaluation_data import EvaluationData
from cotap_mm.evaluation.data.kept_samples import KeptSamples
from cotap_mm.evaluation.data.segmentation import build_labeled
from cotap_mm.random_state import preserve_random_state
from cotap_mm.registry import HOOKS
from cotap_mm.rules import check_arguments, whole

from .evaluate import Result, check_options, evaluate_each, find_protocol

#: Key in MMEngine's message hub, which checkpoints hold: name -> fields of a Score.
_SCORES = 'evaluation_scores'


class Score(NamedTuple):
    """One score over a training; more is better. Steps are numbers of completed iterations."""

    first_step: int
    first: float
    best_step: int
    best: float
    last_step: int
    last: float


def scores_of(runner: Runner) -> dict[str, Score]:
    """Return all scores of a training by their names, also of the part before it was resumed."""
    stored = runner.message_hub.runtime_info.get(_SCORES, {})
    return {name: Score(*values) for name, values in stored.items()}


@HOOKS.register_module()
class EvaluationHook(Hook):
    """Run a protocol before training, every n iterations, and after the last iteration.

    The images are sharded across ranks, and the results are written by MMEngine's visualizer,
    which is active on rank 0. The training is not affected: train/eval modes and random states
    are restored.

    Keep the data small (``limit`` of the data sets). Images and labels are read at the first
    evaluation and kept for the others, up to 128 MiB each of train and val on every rank, see
    :class:`.KeptSamples`; a file that changes during the training is not read again. Dense
    retrieval measures both outputs of a network in one pass, see :func:`.evaluate_each`.

    Example::

        custom_hooks = [
            dict(type='EvaluationHook', protocol='dense-retrieval', interval=2000, num_classes=11,
                 train=dict(type='ImageMaskFolder', images='images/train',
                            labels='labels/train'),
                 val=dict(type='ImageMaskFolder', images='images/val', labels='labels/val'),
                 options=dict(image_size=(360, 480), memory_size=100_000))]

    Checkpoints of the best network are saved if ``default_hooks.checkpoint.save_best`` is set: to
    the name of a value, or to ``'auto'`` for the first one. The initial weights, measured before
    the first iteration, are the ones to beat.

    The headline values are logged as ``dense_retrieval/mIoU_<network>`` (output 'filter') or
    ``dense_retrieval/mIoU_<network>_backbone``, in percent, in the message hub and in
    the visualizer's backends, and with the name of the protocol and metric for other protocols.

    Args:
        val: Data set that is scored, or its config; see :func:`build_labeled`.
        num_classes (int): Number of classes.
        train: Data set that the protocol learns from, or its config, if it learns. Defaults to
            None.
        protocol (str): One of :data:`~cotap_mm.evaluation.evaluate.PROTOCOLS`. Defaults to
            ``'dense-retrieval'``.
        interval (int): Iterations between two evaluations. Defaults to 1000.
        measure (sequence): Pairs (network, output), such as ('teacher', 'backbone'). Defaults to
            student and teacher with output 'filter'.
        options (dict, optional): Settings of the protocol, such as k or image_size.

    Attributes:
        history (list): ``(iterations, (network, output), Result)`` of each evaluation.

    Raises:
        ValueError: If a number is less than 1, the protocol or an option is unknown, or
            training images are missing.
    """

    # After the EMA hook (NORMAL), which updates the teacher; before the logger.
    priority = 'LOW'

    @check_arguments(num_classes=whole(1), interval=whole(1))
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
        chosen = find_protocol(protocol)
        self.options = check_options(protocol, dict(options or {}))
        if chosen.learns and train is None:
            raise ValueError(f'{protocol} learns from labeled images: pass train as well as val')
        self.protocol = protocol
        sources = [train, val] if train is not None else [val]
        datasets = [build_labeled(source) for source in sources]
        self._opened = list(zip(sources, datasets))
        share_range(datasets)
        if chosen.kind != 'video':
            size = self.options.get('image_size')
            datasets = [KeptSamples(dataset, size) for dataset in datasets]
        classes = [str(i) for i in range(num_classes)]
        self.data = EvaluationData('val', chosen.kind, classes, *datasets[::-1])
        self.interval = interval
        self.measure = [tuple(pair) for pair in measure]
        self.history: list[tuple[int, tuple[str, str], Result]] = []

    def hand_on_data(self) -> None:
        """Let the next hook that is built from the same config use the data sets of this one."""
        for source, dataset in self._opened:
            if isinstance(source, dict):
                hand_on(source, dataset, use='evaluation')

    def before_train(self, runner: Runner) -> None:
        """Evaluate at the start of training.

        Raises:
            ValueError: If version 1 of FSDP shards the network.
        """
        self._evaluate_unless_stopped(runner, runner.iter)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Optional[dict] = None
    ) -> None:
        """Evaluate every ``interval`` iterations, and after the last one."""
        if (runner.iter + 1) % self.interval == 0 or runner.iter + 1 == runner.max_iters:
            self._evaluate_unless_stopped(runner, runner.iter + 1)

    def _evaluate_unless_stopped(self, runner: Runner, step: int) -> None:
        """Evaluate; if a signal interrupts it, the resumed run evaluates again."""
        try:
            with signals.interruptible(alone=world_size() == 1):
                values = self.evaluate(runner, step)
            if values:
                self._note_scores(runner, step, values)
        except signals.Stopped:
            if not signals.is_deferred():  # no hook would save a checkpoint
                raise
            runner.logger.warning(
                f'iteration {step}: evaluation interrupted by a signal; the '
                'resumed run evaluates again'
            )

    def evaluate(self, runner: Runner, step: int) -> dict[str, float]:
        """Evaluate now, and log the headline values.

        Args:
            runner (Runner): Provides the model, message hub and visualizer.
            step (int): Number of completed iterations.

        Returns:
            dict: Name of each value -> headline score in percent.
        """
        model = unwrap(runner.model)
        values = {}
        with preserve_random_state(), whole_networks(runner.model, 'EvaluationHook'):
            for (network, output), result in self._measure(model):
                self.history.append((step, (network, output), result))
                suffix = '' if output == 'filter' else f'_{output}'
                name = f'{self.protocol.replace("-", "_")}/{result.metric}_{network}{suffix}'
                values[name] = result.value
        for name, value in values.items():
            runner.message_hub.update_scalar(name, value)
        runner.visualizer.add_scalars(values, step=step)
        runner.logger.info(
            f'iteration {step}: '
            + ', '.join(f'{name} {value:.2f}' for name, value in values.items())
        )
        return values

    def _measure(self, model: Any) -> list[tuple[tuple[str, str], Result]]:
        """Results of all pairs (network, output); equal networks are measured once."""
        keys = list(self.measure)
        if _networks_are_equal(model):
            keys = [(self.measure[0][0], output) for _, output in self.measure]
        encoders = {key: CoTAPEncoder(model, *key) for key in dict.fromkeys(keys)}
        found = evaluate_each(list(encoders.values()), self.data, self.protocol, **self.options)
        results = dict(zip(encoders, found))
        return [(pair, results[key]) for pair, key in zip(self.measure, keys)]

    @staticmethod
    def _note_scores(runner: Runner, step: int, values: dict[str, float]) -> None:
        """Keep the first, best and last values, and let the checkpoint hook save the best."""
        scores = scores_of(runner)
        for name, value in values.items():
            known = scores.get(name, Score(step, value, step, value, step, value))
            if value > known.best:
                known = known._replace(best_step=step, best=value)
            scores[name] = known._replace(last_step=step, last=value)
        runner.message_hub.update_info(
            _SCORES, {name: tuple(score) for name, score in scores.items()}
        )
        for hook in runner.hooks:
            if hasattr(hook, 'save_best_of'):
                hook.save_best_of(runner, step, values)


def _networks_are_equal(model: Any) -> bool:
    """Whether student and teacher have the same weights, as before the first iteration."""
    if not hasattr(model, 'teacher') or model.teacher.num_updates:
        return False
    pairs = (
        (value, getattr(model.teacher, part).state_dict()[name])
        for part, module in model.student.items()
        for name, value in module.state_dict().items()
    )
    return all(value.equal(other) for value, other in pairs)
