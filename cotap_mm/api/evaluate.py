"""Evaluation and comparison as functions of Python, with the code of their commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional, Union

import torch

from cotap_mm.cli import compare as compare_command
from cotap_mm.cli import evaluate as evaluate_command
from cotap_mm.commands import compare as comparison
from cotap_mm.commands.compare import Comparison
from cotap_mm.commands.evaluate import check_arguments, measure_encoder
from cotap_mm.encoders.choose import AnyEncoder
from cotap_mm.encoders.images import Size
from cotap_mm.evaluation.data.evaluation_data import EvaluationData
from cotap_mm.evaluation.data.load import load_data
from cotap_mm.evaluation.evaluate import Result

from .backbones import Backbones, load_backbones
from .messages import raised_in_python

_RENAMED = {'set': 'settings'}


def evaluate(
    encoder: AnyEncoder,
    data: Union[str, EvaluationData],
    protocol: Union[str, Sequence[str]] = 'dense-retrieval',
    *,
    name: Optional[str] = None,
    root: Optional[Union[str, Path]] = None,
    classes: Optional[Sequence[str]] = None,
    limit: Optional[int] = None,
    image_size: Optional[Size] = None,
    value_range: Optional[Sequence[float]] = None,
    settings: Optional[Mapping[str, Any]] = None,
    out: Optional[Union[str, Path]] = None,
    device: Optional[Union[str, torch.device]] = None,
    network: Optional[str] = None,
    output: Optional[str] = None,
    num_heads: Optional[int] = None,
    trust: bool = False,
) -> Union[Result, list[Result]]:
    """Measure features with a dense protocol, as ``cotap evaluate`` does.

    ::

        result = cotap_mm.evaluate('runs/a/iter_2000.pth', 'camvid', limit=50)
        print(result.metric, result.value, result.scores['IoU'])

    Args:
        encoder (Encoder | str | Path | dict): An encoder, or what :func:`cotap_mm.load` accepts.
        data (str | EvaluationData): Name of a data set such as ``'voc'``, ``'camvid'`` or
            ``'toy'``, a config of MMSegmentation, or data of
            :func:`cotap_mm.evaluation.load_data`.
        protocol (str | sequence): Names in :data:`cotap_mm.evaluation.PROTOCOLS`. Defaults to
            ``'dense-retrieval'``.
        name (str, optional): Name of the backbone in tables. Defaults to that of the file.
        root (str | Path, optional): Folder of the data.
        classes (sequence, optional): Class names, for ``data='folder'``.
        limit (int, optional): Use at most this many images of train and of val.
        image_size (int | tuple, optional): Side of a square, or (height, width), in pixels.
            Defaults to that of the protocol.
        value_range (sequence, optional): (low, high) of images with more than 8 bits.
        settings (Mapping, optional): Settings of the protocols, e.g. ``dict(k=30)``.
        out (str | Path, optional): Folder for results as JSON, which later calls reuse. Defaults
            to None, nothing is written or reused.
        device (str | torch.device, optional): Defaults to that of an encoder, for a checkpoint
            to a GPU if there is one.
        network (str, optional): See :func:`cotap_mm.load`; so are the following ones.
        output (str, optional): ``'filter'`` or ``'backbone'``.
        num_heads (int, optional): Number of attention heads.
        trust (bool): Unpickle the checkpoint without restrictions. Defaults to False.

    Returns:
        Result | list[Result]: All scores and settings; a list for a sequence of protocols.

    Raises:
        FileNotFoundError: If checkpoint or data do not exist.
        ValueError: If an argument is wrong, or the data do not fit the protocol.
    """
    is_single = isinstance(protocol, str)
    parser = evaluate_command.build_parser()
    args = parser.defaults(
        protocol=[protocol] if is_single else list(protocol),
        set=dict(settings or {}),
        out=None if out is None else str(out),
        num_heads=num_heads,
        device=None,
        **_data_options(data, root, classes, limit, image_size, value_range),
    )
    with raised_in_python(parser, _RENAMED):
        check_arguments(args)
        loaded = _load_data(data, args)
        backbone = encoder if name is None else {name: encoder}
        titled = load_backbones(
            backbone, device, network=network, output=output, num_heads=num_heads, trust=trust
        )
        ((title, chosen),) = titled.encoders.items()
        results = measure_encoder(chosen, title, loaded, args)
    return results[0] if is_single else results


def compare(
    backbones: Backbones,
    data: Union[str, EvaluationData],
    out: Union[str, Path],
    *,
    protocol: Optional[Union[str, Sequence[str]]] = None,
    full: bool = False,
    images: Optional[Union[str, Path]] = None,
    kinds: Sequence[str] = compare_command.KINDS,
    shown: int = 6,
    size: Optional[Size] = None,
    root: Optional[Union[str, Path]] = None,
    classes: Optional[Sequence[str]] = None,
    limit: Optional[int] = None,
    image_size: Optional[Size] = None,
    value_range: Optional[Sequence[float]] = None,
    settings: Optional[Mapping[str, Any]] = None,
    overwrite: bool = False,
    device: Optional[Union[str, torch.device]] = None,
    network: Optional[str] = None,
    output: Optional[str] = None,
    num_heads: Optional[int] = None,
    trust: bool = False,
) -> Comparison:
    """Compare backbones: scores, and an HTML report with pictures, as ``cotap compare`` does.

    ::

        found = cotap_mm.compare({'before': 'dino_vits16', 'after': run.checkpoint}, 'camvid', 'c')
        print(found.rows(), found.report)

    Args:
        backbones (sequence | Mapping): At least two encoders or checkpoints, or name -> encoder
            or checkpoint.
        data (str | EvaluationData): See :func:`evaluate`; so are ``root``, ``classes``,
            ``limit``, ``image_size``, ``value_range`` and ``settings``.
        out (str | Path): Folder for ``report.html``, PNG files and results.
        protocol (str | sequence, optional): Defaults to dense-retrieval for segmentation data,
            knn for classification data, and video for videos.
        full (bool): Also train linear layers. Defaults to False.
        images (str | Path, optional): Images of the pictures. Defaults to the validation images.
        kinds (sequence): Pictures, see ``cotap visualize --help``.
        shown (int): Number of images in the pictures. Defaults to 6.
        size (int | tuple, optional): Size of the pictures, (height, width).
        root (str | Path, optional): Folder of the data.
        classes (sequence, optional): Class names.
        limit (int, optional): Largest number of images of train and of val.
        image_size (int | tuple, optional): Size of the images in the protocols.
        value_range (sequence, optional): (low, high) of images with more than 8 bits.
        settings (Mapping, optional): Settings of the protocols.
        overwrite (bool): Replace a ``report.html`` of another tool. Defaults to False.
        device (str | torch.device, optional): See :func:`evaluate`; so are the following ones.
        network (str, optional): ``'student'`` or ``'teacher'``.
        output (str, optional): ``'filter'`` or ``'backbone'``.
        num_heads (int, optional): Number of attention heads.
        trust (bool): Unpickle checkpoints without restrictions. Defaults to False.

    Returns:
        Comparison: ``results``, ``report`` and ``rows()``, the table.

    Raises:
        FileNotFoundError: If a checkpoint or data do not exist.
        ValueError: If there are fewer than two backbones, or an argument is wrong.
    """
    parser = compare_command.build_parser()
    args = parser.defaults(
        protocol=[protocol] if isinstance(protocol, str) else protocol and list(protocol),
        full=full,
        images=None if images is None else str(images),
        kinds=list(kinds),
        shown=shown,
        size=[size, size] if isinstance(size, int) else size,
        set=dict(settings or {}),
        out=str(out),
        overwrite=overwrite,
        num_heads=num_heads,
        device=None,
        **_data_options(data, root, classes, limit, image_size, value_range),
    )
    with raised_in_python(parser, _RENAMED):
        loaded = _load_data(data, args)
        titled = load_backbones(
            backbones, device, network=network, output=output, num_heads=num_heads, trust=trust
        )
        return comparison.compare(args, titled.encoders, loaded)


def _data_options(
    data: Union[str, EvaluationData],
    root: Optional[Union[str, Path]],
    classes: Optional[Sequence[str]],
    limit: Optional[int],
    image_size: Optional[Size],
    value_range: Optional[Sequence[float]],
) -> dict[str, Any]:
    return dict(
        data=data.name if isinstance(data, EvaluationData) else str(data),
        root=None if root is None else str(root),
        classes=None if classes is None else list(classes),
        limit=limit,
        image_size=[image_size] if isinstance(image_size, int) else image_size,
        value_range=None if value_range is None else list(value_range),
    )


def _load_data(data: Union[str, EvaluationData], args: Any) -> EvaluationData:
    if not isinstance(data, EvaluationData):
        return load_data(args.data, args.root, args.classes, args.limit, args.value_range or 'auto')
    given = [name for name in ('root', 'classes', 'limit', 'value_range') if getattr(args, name)]
    if given:
        raise ValueError(
            f'{", ".join(given)} applies to data by name, but loaded data were given; pass it to '
            'load_data'
        )
    return data
