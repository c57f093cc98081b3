"""A checkpoint that is read, detected and renamed once, and then passed on."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional, Union

from torch import Tensor

from cotap_mm.ops.position import RESIZE_RULES

from .adapting import (
    add_cls_position,
    add_periods,
    check_key_bias,
    for_imagenet,
    without_added,
)
from .architecture import architecture_of, stated_arch, stated_grid
from .content import check_weights
from .formats.detection import SOURCES, DetectedViT, detect_vit
from .formats.naming import Renamed, rename
from .named.known import check_registers
from .reading import read_checkpoint
from .report import LoadReport

#: Name of weights that do not come from a file.
IN_MEMORY = 'state dict'


@dataclass(frozen=True)
class DetectedCheckpoint:
    """The network of a checkpoint under our names, with everything that is known about it.

    Made by :func:`detect_checkpoint`. Everything that takes a checkpoint also takes one of
    these, and then neither reads nor detects anything again.

    Attributes:
        name (str): Path or URL; ``'state dict'`` for weights that were in memory.
        tensors (dict[str, Tensor]): In the layout of the algorithm (``backbone.*``,
            ``neck.*``, ``head.*``).
        teacher (dict[str, Tensor] | None): The teacher's tensors in the same layout, if this
            is one of our own training checkpoints.
        meta (dict): ``meta`` of the file; empty if there is none.
        report (LoadReport): Source, network, unexpected and dropped tensors. Use
            :meth:`new_report` for a copy to fill in.
        content (dict): Everything in the file.
        pos_resize (str): How its family resizes position embeddings, see
            :data:`cotap_mm.ops.position.RESIZE_RULES`.
    """

    name: str
    tensors: dict[str, Tensor] = field(repr=False)
    teacher: Optional[dict[str, Tensor]] = field(repr=False)
    meta: dict = field(repr=False)
    report: LoadReport = field(repr=False)
    content: dict = field(repr=False)
    pos_resize: str = 'dino'

    @property
    def network(self) -> str:
        """``'student'`` or ``'teacher'``; ``''`` if the file does not say."""
        return self.report.network

    @property
    def grid(self) -> Optional[tuple[int, int]]:
        """Rows and columns of the position embeddings, if the file states them."""
        return stated_grid(self.tensors, self.meta)

    @property
    def is_stored(self) -> bool:
        """Whether it can be read again, which weights from memory cannot."""
        return self.name != IN_MEMORY

    def architecture(self, num_heads: Optional[int] = None) -> dict[str, Any]:
        """Arguments of a matching :class:`CoTAPViT`; see :func:`architecture_of`."""
        arguments = architecture_of(self.tensors, self.meta, num_heads)
        if self.pos_resize != 'dino' and 'rope' not in arguments:
            arguments['pos_resize'] = self.pos_resize
        return arguments

    def new_report(self) -> LoadReport:
        """Copy the report, for one use of the checkpoint."""
        return copy.deepcopy(self.report)

    def __str__(self) -> str:
        """Path or URL."""
        return self.name

    def __deepcopy__(self, memo: dict) -> DetectedCheckpoint:
        """Return itself: MMEngine copies an ``init_cfg`` often, and nothing here changes."""
        return self


AnyCheckpoint = Union[str, Path, dict, DetectedCheckpoint]


def detect_checkpoint(
    checkpoint: AnyCheckpoint,
    source: str = 'auto',
    network: Optional[str] = None,
    trust: bool = False,
) -> DetectedCheckpoint:
    """Read a checkpoint, detect its format and rename its tensors.

    Args:
        checkpoint (str | Path | dict | DetectedCheckpoint): See :func:`load_pretrained`, also
            for the other arguments. A :class:`DetectedCheckpoint` is returned unchanged.
        source (str): Defaults to ``'auto'``.
        network (str, optional): ``'student'`` or ``'teacher'``.
        trust (bool): Defaults to False.

    Returns:
        DetectedCheckpoint: The network and what is known about it.

    Raises:
        FileNotFoundError: If the file does not exist, or the download fails.
        ValueError: If the file is unsafe, damaged or of another source; if ``source`` or
            ``network`` is stated for a checkpoint that has been detected as something else.
    """
    if isinstance(checkpoint, DetectedCheckpoint):
        return _check_options(checkpoint, source, network)
    content = read_checkpoint(checkpoint, trust)
    meta = content['meta'] if isinstance(content.get('meta'), dict) else {}
    vit = detect_vit(content, source, network)

    def in_our_names(tensors: dict[str, Tensor]) -> Renamed:
        renamed = rename(vit.family, tensors)
        check_weights(renamed.tensors)
        if vit.family in ('timm', 'hf'):  # elsewhere the first position always belongs to CLS
            tensors = add_cls_position(without_added(renamed.tensors, meta), meta)
            is_stated = 'rope' in stated_arch(meta) and 'backbone.pos_embed' not in tensors
            if renamed.lacks_periods or (is_stated and 'backbone.rope.periods' not in tensors):
                tensors = add_periods(tensors, meta)
            renamed = renamed._replace(tensors=for_imagenet(tensors, meta.get('normalization')))
        check_key_bias(renamed.tensors, meta)
        return renamed

    renamed = in_our_names(vit.tensors)
    registers = renamed.tensors.get('backbone.register_tokens')
    check_registers(checkpoint_name(checkpoint), 0 if registers is None else registers.shape[1])
    teacher = None if vit.teacher is None else in_our_names(vit.teacher).tensors
    report = LoadReport(
        source=vit.family if source == 'auto' else source,
        network=vit.network,
        unexpected=list(renamed.unexpected),
        dropped=renamed.dropped + vit.outside,
    )
    return DetectedCheckpoint(
        name=checkpoint_name(checkpoint),
        tensors=renamed.tensors,
        teacher=teacher,
        meta=meta,
        report=report,
        content=content,
        pos_resize=_resize_rule(vit, meta),
    )


def _resize_rule(vit: DetectedViT, meta: dict) -> str:
    """How the code of a network's family resizes its position embeddings."""
    stated = stated_arch(meta).get('pos_resize')
    if stated in RESIZE_RULES:
        return stated
    is_of_cotap = any(name == 'kernel' or name.startswith('neck.') for name in vit.tensors)
    if vit.family in ('cotap', 'cotap_mm') or is_of_cotap:
        return 'dino'
    names = ('register_tokens', 'reg_token', 'embeddings.register_tokens')
    if any(name in vit.tensors for name in names):
        return 'antialias'
    return 'size' if vit.family == 'hf' else 'dino'


def checkpoint_name(checkpoint: AnyCheckpoint) -> str:
    """Path or URL of a checkpoint, for messages; ``'state dict'`` for one in memory."""
    return IN_MEMORY if isinstance(checkpoint, dict) else str(checkpoint)


def _check_options(
    checkpoint: DetectedCheckpoint, source: str, network: Optional[str]
) -> DetectedCheckpoint:
    """Reject options that contradict how a checkpoint was detected."""
    detected = checkpoint.report.source
    if source != 'auto' and SOURCES.get(source) != SOURCES[detected]:
        raise ValueError(
            f'{checkpoint} has been detected with source={detected!r}, got source={source!r}; '
            'pass source to detect_checkpoint'
        )
    is_unmarked = checkpoint.network == '' and (network == 'student' or checkpoint.teacher is None)
    if network not in (None, checkpoint.network) and not is_unmarked:
        raise ValueError(
            f'{checkpoint} has been detected with network={checkpoint.network!r}, got '
            f'network={network!r}; pass network to detect_checkpoint'
        )
    return checkpoint
