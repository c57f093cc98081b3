"""Argument parser with helpful errors, and argument types that are checked.

Importing this module takes no PyTorch and no MMEngine: values that need them are converted last.
"""

from __future__ import annotations

import argparse
import difflib
import functools
import math
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Callable, NoReturn, Optional

from .dict_values import is_dict, parse_dict
from .help import HelpFormatter
from .tool import slow_imports


class Parser(argparse.ArgumentParser):
    """ArgumentParser whose errors are one sentence with the nearest valid name, status 2.

    Descriptions keep their line breaks, and every option shows its default, see
    :class:`.HelpFormatter`.

    Args:
        *args: Arguments of :class:`argparse.ArgumentParser`.
        **kwargs: Arguments of :class:`argparse.ArgumentParser`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault('formatter_class', HelpFormatter)
        super().__init__(*args, **kwargs)
        self._given: list[str] = []
        #: Options without which :meth:`parse_args` fails, even if argparse does not require them.
        self.needed: list[str] = []

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse the arguments; values that need slow imports are converted last."""
        parsed = super().parse_args(args, namespace)
        for option in self.needed:
            if getattr(parsed, option.lstrip('-').replace('-', '_')) is None:
                self.error(f'the following arguments are required: {option}')
        with slow_imports():
            for name, value in list(vars(parsed).items()):
                if isinstance(value, _LateValue):
                    setattr(parsed, name, value.convert())
        return parsed

    def defaults(self, **given: Any) -> argparse.Namespace:
        """Return what an empty command line means, for functions of Python with the same options.

        Args:
            **given: Values that differ, by the names of the parsed arguments; not checked here.

        Returns:
            argparse.Namespace: A value for every argument; required ones that are not in
            ``given`` are None.

        Raises:
            TypeError: If an argument of ``given`` does not exist.
        """
        values = {
            action.dest: action.default
            for action in self._actions
            if action.default is not argparse.SUPPRESS
        }
        unknown = sorted(set(given) - set(values))
        if unknown:
            raise TypeError(f'{self.prog} has no argument {", ".join(unknown)}')
        for name, value in values.items():
            if isinstance(value, _LateValue) and name not in given:
                values[name] = value.convert()
        return argparse.Namespace(**{**values, **given})

    def flags(self) -> list[str]:
        """Return the options that take no value, such as ``--resume``."""
        return [
            text
            for action in self._actions
            for text in action.option_strings
            if action.nargs == 0 and text.startswith('--')
        ]

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse the arguments, and reject an empty one: as a path it is the current folder."""
        args = self._given = list(sys.argv[1:] if args is None else args)
        if '' in args:
            index = args.index('')
            self.error(
                f'argument {index + 1}{f", after {args[index - 1]!r}," if index else ""} is '
                'empty; is a shell variable unset?'
            )
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Print one sentence and exit with status 2."""
        first = self._given[0] if self._given else '-'
        if 'arguments are required' in message and first.startswith('-'):
            message = ', '.join([message, *(o for o in self.needed if o not in self._given)])
        message = ' '.join(f'{message}{self._suggestion(message)}'.split())
        self.exit(2, f'{self.prog}: error: {message}; {self.prog} --help lists all arguments\n')

    def _suggestion(self, message: str) -> str:
        """Suggest the nearest option or choice for an error message of argparse."""
        options = [
            text
            for action in self._actions
            for text in action.option_strings
            if text.startswith('--')
        ]
        if 'arguments are required' in message:  # argparse reports these before unknown options
            given = [text.split('=')[0] for text in self._given if text.startswith('--')]
            unknown = [
                text for text in given if not any(option.startswith(text) for option in options)
            ]
            return (
                f'; {unknown[0]} is unknown{_nearest_option(unknown[0], options)}'
                if unknown
                else ''
            )
        unknown = re.search(r'unrecognized arguments: (.*)', message)
        if unknown:
            first = unknown[1].split()[0].split('=')[0]
            if first.startswith('-'):
                return _nearest_option(first, options)
            names = ' '.join(
                str(action.metavar or action.dest)
                for action in self._actions
                if not action.option_strings and action.help is not argparse.SUPPRESS
            )
            return f'; without an option this tool takes {names or "nothing"}'
        choice = re.search(r"argument (\S+): invalid choice: '(.*?)' \(", message)
        if choice:
            names = choice[1].split('/')
            known = next(
                (
                    action.choices
                    for action in self._actions
                    if action.choices
                    and ({*action.option_strings, action.dest, action.metavar} & set(names))
                ),
                (),
            )
            return nearest(choice[2], map(str, known))
        return ''


def nearest(name: str, known: Iterable[str]) -> str:
    """Suggest the valid name that is most similar to a wrong one.

    Args:
        name (str): Wrong name.
        known (iterable[str]): Valid names.

    Returns:
        str: ``' (did you mean X?)'``; '' if no name is similar.
    """
    by_lower = {valid.lower(): valid for valid in known}
    matches = difflib.get_close_matches(name.lower(), by_lower, 1, 0.6)
    return f' (did you mean {by_lower[matches[0]]}?)' if matches else ''


def _nearest_option(name: str, options: Iterable[str]) -> str:
    known = {text.lstrip('-'): text for text in options}
    matches = difflib.get_close_matches(name.lstrip('-').lower(), known, 1, 0.6)
    return f' (did you mean {known[matches[0]]}?)' if matches else ''


class _LateValue:
    """Value whose conversion imports packages that take seconds.

    :meth:`Parser.parse_args` converts it when the rest of the command line is valid.

    Args:
        parser (ArgumentParser): Parser that reports an invalid value.
        name (str): Name of the argument in that report.
        convert (callable): Returns the value, or raises ArgumentTypeError.
    """

    def __init__(
        self, parser: argparse.ArgumentParser, name: str, convert: Callable[[], Any]
    ) -> None:
        self._parser, self._name, self._convert = parser, name, convert

    def convert(self) -> Any:
        """Convert the value, or exit with status 2."""
        try:
            return self._convert()
        except argparse.ArgumentTypeError as error:
            self._parser.error(f'argument {self._name}: {error}')


class KeyValues(argparse.Action):
    """MMEngine's ``KEY=VALUE`` action, which reports unparsable values as command-line errors.

    Values may also be dicts, see :func:`.parse_dict`.
    """

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: Optional[str] = None,
    ) -> None:
        """Add the pairs to the dict of the option."""
        for text in values or ():
            key, mark, value = text.partition('=')
            if not mark or not key.strip():
                raise argparse.ArgumentError(
                    self,
                    f'must be KEY=VALUE, got {text!r}; put positional arguments before this option',
                )
            if any(value.count(left) != value.count(right) for left, right in ('()', '[]')):
                raise argparse.ArgumentError(self, f'unbalanced brackets in {text!r}')
        before = getattr(namespace, self.dest, None)
        convert = functools.partial(self._convert, parser, before, values, option_string)
        setattr(namespace, self.dest, _LateValue(parser, '/'.join(self.option_strings), convert))

    def _convert(
        self,
        parser: argparse.ArgumentParser,
        before: Any,
        values: Any,
        option_string: Optional[str],
    ) -> dict[str, Any]:
        """Add the pairs to a dict, or to the late value of the same option."""
        from mmengine.config import DictAction

        if isinstance(before, _LateValue):
            before = before.convert()
        namespace = argparse.Namespace(**{self.dest: before})
        action = DictAction(self.option_strings, self.dest, nargs=self.nargs)
        for text in values or ():  # in this order, since a later value replaces an earlier one
            key, _, value = text.partition('=')
            if not is_dict(value):
                action(parser, namespace, [text], option_string)
                continue
            try:
                parsed = parse_dict(value)
            except ValueError as error:
                raise argparse.ArgumentTypeError(f'{key}: {error}') from None
            setattr(namespace, self.dest, {**(getattr(namespace, self.dest) or {}), key: parsed})
        return getattr(namespace, self.dest)


def whole_number(low: int, high: Optional[int] = None) -> Callable[[str], int]:
    """Create an argparse type: an integer within limits.

    Args:
        low (int): Minimum.
        high (int, optional): Maximum. Defaults to None, no maximum.

    Returns:
        callable: Text -> int.
    """
    wanted = f'a whole number >= {low}' if high is None else f'a whole number in [{low}, {high}]'

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = None
        if number is None or number < low or (high is not None and number > high):
            raise argparse.ArgumentTypeError(f'must be {wanted}, got {text!r}')
        return number

    return named('N', parse)


def named(metavar: str, parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Give an argparse type the name that the help shows for its value."""
    parse.metavar = metavar  # type: ignore[attr-defined]
    return parse


def positive_float(text: str) -> float:
    """Argparse type: a finite number > 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise argparse.ArgumentTypeError(f'must be a number > 0, got {text!r}')
    return number


positive_int = whole_number(1)
named('NUMBER', positive_float)


def size_in_bytes(text: str) -> int:
    """Argparse type: a size such as ``256MB`` or ``1GB``, in bytes."""
    match = re.fullmatch(r'(\d+(?:\.\d+)?) ?([KMGT]?)B?', text.strip().upper())
    size = int(float(match[1]) * 1000 ** ' KMGT'.index(match[2] or ' ')) if match else 0
    if size < 1:
        raise argparse.ArgumentTypeError(
            f'must be a positive size such as 256MB or 1GB, got {text!r}'
        )
    return size


def out_folder(text: str) -> str:
    """Argparse type: a writable folder, which need not exist yet."""
    path = Path(text)
    if _exists(path) and not path.is_dir():
        raise argparse.ArgumentTypeError(f'{text} is a file; choose a folder')
    _check_writable(path)
    return text


def out_file(*suffixes: str) -> Callable[[str], str]:
    """Create an argparse type: a writable file with a valid suffix.

    Args:
        *suffixes (str): Valid suffixes, such as ``'.npz'``. Defaults to any suffix.

    Returns:
        callable: Text -> the same text.
    """

    def parse(text: str) -> str:
        path = Path(text)
        if _exists(path) and path.is_dir():
            raise argparse.ArgumentTypeError(f'{text} is a folder; choose a file in it')
        if suffixes and path.suffix not in suffixes:
            raise argparse.ArgumentTypeError(f'must end in {" or ".join(suffixes)}, got {text!r}')
        _check_writable(path.parent)
        return text

    return named('FILE', parse)


named('DIR', out_folder)


def out_path(text: str) -> str:
    """Argparse type: a writable file or folder."""
    _check_writable(Path(text).parent)
    return text


named('PATH', out_path)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError) as error:  # e.g. a name that is too long
        reason = getattr(error, 'strerror', None) or error
        raise argparse.ArgumentTypeError(f'{str(path)[:80]}: {reason}') from None


def _check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be created or written to; nothing is created."""
    existing = next(path for path in (folder, *folder.absolute().parents) if _exists(path))
    if not existing.is_dir():
        raise argparse.ArgumentTypeError(f'{existing} is a file; choose another folder')
    if not os.access(existing, os.W_OK | os.X_OK):
        raise argparse.ArgumentTypeError(f'{existing} is not writable; choose another folder')


def device(text: str) -> str:
    """Argparse type: a device that PyTorch can use on this machine.

    Importing PyTorch takes seconds; see :func:`add_device`.
    """
    import torch

    try:
        parsed = torch.device(text)
    except RuntimeError:
        raise argparse.ArgumentTypeError(f'must be cpu, cuda or cuda:N, got {text!r}') from None
    if parsed.type == 'cuda':
        number = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not number:
            raise argparse.ArgumentTypeError(f'{text} needs a GPU, but PyTorch finds none; use cpu')
        if (parsed.index or 0) >= number:
            raise argparse.ArgumentTypeError(
                f'{text} does not exist; use cuda:0 to cuda:{number - 1}'
            )
        return text
    try:
        torch.zeros(1, device=parsed).cpu()
    except Exception:
        raise argparse.ArgumentTypeError(
            f'{text} cannot be used on this machine; use cpu or cuda'
        ) from None
    return text


def _default_device() -> str:
    import torch

    return 'cuda' if torch.cuda.is_available() else 'cpu'


class _DeviceAction(argparse.Action):
    """Store a :func:`device`, which is checked last."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: Optional[str] = None,
    ) -> None:
        convert = functools.partial(device, values)
        setattr(namespace, self.dest, _LateValue(parser, '/'.join(self.option_strings), convert))


def add_device(parser: Parser) -> None:
    """Add ``--device``; the default is a GPU if there is one."""
    parser.add_argument(
        '--device',
        action=_DeviceAction,
        metavar='DEVICE',
        default=_LateValue(parser, '--device', _default_device),
        help='cpu, cuda or cuda:N (default: cuda if PyTorch finds a GPU, else cpu)',
    )
