"""Version checks and mends of known breakages; imported before anything else.

The only place that knows about versions. Three breakages of the wider ecosystem are
mended here: with torch >= 2.6 MMEngine cannot resume from its own checkpoints,
``import mmpretrain.models`` dies beside transformers 5, and MMEngine's log loses lines
that hold file names which are not UTF-8.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import pickle
import warnings
from typing import Optional

#: Import name, lowest version, distributions that provide it, what to do.
REQUIREMENTS: list[tuple[str, str, tuple[str, ...], str]] = [
    ('torch', '2.1', ('torch',), 'pip install "torch>=2.1"'),
    (
        'mmengine',
        '0.10.6',
        ('mmengine', 'onedl-mmengine', 'mmengine-lite'),
        'pip install "mmengine>=0.10.6"',
    ),
    ('mmcv', '2.0.0', ('mmcv', 'mmcv-lite', 'onedl-mmcv'), 'run tools/setup_env.sh'),
    ('mmpretrain', '1.2.0', ('mmpretrain', 'onedl-mmpretrain'), 'pip install "mmpretrain>=1.2.0"'),
]


def installed_version(distributions: tuple[str, ...]) -> Optional[str]:
    """Version of the first of ``distributions`` that is installed, else None."""
    for name in distributions:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _numbers(version: str) -> tuple[int, ...]:
    parts = []
    for part in version.split('+')[0].split('.'):
        digits = ''.join(c for c in part if c.isdigit())
        if not digits:
            break
        parts.append(int(digits))
    return tuple(parts)


def check_versions() -> None:
    """Stop with one sentence for each package that is missing or too old.

    Raises:
        ImportError: With all problems and their remedies.
    """
    problems = []
    for name, lowest, distributions, remedy in REQUIREMENTS:
        found = installed_version(distributions)
        if found is None:
            problems.append(f'{name} >= {lowest} is needed and not installed: {remedy}')
        elif _numbers(found) < _numbers(lowest):
            problems.append(f'{name} >= {lowest} is needed, {found} is installed: {remedy}')
    if problems:
        raise ImportError('cotap_mm cannot start. ' + '; '.join(problems) + '.')
    if importlib.util.find_spec('pkg_resources') is None:
        warnings.warn(
            'setuptools >= 81 has no pkg_resources, which MMEngine needs for configs '
            'that inherit from another package: pip install "setuptools<81"',
            stacklevel=2,
        )


def _history_statistic(owner: type, name: str):
    """Stands in for ``getattr`` while a checkpoint is read safely.

    MMEngine's HistoryBuffer stores its four statistics as ``getattr(HistoryBuffer, name)``.
    The real ``getattr`` would let a hostile file reach anything.
    """
    from mmengine.logging.history_buffer import HistoryBuffer

    if owner is HistoryBuffer and name in ('min', 'max', 'mean', 'current'):
        return getattr(HistoryBuffer, name)
    raise pickle.UnpicklingError(f'refused to look up {name!r} of {owner!r}')


def _empty_array(kind: type, shape: tuple, code: object):
    """Stands in for NumPy's ``_reconstruct``, which would make an array of any size.

    Pickles of arrays begin with an empty one; its state, with as many bytes as it needs,
    follows.
    """
    import numpy as np

    if kind is not np.ndarray or tuple(shape) != (0,):
        raise pickle.UnpicklingError(f'refused to make an array of shape {shape!r}')
    return np.empty(0, np.int8)


def _plain_dtype(code: str, *_: object):
    """Stands in for ``numpy.dtype``: numbers only, no objects, records or texts."""
    import numpy as np

    dtype = np.dtype(code) if isinstance(code, str) and len(code) <= 3 else None
    if dtype is None or dtype.kind not in 'fiub':
        raise pickle.UnpicklingError(f'refused an array of type {str(code)[:50]!r}')
    return dtype


def safe_globals() -> list:
    """Harmless things that MMEngine's checkpoints hold besides tensors."""
    import numpy as np
    from mmengine.logging.history_buffer import HistoryBuffer

    core = importlib.import_module(
        'numpy._core.multiarray' if hasattr(np, '_core') else 'numpy.core.multiarray'
    )
    kinds = ('float64', 'float32', 'float16', 'int64', 'int32', 'bool', 'uint8')
    # Pickles name functions by the module of the numpy that wrote them.
    rebuilt = [
        (function, f'numpy.{place}.multiarray.{name}')
        for name, function in (('_reconstruct', _empty_array), ('scalar', core.scalar))
        for place in ('core', '_core')
    ]
    return [
        HistoryBuffer,
        np.ndarray,
        (_plain_dtype, 'numpy.dtype'),
        *(type(np.dtype(kind)) for kind in kinds),
        *rebuilt,
        (_history_statistic, 'builtins.getattr'),
    ]


def allow_safe_resume() -> None:
    """Let ``torch.load(weights_only=True)`` read MMEngine's own checkpoints.

    torch >= 2.6 loads safely by default and refuses HistoryBuffer and numpy scalars,
    which every MMEngine checkpoint holds. They are added to torch's list of safe
    globals; safe loading stays on.
    """
    import torch

    found = _numbers(torch.__version__)
    if found >= (2, 6):
        torch.serialization.add_safe_globals(safe_globals())


def patch_multimodal_import() -> None:
    """Keep ``import mmpretrain.models`` alive beside transformers >= 5.

    MMPretrain 1.2.0 imports its BLIP model when transformers and pycocotools are
    installed, and that file does not fit recent transformers. Its multimodal part is
    switched off when, and only when, transformers is that new.
    """
    found = installed_version(('transformers',))
    if found is None or _numbers(found) < (4, 49):
        return
    from mmpretrain.utils import dependency

    dependency.WITH_MULTIMODAL = False


def log_any_name() -> None:
    """Let MMEngine's log hold file names that are not UTF-8; their bytes are escaped.

    Its streams encode strictly, and Python's logging drops a line that they refuse.
    """
    from mmengine.logging.logger import MMFormatter

    plain = MMFormatter.format
    if getattr(plain, 'escapes', False):
        return

    def escaped(self, record) -> str:
        return plain(self, record).encode('utf-8', 'backslashreplace').decode('utf-8')

    escaped.escapes = True  # type: ignore[attr-defined]
    MMFormatter.format = escaped


check_versions()
allow_safe_resume()
log_any_name()
patch_multimodal_import()
