"""Keep old names working for one release, with a warning that gives the new name."""

from __future__ import annotations

import argparse
import functools
import warnings
from typing import TYPE_CHECKING, Any, Callable

if TYPE_CHECKING:  # tools import this module before they parse their command line
    from mmengine.registry import Registry

#: The release that no longer accepts the old names.
REMOVED_IN = '0.3'
# By default Python hides a DeprecationWarning from users of a command.
warnings.filterwarnings('default', message='.* is deprecated, use ', category=DeprecationWarning)


def warn_renamed(old: str, new: str, stacklevel: int = 3) -> None:
    """Warn that a name is deprecated.

    Args:
        old (str): Old name, as the user typed it.
        new (str): New name.
        stacklevel (int): See :func:`warnings.warn`. Defaults to 3, the caller's caller.
    """
    warnings.warn(
        f'{old} is deprecated, use {new}; cotap_mm {REMOVED_IN} will not accept the old name',
        DeprecationWarning,
        stacklevel,
    )


def register_renamed(registry: Registry, old: str, new: type) -> None:
    """Let configs build a class by its old name.

    Args:
        registry (Registry): Registry of both names.
        old (str): Old name.
        new (type): Class with the new name.
    """

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        warn_renamed(f"type='{old}'", f"type='{new.__name__}'")
        new.__init__(self, *args, **kwargs)

    __init__.__wrapped__ = new.__init__  # type: ignore[attr-defined]
    registry.register_module(
        name=old, module=type(old, (new,), {'__init__': __init__, '__module__': new.__module__})
    )


def renamed_argument(old: str, new: str) -> Callable[[Callable], Callable]:
    """Make a decorator that accepts a keyword argument by its old name.

    Args:
        old (str): The old name.
        new (str): The name that the function knows.

    Returns:
        Callable: Decorator of a function or method.
    """

    def decorate(function: Callable) -> Callable:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if old in kwargs:
                if new in kwargs:
                    raise TypeError(f'{new} is given twice, as {new}= and as {old}=')
                warn_renamed(f'{old}=', f'{new}=')
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return wrapper

    return decorate


class OldPositional(argparse.Action):
    """Positional argument that is an option now: ``add_argument(dest, ..., new='--new')``.

    Args:
        *args: Arguments of :class:`argparse.Action`.
        new (str): The option.
        **kwargs: Arguments of :class:`argparse.Action`.
    """

    def __init__(self, *args: Any, new: str, **kwargs: Any) -> None:
        self.new = new
        kwargs.update(nargs='?', default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        super().__init__(*args, **kwargs)

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Store the value under the name of the option."""
        if isinstance(values, str) and values != argparse.SUPPRESS:
            warn_renamed(f'{values} without an option', f'{self.new} {values}')
            setattr(namespace, self.new.lstrip('-').replace('-', '_'), values)


class RenamedOption(argparse.Action):
    """Old name of an option: ``add_argument('--old', action=RenamedOption, new='--new')``.

    Args:
        *args: Arguments of :class:`argparse.Action`.
        new (str): New name of the option.
        value (object, optional): Value that the old option, a flag, stands for. Defaults to
            None: the option takes a value.
        **kwargs: Arguments of :class:`argparse.Action`.
    """

    def __init__(self, *args: Any, new: str, value: Any = None, **kwargs: Any) -> None:
        self.new, self.value = new, value
        if value is not None:
            kwargs['nargs'] = 0
        kwargs.update(
            dest=new.lstrip('-').replace('-', '_'),
            default=argparse.SUPPRESS,
            help=argparse.SUPPRESS,
        )
        super().__init__(*args, **kwargs)

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Store the value under the new name."""
        warn_renamed(str(option_string), self.new)
        setattr(namespace, self.dest, values if self.value is None else self.value)
