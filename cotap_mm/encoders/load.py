"""Load an encoder from a checkpoint or by name, without a config."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Optional, Union

import torch
from mmengine.logging import MMLogger
from torch import nn

from cotap_mm.deprecation import renamed_argument
from cotap_mm.models import CoTAPViT
from cotap_mm.weights import LoadReport, detect_checkpoint, load_pretrained
from cotap_mm.weights.checkpoint import AnyCheckpoint
from cotap_mm.weights.named.timm_models import TIMM, create_timm

from .encoder import Encoder
from .timm_vit import TimmEncoder
from .vit import OUTPUTS, ViTEncoder

RANDOM = 'random:'


class PretrainedEncoder(ViTEncoder):
    """A frozen ViT, with the object-aware filter if its checkpoint has one.

    Attributes:
        network (CoTAPViT): The ViT, in eval mode.
        report (LoadReport): Which tensors were loaded, missing and skipped.
    """

    def __init__(
        self, network: CoTAPViT, report: LoadReport, final_norm: Optional[nn.Module] = None
    ) -> None:
        super().__init__(network, final_norm)
        self.network = network
        self.report = report


@renamed_argument('branch', 'network')
def load(
    checkpoint: AnyCheckpoint,
    device: Union[str, torch.device] = 'cpu',
    network: Optional[str] = None,
    source: str = 'auto',
    trust: bool = False,
    num_heads: Optional[int] = None,
    output: Optional[str] = None,
) -> Encoder:
    """Load a network of any supported source as an encoder.

    ::

        encoder = cotap_mm.load('work_dirs/vits_coco/iter_240000.pth', device='cuda')
        cls, patches = encoder.encode('photo.jpg')   # (1, 2d) and (1, 2d, H, W)

    The features are those that the authors of the network use: after the object-aware filter
    if there is one, after the final norm for files that have one (DINO, iBOT, timm, ...).

    Args:
        checkpoint (str | Path | dict | DetectedCheckpoint): File, URL or state dict of CoTAP
            (ours or released), DINO, iBOT, Mugs, Leopart, timm, Hugging Face ViT or
            MMPretrain; a short name such as ``'dino_vits16'``; ``'hf:USER/REPO'`` for a model on
            the Hugging Face hub, also ``'hf:USER/REPO@REVISION'`` and ``'hf:USER/REPO/FILE'``;
            ``'timm:NAME'`` for a pretrained model of timm; with the prefix ``'random:'`` the same
            architecture with random weights.
        device (str | torch.device): Device of the network. Defaults to ``'cpu'``.
        network (str, optional): ``'student'`` or ``'teacher'`` if a file has both; by default
            the student of CoTAP and the teacher of DINO, iBOT and Mugs.
        source (str): ``'auto'``, or the expected origin as a check. Defaults to ``'auto'``.
        trust (bool): Unpickle the file fully if safe reading fails. Defaults to False.
        num_heads (int, optional): Number of attention heads, if the file does not state it.
        output (str, optional): ``'filter'`` (object-aware filter) or ``'backbone'`` (plain last
            block). Defaults to the filter if there is one.

    Returns:
        Encoder: Encoder with ``encode(images) -> (cls, patches)``. For checkpoints a
        :class:`PretrainedEncoder`, whose ``report`` lists what was loaded.

    Raises:
        FileNotFoundError: If the file does not exist, or the download fails.
        ValueError: If the format or name is unknown, if ``num_heads`` is required, or if
            ``output='filter'`` is requested of a network without a filter.
    """
    if output not in (None, *OUTPUTS):
        raise ValueError(f'output must be one of {", ".join(OUTPUTS)}, got {output!r}')
    name = str(checkpoint) if not isinstance(checkpoint, dict) else ''
    pretrained = not name.startswith(RANDOM)
    if not pretrained:
        name = checkpoint = name[len(RANDOM) :]
    if name.startswith(TIMM):
        if output == 'filter':
            raise ValueError(f'{name} has no object-aware filter; omit output')
        return _load_timm(name[len(TIMM) :], pretrained, device)
    options = dict(use_filter=False) if output == 'backbone' else {}
    detected = detect_checkpoint(checkpoint, source, network, trust)
    vit, report, final_norm = build_network(detected, num_heads, pretrained, **options)
    if output == 'filter' and vit.neck is None:
        raise ValueError(f"output='filter': {detected} has no object-aware filter; omit output")
    if final_norm is not None:
        final_norm.to(device)
    return PretrainedEncoder(vit.to(device), report, final_norm)


class BuiltNetwork(NamedTuple):
    """Result of :func:`build_network`.

    Attributes:
        vit (CoTAPViT): In eval mode, without gradients.
        report (LoadReport): Which tensors were loaded, missing and skipped.
        final_norm (nn.Module | None): Final norm of a plain ViT.
    """

    vit: CoTAPViT
    report: LoadReport
    final_norm: Optional[nn.Module]


def build_network(
    checkpoint: AnyCheckpoint,
    num_heads: Optional[int] = None,
    pretrained: bool = True,
    **options: Any,
) -> BuiltNetwork:
    """Build the network of a checkpoint.

    Args:
        checkpoint (str | Path | dict | DetectedCheckpoint): See :func:`load`; pass a
            :class:`DetectedCheckpoint` to choose source, network or trust.
        num_heads (int, optional): Number of attention heads, if the file does not state it.
        pretrained (bool): False keeps random weights. Defaults to True.
        **options: Further arguments of :class:`CoTAPViT`.

    Returns:
        BuiltNetwork: Network, report, and the final norm of the file, which is separate since
        a :class:`CoTAPViT` never has one.

    Raises:
        ValueError: If the checkpoint does not fit, or ``num_heads`` is required.
    """
    detected = detect_checkpoint(checkpoint)
    vit = CoTAPViT(**{**detected.architecture(num_heads), 'out_type': 'raw', **options})
    if pretrained:
        report = load_pretrained(vit, detected)
    else:
        with _quiet():  # MMEngine logs every parameter
            vit.init_weights()
        report = detected.new_report()
        report.missing = [name for name, _ in vit.named_parameters()]
    vit.eval().requires_grad_(False)
    eps = vit.layers[0].ln1.eps
    return BuiltNetwork(vit, report, _final_norm(detected.tensors, pretrained, eps))


def _final_norm(tensors: dict, pretrained: bool, eps: float) -> Optional[nn.Module]:
    """Build the norm after the last block of a plain ViT; CoTAP has none."""
    if 'neck.prototypes' in tensors or 'backbone.ln1.weight' not in tensors:
        return None
    norm = nn.LayerNorm(len(tensors['backbone.ln1.weight']), eps=eps)
    if pretrained:
        norm.load_state_dict(
            {part: tensors[f'backbone.ln1.{part}'].float() for part in ('weight', 'bias')}
        )
    return norm.eval().requires_grad_(False)


def _load_timm(name: str, pretrained: bool, device: Union[str, torch.device]) -> TimmEncoder:
    try:
        model = create_timm(name, pretrained, dynamic_img_size=True)
    except TypeError as error:
        raise ValueError(
            f'timm model {name} does not support arbitrary image sizes (dynamic_img_size); '
            f'choose a ViT. Error of timm: {error}'
        ) from error
    return TimmEncoder(model.to(device).eval().requires_grad_(False))


@contextmanager
def _quiet() -> Iterator[None]:
    """Log only warnings and errors."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
