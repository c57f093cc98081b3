"""Help texts in which every option shows what it takes, and its default."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

#: Type of an option -> what the help shows in place of its value.
_KINDS = {int: 'N', float: 'NUMBER'}


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Formatter that appends the default of an option, or that it is required.

    A help text that mentions the default itself is unchanged, and so is that of a flag. The name
    of a value is ``metavar`` of the option, else ``metavar`` of its type.
    """

    def _get_help_string(self, action: argparse.Action) -> str:
        return complete_help(action)

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        kind = getattr(action.type, 'metavar', None) or _KINDS.get(action.type)  # type: ignore[call-overload]
        return kind or super()._get_default_metavar_for_optional(action)


def complete_help(action: argparse.Action) -> str:
    """Help of an option with its default.

    Args:
        action (Action): Option or positional argument.

    Returns:
        str: With a placeholder of argparse for the default.
    """
    text = action.help or ''
    is_value = bool(action.option_strings) and action.nargs != 0
    if not is_value or 'default' in text or '(required)' in text:
        return text
    if action.required:
        return f'{text} (required)'.lstrip()
    if action.default is argparse.SUPPRESS:
        return text
    shown = shown_default(action.default).replace('%', '%%')
    return f'{text} (default: {shown})'.lstrip()


def shown_default(value: Any) -> str:
    """Text of a default as a user would type it; 'none' if the option is not set."""
    if value is None or (isinstance(value, (list, tuple, dict)) and not value):
        return 'none'
    if isinstance(value, Iterable) and not isinstance(value, str):
        return ' '.join(map(str, value))
    return f'{value:g}' if isinstance(value, float) else str(value)
