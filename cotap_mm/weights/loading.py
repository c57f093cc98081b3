"""The one way weights come in."""

from __future__ import annotations

from typing import Optional

from torch import Tensor, nn

from .architecture import add_cls_position, stated_grid
from .content import check_weights
from .detection import recognize
from .fitting import LoadReport, fit
from .naming import Renamed, rename
from .reading import Checkpoint, read_checkpoint


def load_pretrained(
    model: nn.Module,
    checkpoint: Checkpoint,
    source: str = 'auto',
    branch: Optional[str] = None,
    trust: bool = False,
) -> LoadReport:
    """Load weights of any supported source into a model.

    Understood are our own checkpoints (student or teacher), the authors' released
    CoTAP files, DINO, iBOT, Mugs, Leopart, timm, Hugging Face ViT and MMPretrain.
    Position embeddings of another grid are resized. Heads and filter stay as
    initialised if the file has none. A CoTAP algorithm's teacher becomes a copy of the
    student, except from one of our own training checkpoints, which has its own teacher.
    Queues, bank and counters are not loaded: to continue a run, resume it.

    Args:
        model (nn.Module): A :class:`cotap_mm.models.CoTAP`, or a ViT with MMPretrain's
            names, with or without a ``neck`` that is an object-aware filter.
        checkpoint (str | Path | dict): A file, a URL, or a state dict.
        source (str): ``'auto'``, or the origin as a check. Defaults to ``'auto'``.
        branch (str, optional): ``'student'`` or ``'teacher'`` where a file has both;
            by default the student of CoTAP and the teacher of DINO, iBOT and Mugs.
        trust (bool): Unpickle fully where safe reading is refused; only for files
            of known origin. Defaults to False.

    Returns:
        LoadReport: What was loaded, what stayed random, what was left out.

    Raises:
        FileNotFoundError: If there is no such file, or a URL cannot be had.
        ValueError: If the file is unsafe, damaged, of another source, or does not fit.
    """
    content = read_checkpoint(checkpoint, trust)
    tensors, teacher, report = read_in_our_names(content, source, branch)
    meta = content.get('meta')
    fit(
        model,
        tensors,
        report,
        teacher,
        stated_grid(tensors, meta if isinstance(meta, dict) else None),
    )
    return report


def read_in_our_names(
    checkpoint: Checkpoint, source: str = 'auto', branch: Optional[str] = None, trust: bool = False
) -> tuple[dict[str, Tensor], Optional[dict[str, Tensor]], LoadReport]:
    """Read, recognise and rename; arguments and errors as in :func:`load_pretrained`.

    Returns:
        tuple: Tensors in the algorithm's layout, those of the teacher if the file is one
        of our own training checkpoints, and the report so far.
    """
    content = read_checkpoint(checkpoint, trust)
    meta = content['meta'] if isinstance(content.get('meta'), dict) else None

    def in_our_names(tensors: dict[str, Tensor]) -> Renamed:
        renamed = rename(found.family, tensors)
        check_weights(renamed.tensors)
        if found.family in ('timm', 'hf'):  # in the others the first position is that of CLS
            renamed = renamed._replace(tensors=add_cls_position(renamed.tensors, meta))
        return renamed

    found = recognize(content, source, branch)
    renamed = in_our_names(found.tensors)
    teacher = None if found.teacher is None else in_our_names(found.teacher).tensors
    report = LoadReport(
        source=found.family if source == 'auto' else source,
        branch=found.branch,
        unexpected=list(renamed.unexpected),
        dropped=renamed.dropped + found.outside,
    )
    return renamed.tensors, teacher, report
