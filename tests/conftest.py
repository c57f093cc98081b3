"""Fixtures of all tests."""

from __future__ import annotations

import functools
import gc
import importlib
import os
import signal
import weakref
from pathlib import Path

import mmengine.config.config
import mmengine.config.utils
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from torch.utils.data._utils import signal_handling
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

import cotap_mm  # noqa: F401  (before anybody imports mmpretrain.models: see compat.py)
from tests.helpers.tool_loading import forget_runs, import_what_trainings_use
from tests.helpers.warm_python import WarmPython

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get('COTAP_SHARED_DIR', ROOT.parent / 'shared'))
_NEEDS_SHARED = 'shared data is not here'
_LOADERS = weakref.WeakSet()


@pytest.fixture(autouse=True)
def _forget_tools():
    """Tools set a default scope and create loggers for their whole process.

    A logger that was created while a test captured the output writes to a stream that is closed.
    """
    yield
    DefaultScope._instance_dict.clear()
    for name, logger in list(MMLogger._instance_dict.items()):
        if any(is_closed(each.stream) for each in _streams(logger)):
            del MMLogger._instance_dict[name]


def is_closed(stream):
    return stream is None or getattr(stream, 'closed', False)


def _streams(logger):
    return [each for each in logger.handlers if hasattr(each, 'stream')]


@pytest.fixture
def shared_data():
    """The folder of shared real images and vectors; skips where there is none."""
    if not (SHARED / 'data').is_dir():
        pytest.skip(f'{_NEEDS_SHARED} (COTAP_SHARED_DIR names the folder)')
    return SHARED


@pytest.fixture(scope='module')
def warm_python(tmp_path_factory):
    """Path of an executable as ``python`` that starts at once: see tests/helpers/warm_python.py."""
    for name in ('engine.launch.runner', 'commands.train', 'commands.processes'):
        importlib.import_module(f'cotap_mm.{name}')
    import_what_trainings_use()
    with WarmPython(tmp_path_factory.mktemp('warm'), prepare=forget_runs) as path:
        yield path


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call():
    """Each test starts without workers of others, and with PyTorch's handler for dead ones.

    If the collection of garbage finds a loader's iterator, its queues are closed before it, so its
    workers are never told to end, and PyTorch waits 5 s for each of them, in some later test. It
    installs its handler once in a process, and we remove it when a worker has died; without it, a
    loader notices a dead worker up to 5 s later than in a new process.
    """
    before = set(_LOADERS)
    yield
    for iterator in set(_LOADERS) - before:
        iterator._shutdown_workers()
    if hasattr(signal, 'SIGCHLD') and signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL:
        signal_handling._SIGCHLD_handler_set = False


@pytest.fixture
def log(caplog):
    """What is printed through MMEngine's logger, which hands nothing on to Python's root."""
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A test skipped for missing data although the data are there is a failure."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and _NEEDS_SHARED in str(report.longrepr) and SHARED.is_dir():
        report.outcome = 'failed'
        report.longrepr = f'skipped for missing data, but {SHARED.name}/ is there'


def pytest_collection_modifyitems(items):
    """Start with the files that take longest, so that no worker is busy alone at the end."""
    first = {
        item.path for item in items if {'slow', 'dist'} & {m.name for m in item.iter_markers()}
    }
    items.sort(key=lambda item: item.path not in first)


def pytest_collection_finish():
    """The libraries stay: spare each collection of garbage (MMDetection forces many) the walk."""
    gc.freeze()


def remember_installed_configs():
    """For a base as ``mmseg::NAME.py``, MMEngine reads all index files of the library each time."""
    utils, config = mmengine.config.utils, mmengine.config.config
    utils.load = functools.cache(utils.load)
    config.is_installed = functools.cache(config.is_installed)
    config.get_installed_path = functools.cache(config.get_installed_path)


def remember_loaders():
    """Add each iterator that has workers to ``_LOADERS``."""
    start = _MultiProcessingDataLoaderIter.__init__

    @functools.wraps(start)
    def start_and_remember(self, loader):
        start(self, loader)
        _LOADERS.add(self)

    _MultiProcessingDataLoaderIter.__init__ = start_and_remember


def plain_text(config):
    """As ``config.pretty_text``, which takes longer than the trainings of these tests."""
    return ''.join(f'{key} = {value!r}\n' for key, value in config._cfg_dict.to_dict().items())


def pytest_configure(config):
    # A shell ignores Ctrl-C in what it starts in the background, and so would what we start.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    Config.pretty_text = property(plain_text)
    remember_installed_configs()
    remember_loaders()
    # The tensors are tiny: more threads would only wait for each other, in processes of tests, too.
    torch.set_num_threads(int(os.environ.setdefault('OMP_NUM_THREADS', '1')))
    # If the first backward pass is one on fake tensors, PyTorch refuses any in forked processes.
    torch.ones(1, requires_grad=True).sum().backward()
