"""Arguments of the command-line tools: a parser with helpful errors, and checked types."""

from __future__ import annotations

import argparse
import difflib
import math
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Callable, NoReturn, Optional

import torch
from mmengine.config import DictAction


class Parser(argparse.ArgumentParser):
    """argparse's parser; its errors are one sentence with the nearest valid name, status 2.

    Descriptions keep their line breaks.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault('formatter_class', argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, **kwargs)
        self._given: list[str] = []

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse; an empty argument is an error, since it would mean the current folder."""
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
        message = ' '.join(f'{message}{self._suggestion(message)}'.split())
        self.exit(2, f'{self.prog}: error: {message}; {self.prog} --help lists all arguments\n')

    def _suggestion(self, message: str) -> str:
        """The nearest option or choice, for a message of argparse."""
        options = [
            text
            for action in self._actions
            for text in action.option_strings
            if text.startswith('--')
        ]
        if 'arguments are required' in message:  # argparse tells these before those it cannot read
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
                if not action.option_strings
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
    """``' (did you mean X?)'`` for the valid name most like a wrong one, or ''."""
    known = {each.lower(): each for each in known}
    found = difflib.get_close_matches(name.lower(), known, 1, 0.6)
    return f' (did you mean {known[found[0]]}?)' if found else ''


def _nearest_option(name: str, options: Iterable[str]) -> str:
    known = {text.lstrip('-'): text for text in options}
    found = difflib.get_close_matches(name.lstrip('-').lower(), known, 1, 0.6)
    return f' (did you mean {known[found[0]]}?)' if found else ''


class KeyValues(DictAction):
    """MMEngine's ``KEY=VALUE`` action; what it cannot parse is an error of the command line."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: Optional[str] = None,
    ) -> None:
        """Add the pairs to the dictionary of the option."""
        for text in values or ():
            key, mark, value = text.partition('=')
            if not mark or not key.strip():
                raise argparse.ArgumentError(
                    self,
                    f'needs KEY=VALUE, got {text!r}; arguments '
                    'without an option go before this one',
                )
            if any(value.count(left) != value.count(right) for left, right in ('()', '[]')):
                raise argparse.ArgumentError(self, f'brackets are not balanced in {text!r}')
        super().__call__(parser, namespace, values, option_string)


def whole_number(low: int, high: Optional[int] = None) -> Callable[[str], int]:
    """Make a type for argparse: an integer within limits.

    Args:
        low (int): The smallest valid number.
        high (int, optional): The largest one; none by default.

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

    return parse


def positive_float(text: str) -> float:
    """Type for argparse: a finite number > 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise argparse.ArgumentTypeError(f'must be a number > 0, got {text!r}')
    return number


positive_int = whole_number(1)


def out_folder(text: str) -> str:
    """Type for argparse: a folder that exists or can be made, and can be written to."""
    path = Path(text)
    if _exists(path) and not path.is_dir():
        raise argparse.ArgumentTypeError(f'{text} is a file; give a folder')
    _check_writable(path)
    return text


def out_file(*suffixes: str) -> Callable[[str], str]:
    """Make a type for argparse: a file that can be written, whose name has a valid end.

    Args:
        *suffixes (str): Valid ends of the name, such as ``'.npz'``; any if there are none.

    Returns:
        callable: Text -> the same text.
    """

    def parse(text: str) -> str:
        path = Path(text)
        if _exists(path) and path.is_dir():
            raise argparse.ArgumentTypeError(f'{text} is a folder; give a file in it')
        if suffixes and path.suffix not in suffixes:
            raise argparse.ArgumentTypeError(f'must end in {" or ".join(suffixes)}, got {text!r}')
        _check_writable(path.parent)
        return text

    return parse


def out_path(text: str) -> str:
    """Type for argparse: a file or folder that can be written."""
    _check_writable(Path(text).parent)
    return text


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError) as error:  # a name that is too long, for one
        reason = getattr(error, 'strerror', None) or error
        raise argparse.ArgumentTypeError(f'{str(path)[:80]}: {reason}') from None


def _check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be made or written to; nothing is made."""
    nearest_one = next(each for each in (folder, *folder.absolute().parents) if _exists(each))
    if not nearest_one.is_dir():
        raise argparse.ArgumentTypeError(
            f'nothing can be written below the file {nearest_one}; give another folder'
        )
    if not os.access(nearest_one, os.W_OK | os.X_OK):
        raise argparse.ArgumentTypeError(f'{nearest_one} cannot be written to; give another folder')


def device(text: str) -> str:
    """Type for argparse: a device that PyTorch can use on this machine."""
    try:
        found = torch.device(text)
    except RuntimeError:
        raise argparse.ArgumentTypeError(f'must be cpu, cuda or cuda:N, got {text!r}') from None
    if found.type == 'cuda':
        number = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not number:
            raise argparse.ArgumentTypeError(f'{text} needs a GPU, and PyTorch sees none; use cpu')
        if (found.index or 0) >= number:
            raise argparse.ArgumentTypeError(
                f'{text} does not exist; there are cuda:0 to cuda:{number - 1}'
            )
        return text
    try:
        torch.zeros(1, device=found).cpu()
    except Exception:
        raise argparse.ArgumentTypeError(
            f'{text} cannot be used on this machine; use cpu or cuda'
        ) from None
    return text


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add ``--device``; a GPU by default where there is one."""
    parser.add_argument(
        '--device',
        type=device,
        metavar='DEVICE',
        default='cuda' if torch.cuda.is_available() else 'cpu',
        help='cpu, cuda or cuda:N (default: %(default)s)',
    )
