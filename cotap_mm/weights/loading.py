"""Load weights of any supported source into a model."""

from __future__ import annotations

from typing import Optional

from torch import nn

from cotap_mm.deprecation import renamed_argument

from .checkpoint import AnyCheckpoint, detect_checkpoint
from .fitting import fit
from .report import LoadReport


@renamed_argument('branch', 'network')
def load_pretrained(
    model: nn.Module,
    checkpoint: AnyCheckpoint,
    source: str = 'auto',
    network: Optional[str] = None,
    trust: bool = False,
    resize_patches: bool = False,
) -> LoadReport:
    """Load weights of any supported source into a model.

    Supported are our own checkpoints (student or teacher), the authors' released CoTAP files,
    DINO, iBOT, Mugs, Leopart, timm, Hugging Face ViT and MMPretrain. Position embeddings of
    another grid are resized. Heads and filter keep their initial values if the file has none.
    The teacher of a CoTAP algorithm becomes a copy of the student, except from our own training
    checkpoints, which store the teacher. Queues, template bank and counters are not loaded; to
    continue a run, resume it.

    Args:
        model (nn.Module): A :class:`cotap_mm.models.CoTAP`, or a ViT with MMPretrain's
            names, with or without a ``neck`` that is an object-aware filter.
        checkpoint (str | Path | dict | DetectedCheckpoint): A file, a folder of Hugging Face,
            a URL, a state dict, or a checkpoint that has been detected before.
        source (str): ``'auto'``, or the expected origin as a check. Defaults to ``'auto'``.
        network (str, optional): ``'student'`` or ``'teacher'`` if a file has both; by default
            the student of CoTAP and the teacher of DINO, iBOT and Mugs.
        trust (bool): Unpickle the file fully if safe reading fails; only for files of known
            origin. Defaults to False.
        resize_patches (bool): Resize the patch embedding if the model has another patch size, see
            :func:`cotap_mm.ops.position.resize_patch_embedding`. Defaults to False, an error.

    Returns:
        LoadReport: Which tensors were loaded, missing and skipped.

    Raises:
        FileNotFoundError: If the file does not exist, or the download fails.
        ValueError: If the file is unsafe, damaged, of another source, or does not fit.
    """
    detected = detect_checkpoint(checkpoint, source, network, trust)
    report = detected.new_report()
    fit(model, detected.tensors, report, detected.teacher, detected.grid, resize_patches)
    return report
