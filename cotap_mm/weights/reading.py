"""Reading a checkpoint file without trusting it."""
import pickle
from pathlib import Path
from typing import Union
from urllib.error import URLError

import torch
from mmengine.dist import master_only
from torch.hub import get_dir, load_state_dict_from_url

Checkpoint = Union[str, Path, dict]


def read_checkpoint(checkpoint: Checkpoint, trust: bool = False) -> dict:
    """Read a file, a URL or a dict that is loaded already.

    Files are read with ``weights_only=True``, which runs no code of theirs.

    Args:
        checkpoint (str | Path | dict): Where the weights are.
        trust (bool): Unpickle fully if safe reading is refused. A hostile file can then
            run any code on this machine. Defaults to False.

    Returns:
        dict: What the file holds, on the CPU.

    Raises:
        FileNotFoundError: If there is no such file, or a URL cannot be had.
        ValueError: If the file is damaged, needs trust, or holds no dict.
    """
    if isinstance(checkpoint, dict):
        return checkpoint
    name = str(checkpoint)
    if name.startswith(('http://', 'https://')):
        content = _download(name)
    else:
        path = Path(name).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f'checkpoint {name} is not a file; give the path of a '
                                    'checkpoint, a URL, or a state dict')
        content = _read_file(path, trust)
    if not isinstance(content, dict):
        raise ValueError(f'{name} must hold a dict of tensors, got {type(content).__name__}')
    return content


def _download(url: str) -> dict:
    try:
        _fetch(url)
        return load_state_dict_from_url(url, map_location='cpu', weights_only=True)
    except (URLError, OSError, TimeoutError) as error:
        raise FileNotFoundError(
            f'cannot download {url} ({error}). Download it on a machine with a connection, then '
            f'either give its path (--init FILE, or init_cfg.checkpoint=FILE) or put it into '
            f'{Path(get_dir()) / "checkpoints"}') from error


@master_only
def _fetch(url: str) -> None:
    """Let one process fill the cache before the others look."""
    load_state_dict_from_url(url, map_location='cpu', weights_only=True)


def _read_file(path: Path, trust: bool) -> dict:
    if path.suffix == '.safetensors':
        try:
            from safetensors.torch import load_file
        except ImportError as error:
            raise ImportError(f'{path} needs the package safetensors: '
                              'pip install safetensors') from error
        return load_file(str(path))
    try:
        return torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        if not trust:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f'{path} cannot be read safely ({reason}). If it is damaged, get it again. If it '
                'holds Python objects besides tensors, reading it would run code from the file: '
                'pass trust=True only for a file whose origin you trust.') from error
    except (RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        raise ValueError(f'{path} is damaged or no PyTorch checkpoint ({error}); '
                         'get it again') from error
    return torch.load(path, map_location='cpu', weights_only=False)
