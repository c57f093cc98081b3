"""Safe reading of checkpoints with every version of PyTorch.

Before 2.6, the list of safe globals cannot be extended by all that MMEngine's checkpoints contain.
These versions read with an unpickler that has a list of its own: this module is then the
``pickle_module`` of ``torch.load``, which calls :class:`Unpickler` and :func:`load`.
"""

from __future__ import annotations

import _compat_pickle
import argparse
import codecs
import functools
import os
import pickle
import sys
from typing import Any

import torch

from .workarounds import HISTORY_STATISTICS, safe_globals, version_numbers

#: Beginnings of our messages, which those of :mod:`pickle` for a damaged file do not have.
_REFUSALS = ('Unsupported', 'refused')


def load_safely(path: str | os.PathLike, **options: Any) -> Any:
    """Read a file of tensors and plain data on the CPU; no code of the file can run.

    Args:
        path (str | PathLike): File of ``torch.save``.
        **options: Further arguments of :func:`torch.load`.

    Returns:
        object: Content of the file.

    Raises:
        Exception: Of any type, if the file is damaged; ``pickle.UnpicklingError`` if it contains
            other objects.
    """
    options['map_location'] = 'cpu'
    if version_numbers(torch.__version__) < (2, 6):
        module = sys.modules[__name__]
        try:
            return torch.load(os.fspath(path), pickle_module=module, weights_only=False, **options)
        except pickle.UnpicklingError as error:
            if str(error).startswith(_REFUSALS):
                raise
            raise ValueError(f'the file is damaged: {error}') from error
    # DINO, iBOT and MAE store their command line.
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, weights_only=True, **options)


def _encode(text: str, encoding: str) -> bytes:
    """Encode the bytes of an array, which a pickle may store as text."""
    if encoding not in ('latin1', 'latin-1'):
        raise pickle.UnpicklingError(f'refused to encode as {str(encoding)[:50]!r}')
    return codecs.encode(text, encoding)


@functools.cache
def _allowed() -> dict[str, Any]:
    """Return what a file may refer to, by its full name."""
    from mmengine.logging.history_buffer import HistoryBuffer
    from torch._weights_only_unpickler import _get_allowed_globals

    named = (
        each if isinstance(each, tuple) else (each, f'{each.__module__}.{each.__qualname__}')
        for each in (*safe_globals(), argparse.Namespace)
    )
    return {
        **_get_allowed_globals(),
        '_codecs.encode': _encode,
        # Statistics that a history stores, by their name in protocol 4.
        **{
            f'{HistoryBuffer.__module__}.HistoryBuffer.{name}': getattr(HistoryBuffer, name)
            for name in HISTORY_STATISTICS
        },
        **{name: found for found, name in named},
    }


class Unpickler(pickle.Unpickler):
    """Unpickler that knows only tensors, plain data and the history of MMEngine's log."""

    def find_class(self, module: str, name: str) -> Any:
        """Look up a global.

        Raises:
            pickle.UnpicklingError: If it is not one of those that are safe.
        """
        # Protocol 2 has the names of Python 2.
        module, name = _compat_pickle.NAME_MAPPING.get(
            (module, name), (_compat_pickle.IMPORT_MAPPING.get(module, module), name)
        )
        full_name = f'{module}.{name}'
        if full_name not in _allowed():
            raise pickle.UnpicklingError(f'Unsupported global: {full_name[:200]}')
        return _allowed()[full_name]


def load(file: Any, **options: Any) -> Any:
    """As :func:`pickle.load`, which PyTorch calls for files in its format of before 1.6."""
    return Unpickler(file, **options).load()
