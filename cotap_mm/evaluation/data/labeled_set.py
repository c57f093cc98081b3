"""Labeled images together with the way to read them: the input of the protocols."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any, Callable, Optional, get_type_hints

from cotap_mm.encoders.images import Size
from cotap_mm.rules import SIDES, check_rules, or_one_of, whole

_RULES = dict(num_classes=whole(1), image_size=or_one_of(SIDES, None), batch_size=whole(1))


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
        ValueError: If a number or a size is not a positive integer.
    """

    dataset: Any
    num_classes: int
    image_size: Optional[Size] = None
    batch_size: int = 16

    def __post_init__(self) -> None:
        check_rules(vars(self), _RULES)

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
