"""Check versions and work around known incompatibilities; imported before anything else.

It works around these problems: with torch >= 2.6 MMEngine cannot resume from its own checkpoints,
``import mmpretrain.models`` fails with transformers 5, MMEngine's log drops lines with file names
that are not UTF-8, and without MMCV's compiled operators MMSegmentation and MMDetection cannot be
imported. It also avoids imports that take seconds: MMEngine's of transformers, for one optimizer,
and MMPretrain's of MMDetection, for one layer.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import os
import pickle
import sys
import warnings
from types import ModuleType
from typing import Any, Optional

from .import_hooks import after_import, hide_from, run_after
from .mmcv_ops import finder

#: Import name, minimum version, distributions that provide it, remedy.
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
    """Version of the first installed distribution; None if none is installed."""
    for name in distributions:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def version_numbers(version: str) -> tuple[int, ...]:
    """Numbers of a version, e.g. (2, 11, 0) of '2.11.0+cpu'."""
    parts = []
    for part in version.split('+')[0].split('.'):
        digits = ''.join(c for c in part if c.isdigit())
        if not digits:
            break
        parts.append(int(digits))
    return tuple(parts)


def is_command() -> bool:
    """Whether this process is ``cotap`` or ``python -m cotap_mm``.

    It checks the versions itself, since ``cotap doctor`` has to work with any of them.
    """
    program = os.path.basename((getattr(sys, 'argv', None) or [''])[0])
    return program in ('cotap', 'cotap.exe', '-m')  # '-m' while Python looks for the module


def check_versions() -> None:
    """Raise an error if a package is missing or too old.

    Raises:
        ImportError: One sentence with all problems and their remedies.
    """
    problems = []
    for name, lowest, distributions, remedy in REQUIREMENTS:
        version = installed_version(distributions)
        if version is None:
            problems.append(f'{name} >= {lowest} is required but not installed: {remedy}')
        elif version_numbers(version) < version_numbers(lowest):
            problems.append(f'{name} >= {lowest} is required, {version} is installed: {remedy}')
    several = finder.several_distributions()
    if several:
        problems.append(several)
    if problems:
        raise ImportError('cotap_mm cannot start. ' + '; '.join(problems) + '.')
    if importlib.util.find_spec('pkg_resources') is None:
        warnings.warn(
            'setuptools >= 81 has no pkg_resources, which MMEngine needs for configs '
            'that inherit from another package: pip install "setuptools<81"',
            stacklevel=2,
        )


#: Statistics that MMEngine's HistoryBuffer stores.
HISTORY_STATISTICS = ('min', 'max', 'mean', 'current')


def _history_statistic(owner: type, name: str):
    """Restricted ``getattr`` for reading checkpoints safely.

    MMEngine's HistoryBuffer stores its four statistics as ``getattr(HistoryBuffer, name)``.
    The real ``getattr`` would give a malicious file access to anything.
    """
    from mmengine.logging.history_buffer import HistoryBuffer

    if owner is HistoryBuffer and name in HISTORY_STATISTICS:
        return getattr(HistoryBuffer, name)
    raise pickle.UnpicklingError(f'refused to look up {name!r} of {owner!r}')


def _empty_array(kind: type, shape: tuple, code: object):
    """Restricted version of NumPy's ``_reconstruct``, which could allocate arrays of any size.

    Pickled arrays start with an empty array, followed by its state with the actual bytes.
    """
    import numpy as np

    if kind is not np.ndarray or tuple(shape) != (0,):
        raise pickle.UnpicklingError(f'refused to create an array of shape {shape!r}')
    return np.empty(0, np.int8)


def _plain_dtype(code: str, *_: object):
    """Restricted ``numpy.dtype``: numbers only, no objects, records or strings."""
    import numpy as np

    dtype = np.dtype(code) if isinstance(code, str) and len(code) <= 3 else None
    if dtype is None or dtype.kind not in 'fiub':
        raise pickle.UnpicklingError(f'refused an array of type {str(code)[:50]!r}')
    return dtype


def safe_globals() -> list:
    """Safe globals that MMEngine's checkpoints contain besides tensors."""
    import numpy as np
    from mmengine.logging.history_buffer import HistoryBuffer

    core = importlib.import_module(
        'numpy._core.multiarray' if hasattr(np, '_core') else 'numpy.core.multiarray'
    )
    kinds = ('float64', 'float32', 'float16', 'int64', 'int32', 'bool', 'uint8')
    # Pickles refer to functions by their module in the numpy version that wrote them.
    rebuilt = [
        (function, f'numpy.{package}.multiarray.{name}')
        for name, function in (('_reconstruct', _empty_array), ('scalar', core.scalar))
        for package in ('core', '_core')
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

    torch >= 2.6 loads safely by default and refuses HistoryBuffer and numpy scalars, which
    every MMEngine checkpoint contains. They are added to torch's safe globals; safe loading
    remains enabled.
    """
    import torch

    if version_numbers(torch.__version__) >= (2, 6):
        torch.serialization.add_safe_globals(safe_globals())


def keep_safe_globals(checkpoint: ModuleType) -> None:
    """Keep what :func:`allow_safe_resume` has added after a fork of MMEngine has loaded a file.

    The fork adds types to torch's safe globals while it loads, and removes them afterwards, even
    if they were there before.

    Args:
        checkpoint (module): ``mmengine.runner.checkpoint``.
    """
    theirs = getattr(checkpoint, 'get_torch_safe_globals', None)
    if theirs is None:
        return

    def only_new_ones() -> list:
        import torch

        present: list = getattr(torch.serialization, 'get_safe_globals', list)()
        return [each for each in theirs() if each not in present]

    checkpoint.get_torch_safe_globals = only_new_ones  # type: ignore[attr-defined]


def disable_multimodal(dependency: ModuleType) -> None:
    """Make ``import mmpretrain.models`` work with recent versions of transformers.

    MMPretrain 1.2.0 imports its BLIP model if transformers and pycocotools are installed, and
    that file is incompatible with transformers >= 4.49. With those versions only, the multimodal
    part of MMPretrain is disabled.

    Args:
        dependency (module): ``mmpretrain.utils.dependency``.
    """
    version = installed_version(('transformers',))
    if version is not None and version_numbers(version) >= (4, 49):
        dependency.WITH_MULTIMODAL = False  # type: ignore[attr-defined]


def log_any_name(logger: ModuleType) -> None:
    """Escape bytes that are not UTF-8 in file names in MMEngine's log.

    Its streams encode strictly, and Python's logging drops lines that cannot be encoded.

    Args:
        logger (module): ``mmengine.logging.logger``.
    """
    plain = logger.MMFormatter.format

    def escaped(self, record) -> str:
        return plain(self, record).encode('utf-8', 'backslashreplace').decode('utf-8')

    logger.MMFormatter.format = escaped


def format_once(config: ModuleType) -> None:
    """Let MMEngine format the text of a config once, not for every checkpoint and log again.

    Args:
        config (module): ``mmengine.config.config``.
    """
    plain = getattr(config, 'FormatCode', None)
    if plain is None:  # MMEngine's forks
        return

    @functools.lru_cache(maxsize=4)
    def formatted(text: str, style: tuple, options: tuple):
        return plain(text, style_config=dict(style), **dict(options))

    def format_code(text: str, style_config: dict, **options):
        return formatted(text, tuple(style_config.items()), tuple(options.items()))

    config.FormatCode = format_code  # type: ignore[attr-defined]


def keep_aliases_quiet(file_client: ModuleType) -> None:
    """Drop warnings about old names that only MMEngine itself uses, in each training.

    Args:
        file_client (module): ``mmengine.fileio.file_client``.
    """
    plain = file_client.print_log

    def print_others(message: str, *args: Any, **options: Any) -> None:
        if 'will be deprecated in future' not in message:
            plain(message, *args, **options)

    file_client.print_log = print_others  # type: ignore[attr-defined]


def find_forks(utils: ModuleType) -> None:
    """Let configs inherit from those of MMSegmentation (``mmseg::...``) if a fork is installed.

    MMEngine looks for the distribution ``mmsegmentation``; a fork provides the module ``mmseg``
    under another name.

    Args:
        utils (module): ``mmengine.config.utils``.
    """
    table = utils.MODULE2PACKAGE
    for module, package in table.items():
        if module == package:  # found by the module
            continue
        if installed_version((package,)) is None and importlib.util.find_spec(module) is not None:
            table[module] = module


def import_adafactor_when_used(builder: ModuleType) -> None:
    """Register the Adafactor of transformers by name, without importing transformers.

    Args:
        builder (module): ``mmengine.optim.optimizer.builder``.
    """
    optimizers = builder.OPTIMIZERS
    if 'Adafactor' in optimizers.module_dict or importlib.util.find_spec('transformers') is None:
        return

    def Adafactor(params, **options):
        from transformers import Adafactor

        return Adafactor(params, **options)

    optimizers.register_module(name='Adafactor', module=Adafactor)
    builder.TRANSFORMERS_OPTIMIZERS.append('Adafactor')


if not is_command():
    check_versions()
finder.install()
after_import('mmengine.logging', lambda _: allow_safe_resume())
after_import('mmengine.logging.logger', log_any_name)
after_import('mmpretrain.utils.dependency', disable_multimodal)
after_import('mmengine.config.config', format_once)
after_import('mmengine.runner.checkpoint', keep_safe_globals)
after_import('mmengine.fileio.file_client', keep_aliases_quiet)
after_import('mmengine.config.utils', find_forks)
# MMEngine imports transformers for this one optimizer.
hide_from('mmengine.optim.optimizer.builder', 'transformers')
after_import('mmengine.optim.optimizer.builder', import_adafactor_when_used)
# MMPretrain imports all of MMDetection's models for this one layer of a detector.
run_after('mmpretrain.models.utils.res_layer_extra_norm', 'mmdet.models', ResLayerExtraNorm=None)
