"""Pictures of features as a function of Python, with the code of ``cotap visualize``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional, Union

import torch

from cotap_mm.cli.visualize import build_parser
from cotap_mm.command_line.choices import PICTURES
from cotap_mm.commands.visualize import write_report
from cotap_mm.encoders.images import Size

from .backbones import Backbones, load_backbones
from .messages import raised_in_python


def visualize(
    checkpoints: Backbones,
    images: Union[str, Path],
    out: Union[str, Path],
    *,
    kinds: Optional[Sequence[str]] = None,
    limit: int = 6,
    size: Optional[Size] = None,
    labels: Optional[Union[str, Path]] = None,
    classes: Optional[Sequence[str]] = None,
    overwrite: bool = False,
    device: Optional[Union[str, torch.device]] = None,
    network: Optional[str] = None,
    output: Optional[str] = None,
    num_heads: Optional[int] = None,
    trust: bool = False,
    **options: Any,
) -> Path:
    """Draw features of one or several networks on images, as ``cotap visualize`` does.

    ::

        networks = {'before': 'dino_vits16', 'after': run.checkpoint}
        page = cotap_mm.visualize(networks, 'photos', 'look')

    Args:
        checkpoints (Encoder | str | Path | sequence | Mapping): Encoders or checkpoints, or
            name -> encoder or checkpoint.
        images (str | Path): Folder (read recursively), text list, COCO json or packed file.
        out (str | Path): Folder for ``report.html`` and the PNG files; an earlier report is
            replaced.
        kinds (sequence, optional): Pictures, such as ``'pca'`` and ``'similarity'``; see
            ``cotap visualize --help``. Defaults to all that are possible.
        limit (int): Number of images to show, evenly spaced. Defaults to 6.
        size (int | tuple, optional): Size of all images, (height, width). Defaults to that of
            the first one, its longer side at most 448.
        labels (str | Path, optional): Folder of masks with the same names as the images.
        classes (sequence, optional): Name of each class of the masks.
        overwrite (bool): Replace a ``report.html`` of another tool. Defaults to False.
        device (str | torch.device, optional): Defaults to that of an encoder, for checkpoints to
            a GPU if there is one.
        network (str, optional): See :func:`cotap_mm.load`; so are the following ones.
        output (str, optional): ``'filter'`` or ``'backbone'``.
        num_heads (int, optional): Number of attention heads.
        trust (bool): Unpickle checkpoints without restrictions. Defaults to False.
        **options: Further options of ``cotap visualize`` by name, e.g. ``clusters=8``,
            ``patch=(0, 10, 12)``, ``window=224`` or ``value_range=(0, 4095)``.

    Returns:
        Path: ``report.html``.

    Raises:
        BadImage: If an image to show cannot be decoded.
        FileNotFoundError: If a checkpoint or the images do not exist.
        TypeError: If an option does not exist.
        ValueError: If an argument is wrong, or a requested picture is not possible.
    """
    parser = build_parser()
    args = parser.defaults(
        images=str(images),
        out=str(out),
        kinds=[kinds] if isinstance(kinds, str) else kinds and list(kinds),
        limit=limit,
        size=[size, size] if isinstance(size, int) else size,
        labels=None if labels is None else str(labels),
        classes=None if classes is None else list(classes),
        overwrite=overwrite,
        device=None,
        **options,
    )
    with raised_in_python(parser):
        unknown = [kind for kind in args.kinds or () if kind not in PICTURES]
        if unknown:
            raise ValueError(f'kinds must be of {", ".join(PICTURES)}, got {", ".join(unknown)}')
        titled = load_backbones(
            checkpoints, device, network=network, output=output, num_heads=num_heads, trust=trust
        )
        return write_report(args, titled.checkpoints, titled.encoders)
