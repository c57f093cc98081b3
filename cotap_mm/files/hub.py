"""Resolve ``hf:USER/REPO`` to a local folder or file through the cache of the Hugging Face hub."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional
from urllib.parse import unquote

from mmengine.logging import print_log

#: Prefix of models on the Hugging Face hub.
HUB = 'hf:'
_SYNTAX = f'{HUB}USER/REPO, {HUB}USER/REPO@REVISION or {HUB}USER/REPO/FILE'
# The grammar of Hugging Face's own URIs (hf://user/repo@revision/file). A revision with a slash is
# written with %2F, except for the hub's own refs/.
_NAME = re.compile(
    r'hf:(?://)?(?P<repo>[\w.-]+/[\w.-]+)'
    r'(?:@(?P<revision>refs/(?:pr|convert)/\w+|[^/@]+))?'
    r'(?:/(?P<file>[^@]+))?'
)
_TIMEOUT = 10.0  # seconds until the hub counts as unreachable
#: Packages whose exceptions mean that a request failed, besides OSError.
_NETWORK = ('httpx', 'httpx2', 'httpcore', 'requests', 'urllib3')
#: Choose files: name of a model, paths of all files in its repository, and the file that the name
#: has or None -> the file to read, '' for the folder, and all files that are needed for it.
Choose = Callable[[str, 'list[str]', Optional[str]], 'tuple[str, list[str]]']


class HubName(NamedTuple):
    """A model on the Hugging Face hub.

    Attributes:
        repo (str): ``USER/REPO``.
        revision (str | None): Branch, tag or commit; the main branch if None.
        file (str | None): File in the repository; the model itself if None.
    """

    repo: str
    revision: Optional[str]
    file: Optional[str]


def parse_hub_name(name: str) -> HubName:
    """Split ``hf:USER/REPO[@REVISION][/FILE]``.

    Args:
        name (str): Name with the prefix :data:`HUB`.

    Returns:
        HubName: Its parts.

    Raises:
        ValueError: If the name has another form.
    """
    match = _NAME.fullmatch(name)
    if not match or '..' in name:
        raise ValueError(f'a model on the Hugging Face hub is {_SYNTAX}, got {name!r}')
    revision = match['revision']
    return HubName(match['repo'], unquote(revision) if revision else None, match['file'])


def hub_path(name: str, choose: Choose) -> Path:
    """Return the local path of a model on the Hugging Face hub; download it if necessary.

    Only the chosen files of a repository are downloaded. If the hub does not answer, or
    ``HF_HUB_OFFLINE`` is set, a cached copy is used.

    Args:
        name (str): ``hf:USER/REPO[@REVISION][/FILE]``.
        choose (callable): Chooses the files, see :data:`Choose`; it may raise an error.

    Returns:
        Path: The folder or file in the cache.

    Raises:
        FileNotFoundError: If the repository, revision or file does not exist, if access to it is
            denied, or if the hub does not answer and no copy is cached.
        ImportError: If huggingface_hub is not installed.
        ValueError: If the name is malformed.
    """
    parsed = parse_hub_name(name)
    hub = import_hub(name)
    if hub.constants.HF_HUB_OFFLINE:
        return _cached(hub, name, parsed, choose) or _raise(
            f'{name} is not in the cache {hub.constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE forbids '
            f'downloads; unset it, or download the model first: hf download {parsed.repo}'
        )
    try:
        return _download(hub, name, parsed, choose)
    except Exception as error:
        if not is_hub_error(error):
            raise
        sentence = _sentence(hub, name, parsed, error)
        cached = None if _is_definite(hub, error) else _cached(hub, name, parsed, choose)
        if cached is None:
            raise FileNotFoundError(sentence) from error
        print_log(f'{sentence}; using the cached copy', logger='current', level=logging.WARNING)
        return cached


def import_hub(name: str) -> Any:
    """Import huggingface_hub; raise an ImportError that says what ``name`` needs it for."""
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.utils
    except ImportError as error:
        raise ImportError(
            f'{name} needs the package huggingface_hub: pip install huggingface_hub safetensors'
        ) from error
    return huggingface_hub


def _download(hub: Any, name: str, parsed: HubName, choose: Choose) -> Path:
    # Unlike list_repo_files, it does not retry for half a minute if there is no network.
    info = hub.HfApi().model_info(parsed.repo, revision=parsed.revision, timeout=_TIMEOUT)
    files = [sibling.rfilename for sibling in info.siblings or ()]
    file, needed = choose(name, files, parsed.file)
    folder = hub.snapshot_download(parsed.repo, revision=parsed.revision, allow_patterns=needed)
    return Path(folder) / file


def _cached(hub: Any, name: str, parsed: HubName, choose: Choose) -> Optional[Path]:
    """Find a model in the cache, whose layout is part of the documentation of huggingface_hub."""
    repo = Path(hub.constants.HF_HUB_CACHE) / f'models--{parsed.repo.replace("/", "--")}'
    revision = parsed.revision or hub.constants.DEFAULT_REVISION
    reference = repo / 'refs' / revision
    commit = reference.read_text().strip() if reference.is_file() else revision
    folder = repo / 'snapshots' / commit
    if not folder.is_dir():
        return None
    # A broken link is a file that has not been downloaded completely.
    files = [path for path in folder.rglob('*') if path.is_file()]
    names = sorted(path.relative_to(folder).as_posix() for path in files)
    try:
        file, _ = choose(name, names, parsed.file)
    except FileNotFoundError:
        return None
    return folder / file


def is_hub_error(error: Exception) -> bool:
    """Whether an exception means that a request failed, and not that this module has a bug."""
    kinds = {kind.__module__.split('.')[0] for kind in type(error).__mro__}
    is_own = isinstance(error, FileNotFoundError) and 'huggingface_hub' not in kinds
    return not is_own and (isinstance(error, OSError) or bool(kinds & {*_NETWORK}))


def _is_definite(hub: Any, error: Exception) -> bool:
    """Whether the hub has answered that there is no such revision or file."""
    utils = hub.utils
    return isinstance(error, (utils.RevisionNotFoundError, utils.EntryNotFoundError)) and not (
        isinstance(error, utils.LocalEntryNotFoundError)
    )


def _sentence(hub: Any, name: str, parsed: HubName, error: Exception) -> str:
    """Describe in one sentence why a download failed."""
    utils, page = hub.utils, f'{hub.constants.ENDPOINT}/{parsed.repo}'
    if isinstance(error, utils.GatedRepoError):
        return (
            f'{name} requires permission: accept its terms at {page}, then log in with '
            '`hf auth login` or set HF_TOKEN'
        )
    if isinstance(error, utils.RepositoryNotFoundError):
        return (
            f'{name}: the Hugging Face hub has no model {parsed.repo}, or it is private; check the '
            'name, or log in with `hf auth login` or HF_TOKEN'
        )
    if isinstance(error, utils.RevisionNotFoundError):
        return f'{name}: {page} has no branch, tag or commit {parsed.revision}'
    reason = str(error).strip().split('\n')[0] or type(error).__name__
    return (
        f'cannot download {name} ({reason}); check the connection, or run '
        f'`hf download {parsed.repo} --local-dir DIR` on a machine with internet access and give '
        'DIR'
    )


def _raise(sentence: str) -> Any:
    raise FileNotFoundError(sentence)
