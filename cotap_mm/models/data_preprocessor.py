"""Convert uint8 crops to the views of student and teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Optional, Union

import torch
from mmengine.model import BaseDataPreprocessor
from torch import Tensor

from cotap_mm.ops import (
    COLOR_DEFAULTS,
    COLOR_DRAWS,
    COLOR_RULES,
    ColorPlan,
    apply_color,
    common_boxes,
    copy_together,
    plan_color,
)
from cotap_mm.ops.imagenet import IMAGENET_MEAN_255, IMAGENET_STD_255
from cotap_mm.registry import MODELS
from cotap_mm.rules import check_arguments, check_rules, number, sequence

from .device_crops import with_crops
from .step_batch import CropsBatch, GlobalShapes


@dataclass(frozen=True)
class _Part:
    """Crops of one size in a batch of one branch."""

    branch: str
    kind: str  # 'global' or 'local'
    images: int  # I
    columns: slice  # of the crops among all crops of an image
    side: int  # pixels

    @property
    def count(self) -> int:
        """V, crops of each image."""
        return self.columns.stop - self.columns.start


@MODELS.register_module()
class CoTAPDataPreprocessor(BaseDataPreprocessor):
    """Normalize the crops, with color augmentation for the student only.

    Runs on the device, in float32 even under mixed precision. Each crop of each image has its own
    random draws (the released implementation draws once per crop index and step), see
    :func:`cotap_mm.ops.augment_color`. The batch may contain draws that depend on the sample; else
    they are drawn from torch's global CPU generator.

    Source: CoTAP, https://arxiv.org/abs/2509.09429.

    Args:
        mean (Sequence[float]): Mean of each channel in pixel values 0-255. Defaults to ImageNet's.
        std (Sequence[float]): Standard deviation of each channel in pixel values 0-255. Defaults
            to ImageNet's.
        color (dict | str, optional): ``'default'`` for the settings of the method, or a dict that
            overrides some of them: ``brightness``, ``contrast``, ``saturation``, ``hue``,
            ``jitter_prob``, ``gray_prob``, ``blur_prob``, ``blur_sigma`` (pixels). None disables
            color augmentation. Defaults to ``'default'``.

    Raises:
        ValueError: If ``color`` has an unknown option, or a value is out of range.
    """

    @check_arguments(
        mean=sequence('three numbers', number(), 3),
        std=sequence('three numbers > 0', number(0, above=True), 3),
    )
    def __init__(
        self,
        mean: Sequence[float] = IMAGENET_MEAN_255,
        std: Sequence[float] = IMAGENET_STD_255,
        color: Optional[Union[dict, str]] = 'default',
    ) -> None:
        super().__init__(non_blocking=True)
        self.register_buffer('mean', torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(std).view(3, 1, 1), persistent=False)
        self.color = None if color is None else _color_options(color)
        #: Draws the numbers of a training step, by name, to be copied to the device with those of
        #: the crops; None draws nothing.
        self.draw_ahead: Optional[Callable[[GlobalShapes], dict[str, Tensor]]] = None

    def forward(self, data: CropsBatch, training: bool = False) -> dict:
        """Convert a collated batch of :class:`NeighborPairs` to inputs of :class:`CoTAP`.

        All numbers that are drawn or computed on the CPU go to the device in one copy. The crops
        of one size are augmented together, those of both branches.

        Args:
            data (CropsBatch): Crops of both branches, see :mod:`.step_batch`.
            training (bool): Whether to augment the color of the student's crops. Defaults to
                False.

        Returns:
            dict: ``inputs`` (ViewsBatch), with images first and then positives, and
            ``data_samples``, None.

        Raises:
            ValueError: If ``color_draws`` of a branch have another shape than its boxes require.
        """
        parts = list(_parts(data))
        groups: dict[int, list[_Part]] = {}
        for part in parts:
            if part.count:
                groups.setdefault(part.side, []).append(part)
        plans = self._plan_colors(data, groups) if training and self.color is not None else {}
        numbers = _all_common_boxes(data, parts)
        numbers.update({f'color {side}': plan.numbers for side, plan in plans.items()})
        if 'images' in data:
            numbers['images'] = dict(regions=data['images']['regions'])
        if training and self.draw_ahead is not None and self.device.type != 'cpu':
            numbers['draws'] = self.draw_ahead(
                {each.branch: (each.images, each.count, each.side) for each in parts[::2]}
            )
        there = copy_together(numbers, self.device)
        crops = with_crops(data, self.device, there.get('images', {}).get('regions'))
        inputs = {name: there[name] for name in (*_branches(data), 'draws') if name in there}
        for side, group in groups.items():
            plan = plans.get(side)
            if plan is not None:
                plan = plan._replace(numbers=there[f'color {side}'])
            own = [crops[part.branch][f'{part.kind}_crops'] for part in group]
            self._add_views(inputs, group, self.cast_data(own), plan)
        for part in parts:
            if not part.count:
                shape = (part.images, 0, 3, part.side, part.side)
                inputs[part.branch][f'student_{part.kind}'] = self.mean.new_empty(shape)
        return dict(inputs=inputs, data_samples=None)

    def _plan_colors(
        self, data: CropsBatch, groups: dict[int, list[_Part]]
    ) -> dict[int, ColorPlan]:
        """Side of the crops -> what to do with their colors."""
        draws = {}
        for name, branch in _branches(data).items():
            own, shape = branch.get('color_draws'), (*branch['boxes'].shape[:3], COLOR_DRAWS)
            if own is None:
                own = torch.rand(shape)
            if own.shape != shape:
                raise ValueError(
                    f'color_draws of branch {name} must have shape {shape}, got '
                    f'{tuple(own.shape)}; without color_draws in the batch they are drawn here'
                )
            draws[name] = _by_image(own)  # (I, V, COLOR_DRAWS)
        return {
            side: plan_color(
                torch.cat([draws[part.branch][:, part.columns].flatten(0, 1) for part in group]),
                **self.color,
            )
            for side, group in groups.items()
        }

    def _add_views(
        self,
        views: dict[str, dict[str, Tensor]],
        group: list[_Part],
        crops: list[Tensor],
        plan: Optional[ColorPlan],
    ) -> None:
        """Add the views of crops of one size (B, 2, V, s, s, 3), all computed together."""
        side, counts = group[0].side, [part.images * part.count for part in group]
        pixels = crops[0].new_empty(sum(counts), 3, side, side, dtype=torch.float32)
        for part, own in zip(pixels.split(counts), crops):
            planes = own.permute(1, 0, 2, 5, 3, 4)  # (2, B, V, 3, s, s): images first
            part.view(planes.shape).copy_(planes)
        plain = None
        if plan is None or any(part.kind == 'global' for part in group):
            plain = self.normalize(pixels)
        student = plain
        if plan is not None:
            # MMEngine calls the preprocessor inside its mixed-precision context.
            with torch.autocast(pixels.device.type, enabled=False):
                student = self.normalize(apply_color(pixels.div_(255), plan).mul_(255))
        for name, whole in (('student', student), ('teacher', plain)):
            for part, own in zip(group, () if whole is None else whole.split(counts)):
                if (name, part.kind) != ('teacher', 'local'):
                    views[part.branch][f'{name}_{part.kind}'] = own.unflatten(
                        0, (part.images, part.count)
                    )

    def normalize(self, pixels: Tensor) -> Tensor:
        """Normalize pixels 0-255 (..., 3, h, w) of any dtype to floats of the same shape."""
        return (pixels.to(self.mean.dtype) - self.mean) / self.std


def _branches(data: CropsBatch) -> dict[str, Any]:
    return {name: branch for name, branch in data.items() if name != 'images'}


def _by_image(x: Tensor) -> Tensor:
    """Put images first, then positives: (B, 2, ...) -> (2B, ...)."""
    return x.transpose(0, 1).flatten(0, 1)


def _parts(data: CropsBatch) -> Iterator[_Part]:
    """Global and local crops of the first branch, of the second, and so on."""
    images = data.get('images')
    for name, branch in _branches(data).items():
        batch, pair, total = branch['boxes'].shape[:3]
        count = branch['global_crops'].shape[2] if images is None else images['num_global']
        for kind, columns in (('global', slice(0, count)), ('local', slice(count, total))):
            side = branch[f'{kind}_crops'].shape[-2] if images is None else images[f'{kind}_size']
            yield _Part(name, kind, batch * pair, columns, side)


def _all_common_boxes(data: CropsBatch, parts: list[_Part]) -> dict[str, dict[str, Tensor]]:
    """Branch -> ``common_global`` and ``common_other``, see :class:`.Views`."""
    found, branches = {}, _branches(data)
    for first, rest in zip(parts[::2], parts[1::2]):
        sizes = [first.side] * first.count + [rest.side] * rest.count
        common = common_boxes(_by_image(branches[first.branch]['boxes']), sizes, first.count)
        found[first.branch] = dict(zip(('common_global', 'common_other'), common))
    return found


def _color_options(color: dict | str) -> dict[str, Any]:
    options = {} if color == 'default' else color
    if not isinstance(options, dict) or set(options) - set(COLOR_DEFAULTS):
        raise ValueError(
            f"color must be 'default', None, or a dict of {sorted(COLOR_DEFAULTS)}, got {color!r}"
        )
    check_rules(options, COLOR_RULES, 'color.')
    return {**COLOR_DEFAULTS, **options}
