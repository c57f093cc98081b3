"""Convert uint8 crops to the views of student and teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional, Union

import torch
from mmengine.model import BaseDataPreprocessor
from torch import Tensor

from cotap_mm.ops import COLOR_DEFAULTS, COLOR_DRAWS, augment_color, common_boxes
from cotap_mm.ops.imagenet import IMAGENET_MEAN_255, IMAGENET_STD_255
from cotap_mm.registry import MODELS

from .device_crops import with_crops
from .step_batch import CropsBatch, Views


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
        ValueError: If ``color`` has an unknown option.
    """

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

    def forward(self, data: CropsBatch, training: bool = False) -> dict:
        """Convert a collated batch of :class:`NeighborPairs` to inputs of :class:`CoTAP`.

        Args:
            data (CropsBatch): Crops of both branches, see :mod:`.step_batch`.
            training (bool): Whether to augment the color of the student's crops. Defaults to
                False.

        Returns:
            dict: ``inputs`` (ViewsBatch), with images first and then positives, and
            ``data_samples``, None.
        """
        inputs = {}
        for name, branch in with_crops(data, self.device).items():
            tensors = {key: branch[key] for key in ('global_crops', 'local_crops', 'boxes')}
            draws = None
            if training and self.color is not None:
                draws = branch.get('color_draws')
                if draws is None:
                    draws = torch.rand(*branch['boxes'].shape[:3], COLOR_DRAWS)
            inputs[name] = self._views(**self.cast_data(tensors), color_draws=draws)
        return dict(inputs=inputs, data_samples=None)

    def _views(
        self,
        global_crops: Tensor,
        local_crops: Tensor,
        boxes: Tensor,
        color_draws: Optional[Tensor],
    ) -> Views:
        def by_image(x: Tensor) -> Tensor:
            """Put images first, then positives: (B, 2, ...) -> (2B, ...)."""
            return x.transpose(0, 1).flatten(0, 1)

        global_crops, local_crops = (
            by_image(x.movedim(-1, -3)) for x in (global_crops, local_crops)
        )
        num_global, num_local = global_crops.shape[1], local_crops.shape[1]
        sizes = [global_crops.shape[-1]] * num_global + [local_crops.shape[-1]] * num_local
        in_global, in_other = common_boxes(by_image(boxes), sizes, num_global)
        draws = (
            (None, None)
            if color_draws is None
            else by_image(color_draws).split([num_global, num_local], dim=1)
        )
        return Views(
            student_global=self._student_views(global_crops, draws[0]),
            student_local=self._student_views(local_crops, draws[1]),
            teacher_global=self.normalize(global_crops),
            common_global=in_global,
            common_other=in_other,
        )

    def _student_views(self, crops: Tensor, draws: Optional[Tensor]) -> Tensor:
        if draws is not None and crops.numel():
            flat = crops.flatten(0, 1).float() / 255
            # MMEngine calls the preprocessor inside its mixed-precision context.
            with torch.autocast(crops.device.type, enabled=False):
                flat = augment_color(flat, draws.flatten(0, 1), **self.color)
            crops = flat.mul_(255).view(crops.shape)
        return self.normalize(crops)

    def normalize(self, pixels: Tensor) -> Tensor:
        """Normalize pixels 0-255 (..., 3, h, w) of any dtype to floats of the same shape."""
        return (pixels.to(self.mean.dtype) - self.mean) / self.std


def _color_options(color: dict | str) -> dict[str, Any]:
    options = {} if color == 'default' else color
    if not isinstance(options, dict) or set(options) - set(COLOR_DEFAULTS):
        raise ValueError(
            f"color must be 'default', None, or a dict of {sorted(COLOR_DEFAULTS)}, got {color!r}"
        )
    return {**COLOR_DEFAULTS, **options}
