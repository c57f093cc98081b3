"""Raise the errors of a command as exceptions whose messages name arguments of Python."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Callable, Optional

from cotap_mm import signals
from cotap_mm.command_line.arguments import Parser
from cotap_mm.command_line.tool import describe_error
from cotap_mm.errors import UserError


@contextmanager
def raised_in_python(parser: Parser, renamed: Optional[Mapping[str, str]] = None) -> Iterator[None]:
    """Raise exceptions where a command would exit, and translate options in their messages.

    Ctrl-C, or interrupting the kernel of a notebook, is a KeyboardInterrupt whose message says
    how to continue. A signal of a scheduler remains a SystemExit with status 75, so that a
    script ends as ``cotap train`` does.

    Args:
        parser (Parser): Parser of the command, whose options are translated.
        renamed (Mapping[str, str], optional): Option without dashes -> its argument, if they
            differ.

    Raises:
        UserError, OSError, ValueError, ImportError: For what the user can act on.
        KeyboardInterrupt: After Ctrl-C.
    """

    def translate(text: str) -> str:
        return in_words_of_python(text, parser, renamed or {})

    try:
        yield
    except KeyboardInterrupt as interrupt:
        text = translate('; '.join(map(str, interrupt.args)))
        raise KeyboardInterrupt(f'interrupted; {text}' if text else 'interrupted') from None
    except SystemExit as stop:
        if stop.code == signals.INTERRUPTED:
            raise KeyboardInterrupt(translate(str(stop))) from None
        error = stop.__cause__  # of one that reports an error
        if not isinstance(error, Exception):
            raise
        if not isinstance(error, (UserError, OSError, ValueError, ImportError)):
            error = UserError(describe_error(error))
        _translate_error(error, translate)
        raise error from error.__cause__
    except Exception as error:
        _translate_error(error, translate)
        raise


def in_words_of_python(text: str, parser: Parser, renamed: Mapping[str, str]) -> str:
    """Replace options of a command by arguments: ``--work-dir DIR`` by ``out=DIR``.

    A value that is one of the choices of an option is quoted: ``--log none`` is ``log='none'``.

    Args:
        text (str): Message of a command.
        parser (Parser): Parser of the command.
        renamed (Mapping[str, str]): Option without dashes -> its argument, if they differ.

    Returns:
        str: The message; unknown options are unchanged.
    """
    flags = parser.flags()
    choices = {
        text: list(action.choices or ())
        for action in parser._actions
        for text in action.option_strings
    }

    def replace(match: re.Match) -> str:
        option, value, rest = match[1], match[2] or '', ''
        if option not in choices:
            return match[0]
        if value in choices[option]:
            value = repr(value)
        elif value and not value.isupper():
            value, rest = '', f' {value}'
        name = renamed.get(option[2:], option[2:].replace('-', '_'))
        if option in flags:
            return f'{name}=True{f" {value}" if value else ""}{rest}'
        return f'{name}={value or "..."}{rest}'

    for option in ('cfg-options', 'set'):  # KEY=VALUE
        name = renamed.get(option, option)
        text = re.sub(rf"--{option} ([\w.]+)=([^\s,;']+)", rf"{name}={{'\1': \2}}", text)
        text = re.sub(rf'--{option} ([\w.]+):', rf"{name}['\1']:", text)
    return re.sub(r'(?<![\w-])(--[a-z][a-z-]*)\b(?: ([A-Z]+|[a-z]+)\b)?', replace, text)


def _translate_error(error: Exception, translate: Callable[[str], str]) -> None:
    if len(error.args) == 1 and isinstance(error.args[0], str):
        error.args = (translate(error.args[0]),)
