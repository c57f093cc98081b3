"""Labeled images together with the way to read them: the input of the protocols."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any, Callable, Optional, get_type_hints

from cotap_mm.encoders.images import Size


@dataclasses.dataclass(frozen=True)
class LabeledSet:
    """A labeled data set, its number of classes, and how its images are read.

    Args:
        dataset: Data set of ``dict(image=uint8 (3, H, W), label=...)``. A label is a map of class
            indices (H, W) in which 255 is ignored, or one class index for classification.
        num_classes (int): Number of classes.
        image_size (int | tuple, optional): Resize all images to this square, or to (height,
            width), in pixels. Defaults to None (keep the original size).
        batch_size (int): Images encoded at a time. Defaults to 16.

    Raises:
        ValueError: If ``num_classes`` or ``batch_size`` is not positive.
    """

    dataset: Any
    num_classes: int
    image_size: Optional[Size] = None
    batch_size: int = 16

    def __post_init__(self) -> None:
        if (
            isinstance(self.num_classes, bool)
            or not isinstance(self.num_classes, int)
            or self.num_classes < 1
        ):
            raise ValueError(f'num_classes must be a positive integer, got {self.num_classes!r}')
        if self.batch_size < 1:
            raise ValueError(f'batch_size must be positive, got {self.batch_size}')

    def __len__(self) -> int:
        return len(self.dataset)

    def with_dataset(self, dataset: Any) -> LabeledSet:
        """Return a copy that reads another data set in the same way."""
        return dataclasses.replace(self, dataset=dataset)


#: Fields of a :class:`LabeledSet` that users set like the options of a protocol, with defaults.
READING_DEFAULTS = {
    field.name: field.default
    for field in dataclasses.fields(LabeledSet)
    if field.default is not dataclasses.MISSING
}


def labeled_set_parameters(measure: Callable[..., Any]) -> list[str]:
    """Names of a function's parameters that are annotated as :class:`LabeledSet`."""
    hints = get_type_hints(measure)
    return [name for name in inspect.signature(measure).parameters if hints.get(name) is LabeledSet]
