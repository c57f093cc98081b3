"""Read images in pipelines of MMSegmentation, MMDetection and MMPretrain with our decoder."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np

from cotap_mm.datasets.sources.decoding import (
    BadImage,
    decode_image,
    image_header,
    read_image_bytes,
    sample_image,
)
from cotap_mm.datasets.sources.value_range import Option, check_option, find_range
from cotap_mm.registry import TRANSFORMS
from cotap_mm.rules import FLAG, check_arguments


@TRANSFORMS.register_module()
class LoadImage:
    """Replacement for ``LoadImageFromFile`` that keeps the contrast of values above 8 bits.

    MMCV's transform shifts 16-bit integers to 8 bits, so that 12-bit images are black, and fails
    on floats. This transform scales them linearly; limits and formats are those of
    :func:`cotap_mm.datasets.read_image`::

        train_pipeline = [dict(type='cotap_mm.LoadImage', value_range=(0, 4095)), ...]

    A transform sees one file at a time and cannot know the range of the data set. With
    ``'auto'``, ``cotap train`` derives it from the training images and stores the numbers in
    the config; without numbers only images with 8 bits are read.

    Args:
        value_range: (low, high), the values that become 0 and 255; three such pairs for red,
            green and blue; None for the full range of the type; or ``'auto'``. Images with 8
            bits are not changed. Defaults to ``'auto'``.
        to_float32 (bool): Convert ``img`` to float32, still 0 to 255. Defaults to False.
        ignore_empty (bool): Skip an image that cannot be read, as MMCV does. Defaults to False.
        backend_args (dict, optional): Only the local backend is supported. Defaults to None.

    Raises:
        ValueError: If ``value_range`` has the wrong form, or files are not on a local disk.
    """

    @check_arguments(to_float32=FLAG, ignore_empty=FLAG)
    def __init__(
        self,
        value_range: Option = 'auto',
        to_float32: bool = False,
        ignore_empty: bool = False,
        backend_args: Optional[dict[str, Any]] = None,
    ) -> None:
        if backend_args and backend_args.get('backend', 'local') != 'local':
            raise ValueError(
                'cotap_mm.LoadImage reads from a local disk, got backend_args='
                f'{backend_args}; copy or mount the images'
            )
        self.value_range = check_option(value_range)
        self.to_float32, self.ignore_empty = to_float32, ignore_empty

    def __call__(self, results: dict[str, Any]) -> Optional[dict[str, Any]]:
        """Read ``results['img_path']``.

        Args:
            results (dict): Receives ``img``, BGR, uint8, shape (H, W, 3), and ``img_shape`` and
                ``ori_shape``, (H, W).

        Returns:
            dict: ``results``; None for an unreadable image with ``ignore_empty``.

        Raises:
            BadImage: If the image cannot be read.
            ValueError: If the image has more than 8 bits and ``value_range`` is ``'auto'``.
        """
        path = results['img_path']
        try:
            data = read_image_bytes(path)
            pixels = decode_image(data, None, path, self._range_for(data, path))
        except BadImage:
            if self.ignore_empty:
                return None
            raise
        image = np.ascontiguousarray(pixels[..., ::-1])  # RGB -> BGR
        results['img'] = image.astype(np.float32) if self.to_float32 else image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results

    def _range_for(self, data: bytes, path: str) -> Option:
        if not isinstance(self.value_range, str):
            return self.value_range
        try:
            values = sample_image(data) if image_header(data).is_deep else None
        except Exception:  # damaged, which the decoder reports
            values = None
        if values is None:
            return self.value_range
        raise ValueError(
            f'{path} has more than 8 bits (values {find_range([values])}), so cotap_mm.LoadImage '
            'needs value_range=(low, high), the same numbers for all training and test images; '
            'cotap train derives them from the training images, logs them, and stores them in '
            'the config in its work folder'
        )

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(value_range={self.value_range!r}, to_float32='
            f'{self.to_float32}, ignore_empty={self.ignore_empty})'
        )
