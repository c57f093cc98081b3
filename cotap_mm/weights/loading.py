"""The one way weights come in."""
from typing import Optional

from torch import nn

from .fitting import LoadReport, fit
from .naming import recognize, rename
from .reading import Checkpoint, read_checkpoint


def load_pretrained(model: nn.Module, checkpoint: Checkpoint, source: str = 'auto',
                    branch: Optional[str] = None, trust: bool = False) -> LoadReport:
    """Load weights of any supported source into a model.

    Understood are our own checkpoints (student or teacher), the authors' released
    CoTAP files, DINO, iBOT, Mugs, Leopart, timm, Hugging Face ViT and MMPretrain.
    Position embeddings of another grid are resized. In a CoTAP algorithm the teacher
    starts as a copy of the student; heads and filter stay as initialised if the file
    has none.

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
    recognized = recognize(read_checkpoint(checkpoint, trust), source, branch)
    tensors, unknown, dropped = rename(recognized)
    report = LoadReport(source=recognized.family, unexpected=list(unknown), dropped=dropped)
    fit(model, tensors, report)
    if hasattr(model, 'teacher') and hasattr(model, 'student'):
        model.teacher.copy_from(model.student)
    return report
