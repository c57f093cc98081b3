"""Reading a checkpoint file without trusting it."""

from __future__ import annotations

import argparse
import contextlib
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

from cotap_mm.files.atomic_write import zip_error

from .content import SuspectContent, check_archive, check_content
from .folders import is_shard, read_folder, read_index, stated_architecture
from .parts import select_part, split_part

Checkpoint = Union[str, Path, dict]

#: Files that come with the package: ``cotap_mm://toy_vit.pth``.
SHIPPED = 'cotap_mm://'
#: Seconds without an answer after which a download is given up.
DOWNLOAD_TIMEOUT = 30.0


def read_checkpoint(checkpoint: Checkpoint, trust: bool = False) -> dict:
    """Read a file, a folder, a URL or a dict that is loaded already.

    Files are read with ``weights_only=True``, which runs no code of theirs, and what they hold
    is checked against their size before anything is computed with it.

    Args:
        checkpoint (str | Path | dict): Where the weights are: a file, a folder of Hugging Face
            or timm (``config.json`` beside ``model.safetensors`` or ``pytorch_model.bin``, whole
            or in shards), or the index of a sharded checkpoint. ``FILE::NAME`` takes the part
            under ``NAME`` of a file that holds several networks.
        trust (bool): Unpickle fully if safe reading is refused. A hostile file can then
            run any code on this machine. Defaults to False.

    Returns:
        dict: What the file holds, on the CPU.

    Raises:
        FileNotFoundError: If there is no such file, or a URL cannot be had.
        ImportError: If the file needs a package that is not installed.
        TypeError: If ``checkpoint`` is neither a path, a URL nor a dict.
        ValueError: If the file is damaged, needs trust, or holds no dict.
    """
    if isinstance(checkpoint, dict):
        return checkpoint
    if not isinstance(checkpoint, (str, Path)):
        raise TypeError(
            f'checkpoint must be a path, a URL or a state dict, got {type(checkpoint).__name__}'
        )
    name, part = split_part(str(checkpoint))
    path = _local_path(name)
    try:
        if path.is_dir():
            content = read_folder(path, lambda file: _read_file(file, trust))
        elif path.name.endswith('.index.json'):
            content = read_index(path, lambda file: _read_file(file, trust))
        elif not path.is_file():
            raise FileNotFoundError(
                f'checkpoint {name} is not a file; give the path of a checkpoint, a URL, or a '
                'state dict (init_cfg.checkpoint of a config; COTAP_CHECKPOINT=FILE for those of '
                'configs/downstream)'
            )
        elif is_shard(path):
            raise ValueError(
                f'{path} is {is_shard(path)} of a sharded checkpoint; give the '
                'folder that it is in, or its *.index.json'
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
    if name.startswith(SHIPPED):
        return Path(__file__).resolve().parents[1] / 'assets' / name[len(SHIPPED) :]
    return Path(name).expanduser()


def _read_file(path: Path, trust: bool) -> dict:
    """What one file holds; refused if that is no dict, or more than a file of its size can."""
    content = (
        _read_safetensors(path) if path.suffix == '.safetensors' else _read_pickle(path, trust)
    )
    if not isinstance(content, dict):
        raise ValueError(f'{path} must hold a dict of tensors, got {type(content).__name__}')
    try:
        check_content(content, path.stat().st_size)
    except SuspectContent as error:
        raise ValueError(_damaged(path, error)) from error
    return content


def cached_path(url: str) -> Path:
    """Where the file of a URL is kept.

    The whole URL is part of the name, since other methods call the files of all their
    architectures alike (iBOT: ``checkpoint_teacher.pth``).
    """
    file = Path(urlparse(url).path)
    digest = hashlib.sha256(url.encode()).hexdigest()[:8]
    return Path(get_dir()) / 'checkpoints' / f'{file.stem}-{digest}{file.suffix}'


def _download(url: str) -> Path:
    path = cached_path(url)
    if path.is_file():
        return path
    usual = socket.getdefaulttimeout()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Without it a machine behind a closed firewall would wait for ever.
        socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
        download_url_to_file(url, str(path), progress=is_main_process())
    except (OSError, http.client.HTTPException) as error:
        raise FileNotFoundError(
            f'cannot download {url} ({error}). Download it on a machine with a connection, then '
            f'either give its path (--init FILE, or init_cfg.checkpoint=FILE) or save it as '
            f'{path}'
        ) from error
    finally:
        socket.setdefaulttimeout(usual)
    return path


def _read_safetensors(path: Path) -> dict:
    try:
        from safetensors import SafetensorError, safe_open
        from safetensors.torch import load_file
    except ImportError as error:
        raise ImportError(
            f'{path} needs the package safetensors: pip install safetensors'
        ) from error
    try:
        tensors = load_file(str(path))
        with safe_open(str(path), 'pt') as file:
            stated = (file.metadata() or {}).get('architecture')
        if stated is None:
            return tensors
        return dict(state_dict=tensors, meta=dict(architecture=json.loads(stated)))
    # Deep JSON in the header ends in a RecursionError.
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
    # PyTorch itself does not look at the archive's checksums.
    torn = zip_error(path) if start == b'PK' else None
    if torn is not None:
        raise ValueError(_damaged(path, f'it {torn}'))
    try:
        with _allow_namespace():
            return torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        if not trust:
            raise ValueError(
                f'{path} cannot be read safely ({_reason(error)}). If it is damaged, get it again. '
                'If it holds Python objects besides tensors, reading it could run code from the '
                "file: pass trust=True only for a file whose origin you trust. MMEngine's own "
                f'checkpoints can be read safely from torch 2.6 on (this is {torch.__version__})'
            ) from error
    except Exception as error:  # a damaged pickle can fail in any way
        raise ValueError(_damaged(path, error)) from error
    return _read_trusted(path)


def _read_trusted(path: Path) -> Any:
    try:
        return torch.load(path, map_location='cpu', weights_only=False)
    except (ImportError, AttributeError) as error:
        raise ImportError(
            f'{path} holds objects of software that is not installed here ({error}); install it, '
            "or save only the file's state dict where it is"
        ) from error
    except Exception as error:  # as above
        raise ValueError(_damaged(path, error)) from error


def _allow_namespace():
    """Accept the command-line arguments that DINO, iBOT and MAE store; they are plain data."""
    allow = getattr(torch.serialization, 'safe_globals', None)  # torch >= 2.5
    return allow([argparse.Namespace]) if allow else contextlib.nullcontext()


def _reason(error: Exception) -> str:
    """The sentence of torch's message that says what was refused."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if 'unsupported' in line.lower()] or lines or [repr(error)]
    return telling[0].split('. ')[0].rstrip('.')


def _damaged(path: Path, cause: object) -> str:
    return (
        f'{path} is damaged or no checkpoint ({cause}); get it again, and if it was '
        'downloaded delete it first'
    )
