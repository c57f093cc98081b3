"""Accept the protocols' arguments of release 0.1, in which a data set came in four pieces."""

from __future__ import annotations

import functools
import inspect
from typing import Any, Callable, TypeVar

from cotap_mm.deprecation import warn_renamed
from cotap_mm.evaluation.data.labeled_set import (
    READING_DEFAULTS,
    LabeledSet,
    labeled_set_parameters,
)

F = TypeVar('F', bound=Callable[..., Any])
_AFTER_READING = ('device', 'faiss_index', 'seed')


def accept_separate_arguments(measure: F) -> F:
    """Decorate a protocol so that calls without a :class:`LabeledSet` still work.

    The old form is ``measure(encoder, dataset, num_classes, ..., image_size=, batch_size=)``, by
    position or keyword. It gives one ``DeprecationWarning``.
    """
    names = labeled_set_parameters(measure)
    old_signature = _old_signature(inspect.signature(measure), names)

    @functools.wraps(measure)
    def adapted(*args: Any, **kwargs: Any) -> Any:
        if any(isinstance(value, LabeledSet) for value in (*args, *kwargs.values())):
            return measure(*args, **kwargs)
        values = old_signature.bind(*args, **kwargs).arguments
        sets = ', '.join(f'LabeledSet({name}, num_classes, ...)' for name in names)
        warn_renamed(
            f'{measure.__name__}(encoder, {", ".join(names)}, num_classes, ...)',
            f'{measure.__name__}(encoder, {sets}, ...)',
        )
        num_classes = values.pop('num_classes')
        reading = {key: values.pop(key) for key in READING_DEFAULTS if key in values}
        values.update({name: LabeledSet(values[name], num_classes, **reading) for name in names})
        return measure(**values)

    return adapted  # type: ignore[return-value]


def _old_signature(signature: inspect.Signature, names: list[str]) -> inspect.Signature:
    """The signature with ``num_classes`` after the data sets, and reading options later."""
    keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = list(signature.parameters.values())
    start = 1 + len(names)
    end = next(
        (i for i, parameter in enumerate(parameters) if parameter.name in _AFTER_READING),
        len(parameters),
    )
    reading = [
        inspect.Parameter(name, keyword, default=default)
        for name, default in READING_DEFAULTS.items()
    ]
    return signature.replace(
        parameters=[
            *parameters[:start],
            inspect.Parameter('num_classes', keyword),
            *parameters[start:end],
            *reading,
            *parameters[end:],
        ]
    )
