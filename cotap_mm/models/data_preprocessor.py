"""From uint8 crops to the views of student and teacher."""
from typing import Dict, Optional, Sequence

import torch
from mmengine.model import BaseDataPreprocessor
from torch import Tensor, nn

from cotap_mm.ops import common_boxes
from cotap_mm.registry import MODELS

_COLOR = dict(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, jitter_prob=0.8,
              gray_prob=0.2, blur_prob=0.5, blur_sigma=(0.1, 2.0))


@MODELS.register_module()
class CoTAPDataPreprocessor(BaseDataPreprocessor):
    """Colour for the student, none for the teacher, normalisation for both.

    Runs on the device, in float32 also under mixed precision. Each crop of each image
    gets its own draw of every strength (the released implementation draws once per crop
    index and step); the order of brightness, contrast, saturation and hue is drawn once
    a call.

    Source: CoTAP, https://arxiv.org/abs/2509.09429; the operations are kornia's. Its
    ``ColorJitter`` is torchvision's; its ``ColorJiggle`` adds brightness instead.

    Args:
        mean (Sequence[float]): Of the three channels, in pixel values 0-255.
            Defaults to ImageNet's.
        std (Sequence[float]): Likewise.
        color (dict | str, optional): ``'default'`` is the method's. A dict changes some
            of its options: ``brightness``, ``contrast``, ``saturation``, ``hue``,
            ``jitter_prob``, ``gray_prob``, ``blur_prob``, ``blur_sigma`` (pixels).
            None switches colour off.

    Raises:
        ValueError: If ``color`` has an unknown option.
    """

    def __init__(self, mean: Sequence[float] = (123.675, 116.28, 103.53),
                 std: Sequence[float] = (58.395, 57.12, 57.375),
                 color: 'Optional[dict | str]' = 'default') -> None:
        super().__init__()
        self.register_buffer('mean', torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(std).view(3, 1, 1), persistent=False)
        self.color = None if color is None else _color_augmentation(color)

    def forward(self, data: Dict[str, dict], training: bool = False) -> dict:
        """A collated batch of :class:`NeighborPairs` -> inputs of :class:`CoTAP`.

        Args:
            data (dict): For ``patch`` and ``cls``: ``global_crops`` (B, 2, 2, G, G, 3) and
                ``local_crops`` (B, 2, L, S, S, 3), uint8, axis 1 being image and
                positive, and ``boxes`` (B, 2, 2 + L, 4) in source pixels.
            training (bool): Colour only if True.

        Returns:
            dict: ``inputs`` with, for each branch, ``student_global`` and
            ``teacher_global`` (2B, 2, 3, G, G), ``student_local`` (2B, L, 3, S, S) and the
            boxes of :func:`cotap_mm.ops.common_boxes`; images first, then positives.
        """
        inputs = {}
        for name, branch in data.items():
            tensors = {key: branch[key] for key in ('global_crops', 'local_crops', 'boxes')}
            inputs[name] = self._views(**self.cast_data(tensors), training=training)
        return dict(inputs=inputs, data_samples=None)

    def _views(self, global_crops: Tensor, local_crops: Tensor, boxes: Tensor,
               training: bool) -> Dict[str, Tensor]:
        global_crops, local_crops = (x.movedim(-1, -3) for x in (global_crops, local_crops))
        global_crops, local_crops, boxes = (x.transpose(0, 1).flatten(0, 1)  # images, positives
                                            for x in (global_crops, local_crops, boxes))
        num_global = global_crops.shape[1]
        sizes = [global_crops.shape[-1]] * num_global + [local_crops.shape[-1]
                                                         ] * local_crops.shape[1]
        in_global, in_other = common_boxes(boxes, sizes, num_global)
        return dict(
            student_global=self._student(global_crops, training),
            student_local=self._student(local_crops, training),
            teacher_global=self.normalize(global_crops),
            common_global=in_global, common_other=in_other)

    def _student(self, crops: Tensor, training: bool) -> Tensor:
        if self.color is not None and training and crops.numel():
            flat = crops.flatten(0, 1).float() / 255
            # MMEngine calls this inside its mixed-precision context.
            with torch.autocast(crops.device.type, enabled=False):
                crops = self.color(flat).mul(255).view(crops.shape)
        return self.normalize(crops)

    def normalize(self, pixels: Tensor) -> Tensor:
        """Pixels 0-255 (..., 3, h, w), any dtype -> normalised floats of the same shape."""
        return (pixels.to(self.mean.dtype) - self.mean) / self.std


def _color_augmentation(color: 'dict | str') -> nn.Module:
    options = {} if color == 'default' else color
    if not isinstance(options, dict) or set(options) - set(_COLOR):
        raise ValueError(f"color must be 'default', None, or a dict of {sorted(_COLOR)}, "
                         f'got {color!r}')
    from kornia import augmentation as K  # slow to import, and not needed downstream
    o = {**_COLOR, **options}
    return nn.Sequential(
        K.ColorJitter(o['brightness'], o['contrast'], o['saturation'], o['hue'],
                      p=o['jitter_prob']),
        K.RandomGrayscale(p=o['gray_prob']),
        K.RandomGaussianBlur((7, 7), tuple(o['blur_sigma']), p=o['blur_prob']))
