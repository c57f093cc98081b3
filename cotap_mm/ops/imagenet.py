"""Channel statistics of ImageNet, with which every network normalizes its input."""

from __future__ import annotations

#: Mean and standard deviation of red, green and blue, for pixel values in [0, 1].
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
#: The same for pixel values in [0, 255], rounded to the 3 decimals of OpenMMLab's configs.
IMAGENET_MEAN_255 = tuple(round(255 * value, 3) for value in IMAGENET_MEAN)
IMAGENET_STD_255 = tuple(round(255 * value, 3) for value in IMAGENET_STD)
