"""Files that are whole or not there."""
import hashlib
import os
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Optional

UNFINISHED = 'unfinished-'  # how the names of files begin that are being written


@contextmanager
def whole_file(path: 'str | Path') -> Iterator[Path]:
    """Write a file so that a crash at any moment leaves the old one, or none, or the new one.

    Args:
        path (str | Path): The file; its folder is made.

    Yields:
        Path: Where to write; of the same suffix, in the same folder. Afterwards it is
        brought to the disk and gets the name ``path``. After an error it is deleted.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f'{UNFINISHED}{os.getpid()}-{path.name}')
    try:
        yield partial
        with open(partial, 'rb+') as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        if partial.exists():
            partial.unlink()
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a renaming last; not every system lets a folder be opened."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


def torn_archive(path: 'str | Path') -> Optional[str]:
    """What is wrong with a zip archive, such as PyTorch's; None if all its checksums hold."""
    try:
        with zipfile.ZipFile(path) as archive:
            part = archive.testzip()
        return None if part is None else f'has a damaged part, {part}'
    # zipfile raises many types on damaged files.
    except Exception as error:
        return f'cannot be read ({type(error).__name__}: {error})'


def checksum(path: 'str | Path') -> str:
    """SHA-256 of a file in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        for block in iter(lambda: file.read(1 << 20), b''):
            digest.update(block)
    return digest.hexdigest()
