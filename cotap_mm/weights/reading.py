"""Read checkpoint files without trusting them."""

from __future__ import annotations

import hashlib
import http.client
import json
import pickle
import socket
from pathlib import Path
from typing import Any, Union
from urllib.parse import urlparse

import torch
from mmengine.dist import is_main_process
from torch.hub import download_url_to_file, get_dir

from cotap_mm.compat.safe_pickle import load_safely
from cotap_mm.files.atomic_write import zip_error
from cotap_mm.files.hub import HUB, hub_path

from .content import QuantizedContent, SuspectContent, check_archive, check_content
from .formats.folders import choose_files, is_shard, read_folder, read_index, stated_architecture
from .formats.parts import select_part, split_part
from .named.known import EXPECTED, suggestion, url_of
from .named.timm_models import TIMM, read_timm

Checkpoint = Union[str, Path, dict]

#: Prefix of files in the package: ``cotap_mm://toy_vit.pth``.
SHIPPED = 'cotap_mm://'
#: Seconds without data after which a download fails.
DOWNLOAD_TIMEOUT = 30.0


def read_checkpoint(checkpoint: Checkpoint, trust: bool = False) -> dict:
    """Read a file, a folder, a URL or weights with a name; a dict is returned unchanged.

    Files are read with ``weights_only=True``, which does not run code from the file, and the
    content is validated against the size of the file before anything is computed with it.

    Args:
        checkpoint (str | Path | dict): A file, a URL, a model on the Hugging Face hub
            (``hf:USER/REPO``, see :func:`cotap_mm.files.hub.hub_path`), a folder of Hugging
            Face or timm (``config.json`` and ``model.safetensors`` or ``pytorch_model.bin``,
            possibly sharded), or the index of a sharded checkpoint; ``'timm:NAME'`` for a plain
            ViT of timm, or one of :data:`~cotap_mm.weights.named.known.KNOWN`. ``FILE::NAME``
            selects the part under ``NAME`` of a file that has several networks.
        trust (bool): Unpickle the file fully if safe reading fails. A malicious file can then
            run any code on this machine. Defaults to False.

    Returns:
        dict: Content of the file, on the CPU.

    Raises:
        FileNotFoundError: If the file does not exist, or the download fails.
        ImportError: If the file needs a package that is not installed.
        TypeError: If ``checkpoint`` is not a path, a URL or a dict.
        ValueError: If the file is damaged, needs trust, or does not contain a dict.
    """
    if isinstance(checkpoint, dict):
        return checkpoint
    if not isinstance(checkpoint, (str, Path)):
        raise TypeError(
            f'checkpoint must be a path, a URL or a state dict, got {type(checkpoint).__name__}'
        )
    name, part = split_part(str(checkpoint))
    if name.startswith(TIMM):
        return read_timm(name[len(TIMM) :])
    path = _local_path(url_of(name))
    try:
        if path.is_dir():
            content = read_folder(path, lambda file: _read_file(file, trust))
        elif path.name.endswith('.index.json'):
            content = read_index(path, lambda file: _read_file(file, trust))
        elif not path.is_file():
            raise FileNotFoundError(
                f'checkpoint {name} is not a file{suggestion(name)}; give {EXPECTED} '
                '(in configs: init_cfg.checkpoint, or COTAP_CHECKPOINT=FILE for '
                'configs/downstream)'
            )
        elif is_shard(path):
            raise ValueError(
                f'{path} is {is_shard(path)} of a sharded checkpoint; give its folder or '
                'its *.index.json'
            )
        else:
            content = _read_file(path, trust)
            content = (
                stated_architecture(path.parent, content)
                if path.name in ('model.safetensors', 'pytorch_model.bin')
                else content
            )
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f'{path} cannot be read ({error})') from error
    return select_part(content, part, name) if part else content


def _local_path(name: str) -> Path:
    if name.startswith(('http://', 'https://')):
        return _download(name)
    if name.startswith(HUB):
        return hub_path(name, choose_files)
    if name.startswith(SHIPPED):
        return Path(__file__).resolve().parents[1] / 'assets' / name[len(SHIPPED) :]
    return Path(name).expanduser()


def _read_file(path: Path, trust: bool) -> dict:
    """Read one file and check that it contains a dict whose tensors fit the size of the file."""
    content = (
        _read_safetensors(path) if path.suffix == '.safetensors' else _read_pickle(path, trust)
    )
    if not isinstance(content, dict):
        raise ValueError(f'{path} must contain a dict of tensors, got {type(content).__name__}')
    try:
        check_content(content, path.stat().st_size)
    except QuantizedContent as error:
        raise ValueError(f'{path}: {error}') from error
    except SuspectContent as error:
        raise ValueError(_damaged(path, error)) from error
    return content


def cached_path(url: str) -> Path:
    """Return the path where the file of a URL is cached.

    The name includes a hash of the whole URL, since some methods use one file name for all
    architectures (iBOT: ``checkpoint_teacher.pth``).
    """
    file = Path(urlparse(url).path)
    digest = hashlib.sha256(url.encode()).hexdigest()[:8]
    return Path(get_dir()) / 'checkpoints' / f'{file.stem}-{digest}{file.suffix}'


def _download(url: str) -> Path:
    path = cached_path(url)
    if path.is_file():
        return path
    default_timeout = socket.getdefaulttimeout()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Without a timeout, a machine behind a firewall that drops packets would hang.
        socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
        download_url_to_file(url, str(path), progress=is_main_process())
    except (OSError, http.client.HTTPException) as error:
        raise FileNotFoundError(
            f'cannot download {url} ({error}). Download it on a machine with internet access, '
            f'then either give its path (--init FILE, or init_cfg.checkpoint=FILE) or save it as '
            f'{path}'
        ) from error
    finally:
        socket.setdefaulttimeout(default_timeout)
    return path


def _read_safetensors(path: Path) -> dict:
    try:
        from safetensors import SafetensorError, safe_open
        from safetensors.torch import load_file
    except ImportError as error:
        raise ImportError(
            f'reading {path} needs the package safetensors: pip install safetensors'
        ) from error
    try:
        tensors = load_file(str(path))
        with safe_open(str(path), 'pt') as file:
            stated = (file.metadata() or {}).get('architecture')
        if stated is None:
            return tensors
        return dict(state_dict=tensors, meta=dict(architecture=json.loads(stated)))
    # Deeply nested JSON in the header raises a RecursionError.
    except (SafetensorError, OSError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(_damaged(path, error)) from error


def _read_pickle(path: Path, trust: bool) -> Any:
    with open(path, 'rb') as file:
        start = file.read(2)
    if start != b'PK' and start[:1] != b'\x80':  # zip archive, or a bare pickle
        raise ValueError(_damaged(path, f'it starts with {start!r}'))
    try:
        check_archive(path)
    except SuspectContent as error:
        raise ValueError(_damaged(path, error)) from error
    # PyTorch itself does not verify the checksums of the archive.
    problem = zip_error(path) if start == b'PK' else None
    if problem is not None:
        raise ValueError(_damaged(path, f'it {problem}'))
    try:
        return load_safely(path)
    except pickle.UnpicklingError as error:
        if not trust:
            raise ValueError(
                f'{path} cannot be read safely ({_reason(error)}). If it is damaged, download it '
                'again. If it contains Python objects besides tensors, reading it could run code '
                'from the file: pass trust=True only for a file whose origin you trust'
            ) from error
    except Exception as error:  # a damaged pickle can raise anything
        raise ValueError(_damaged(path, error)) from error
    return _read_trusted(path)


def _read_trusted(path: Path) -> Any:
    try:
        return torch.load(path, map_location='cpu', weights_only=False)
    except (ImportError, AttributeError) as error:
        raise ImportError(
            f'{path} contains objects of software that is not installed here ({error}); install '
            'it, or save only the state dict on a machine that has it'
        ) from error
    except Exception as error:  # a damaged pickle can raise anything
        raise ValueError(_damaged(path, error)) from error


def _reason(error: Exception) -> str:
    """Extract the sentence of torch's message that names the unsupported object."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reasons = [line for line in lines if 'unsupported' in line.lower()] or lines or [repr(error)]
    return reasons[0].split('. ')[0].rstrip('.')


def _damaged(path: Path, cause: object) -> str:
    return (
        f'{path} is damaged or not a checkpoint ({cause}); download it again, and delete a '
        'cached copy first'
    )
