"""An encoder by file or name, without any config."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Optional, Union

import torch
from mmengine.logging import MMLogger
from torch import nn

from cotap_mm.models import CoTAPViT
from cotap_mm.weights import LoadReport, load_pretrained
from cotap_mm.weights.architecture import architecture_of
from cotap_mm.weights.loading import read_in_our_names
from cotap_mm.weights.reading import Checkpoint, read_checkpoint

from .encoder import Encoder
from .vit import OUTPUTS, TimmEncoder, ViTEncoder

TIMM, RANDOM = 'timm:', 'random:'


class PretrainedEncoder(ViTEncoder):
    """A frozen ViT, with the object-aware filter if its checkpoint has one.

    Attributes:
        network (CoTAPViT): The network, in eval mode.
        report (LoadReport): What was loaded and what was left.
    """

    def __init__(
        self, network: CoTAPViT, report: LoadReport, final_norm: Optional[nn.Module] = None
    ) -> None:
        super().__init__(network, final_norm)
        self.network = network
        self.report = report


def load(
    checkpoint: Checkpoint,
    device: Union[str, torch.device] = 'cpu',
    branch: Optional[str] = None,
    source: str = 'auto',
    trust: bool = False,
    num_heads: Optional[int] = None,
    output: Optional[str] = None,
) -> Encoder:
    """Load a network of any supported source as an encoder.

    ::

        encoder = cotap_mm.load('work_dirs/vits_coco/iter_240000.pth', device='cuda')
        cls, patches = encoder.encode('photo.jpg')   # (1, 2d) and (1, 2d, H, W)

    Features are what the network's authors use: after the object-aware filter where there is
    one, after the final norm for files that have one (DINO, iBOT, timm, ...).

    Args:
        checkpoint (str | Path | dict): File, URL or state dict of CoTAP (ours or released),
            DINO, iBOT, Mugs, Leopart, timm, Hugging Face ViT or MMPretrain;
            ``'timm:NAME'`` for a pre-trained model of timm by its name; ``'random:...'``
            before either for the same architecture with random weights.
        device (str | torch.device): Where to compute. Defaults to ``'cpu'``.
        branch (str, optional): ``'student'`` or ``'teacher'`` where a file has both.
        source (str): ``'auto'``, or the origin as a check. Defaults to ``'auto'``.
        trust (bool): Unpickle fully where safe reading is refused. Defaults to False.
        num_heads (int, optional): Attention heads, where the file does not tell.
        output (str, optional): ``'filter'`` or ``'backbone'``: with the object-aware filter,
            or the plain last block, of a file that has both. Defaults to the filter if
            there is one.

    Returns:
        Encoder: With ``encode(images) -> (cls, patches)``. A file gives a
        :class:`PretrainedEncoder`, whose ``report`` says what was loaded.

    Raises:
        FileNotFoundError: If there is no such file, or a URL cannot be had.
        ValueError: If the file or name is not understood, ``num_heads`` is needed, or
            ``output='filter'`` is asked of a network without one.
    """
    if output not in (None, *OUTPUTS):
        raise ValueError(f'output must be one of {", ".join(OUTPUTS)}, got {output!r}')
    name = str(checkpoint) if not isinstance(checkpoint, dict) else ''
    pretrained = not name.startswith(RANDOM)
    if not pretrained:
        name = checkpoint = name[len(RANDOM) :]
    if name.startswith(TIMM):
        if output == 'filter':
            raise ValueError(f'{name} has no object-aware filter; leave output out')
        return _load_timm(name[len(TIMM) :], pretrained, device)
    options = dict(use_filter=False) if output == 'backbone' else {}
    network, report, final_norm = build_network(
        checkpoint, branch, source, trust, num_heads, pretrained, **options
    )
    if output == 'filter' and network.neck is None:
        raise ValueError(
            f"output='filter': {name or 'the state dict'} has no object-aware "
            'filter; leave output out'
        )
    if final_norm is not None:
        final_norm.to(device)
    return PretrainedEncoder(network.to(device), report, final_norm)


class _Built(NamedTuple):
    network: CoTAPViT
    report: LoadReport
    final_norm: Optional[nn.Module]


def build_network(
    checkpoint: Checkpoint,
    branch: Optional[str] = None,
    source: str = 'auto',
    trust: bool = False,
    num_heads: Optional[int] = None,
    pretrained: bool = True,
    **options: Any,
) -> _Built:
    """The network of a checkpoint, in eval mode; arguments as in :func:`load`.

    ``pretrained=False`` leaves the weights random; ``options`` are further arguments of
    :class:`CoTAPViT`. A final norm of the file is not part of the network, which never has one.
    """
    content = read_checkpoint(checkpoint, trust)
    tensors, _, report = read_in_our_names(content, source, branch)
    meta = content.get('meta')
    arguments = architecture_of(tensors, meta if isinstance(meta, dict) else None, num_heads)
    network = CoTAPViT(**{**arguments, 'out_type': 'raw', **options})
    if pretrained:
        report = load_pretrained(network, content, source, branch)
    else:
        with _quiet():  # MMEngine lists every parameter
            network.init_weights()
        report.missing = [name for name, _ in network.named_parameters()]
    network.eval().requires_grad_(False)
    return _Built(network, report, _final_norm(tensors, pretrained))


def _final_norm(tensors: dict, pretrained: bool) -> Optional[nn.Module]:
    """The norm after the last block of a plain ViT; CoTAP has none."""
    if 'neck.prototypes' in tensors or 'backbone.ln1.weight' not in tensors:
        return None
    norm = nn.LayerNorm(len(tensors['backbone.ln1.weight']), eps=1e-6)
    if pretrained:
        norm.load_state_dict(
            {part: tensors[f'backbone.ln1.{part}'].float() for part in ('weight', 'bias')}
        )
    return norm.eval().requires_grad_(False)


def _load_timm(name: str, pretrained: bool, device: Union[str, torch.device]) -> TimmEncoder:
    try:
        import timm
    except ImportError as error:
        raise ValueError(f'{TIMM}{name} needs timm: pip install timm') from error
    known = timm.list_models(name.split('.')[0])
    if not known:
        near = timm.list_models(f'*{name.split("_")[0]}*')[:5]
        raise ValueError(
            f'timm {timm.__version__} has no model {name!r}; near ones: {", ".join(near) or "none"}'
        )
    try:
        model = timm.create_model(name, pretrained=pretrained, num_classes=0, dynamic_img_size=True)
    except TypeError as error:
        raise ValueError(
            f'timm model {name} does not take images of any size '
            f'(dynamic_img_size); choose a ViT. timm says: {error}'
        ) from error
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f'weights of timm model {name} could not be had ({error}); check the connection and '
            'the name, or download the file elsewhere and give its path'
        ) from error
    return TimmEncoder(model.to(device).eval().requires_grad_(False))


@contextmanager
def _quiet() -> Iterator[None]:
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
