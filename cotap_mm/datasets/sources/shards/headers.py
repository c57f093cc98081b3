"""List the members of a tar shard by reading its headers only."""

from __future__ import annotations

import tarfile
from typing import BinaryIO, NamedTuple

from cotap_mm.files.atomic_write import printable

from ..formats import IMAGE_SUFFIXES

_BLOCK = 512  # bytes of a header
_COMPRESSED = (b'\x1f\x8b', b'BZh', b'\xfd7zXZ', b'\x28\xb5\x2f\xfd')


class Members(NamedTuple):
    """Images of a shard, in its order.

    Attributes:
        names (list[str]): Names of the members, without a leading ``./``.
        starts (list[int]): Position of each content, in bytes.
        sizes (list[int]): Length of each content, in bytes.
        unusable (int): Images that are links or sparse, whose content is not at one place.
    """

    names: list[str]
    starts: list[int]
    sizes: list[int]
    unusable: int


def read_headers(file: BinaryIO, title: str, is_packed: bool = False) -> Members:
    """List the images of a shard; contents are skipped by seeking.

    Members that are not images by their suffix, and hidden files, are ignored. Names of any
    length (GNU and pax) are supported.

    Args:
        file (BinaryIO): The shard, seekable.
        title (str): Its name, for messages.
        is_packed (bool): Whether :func:`.pack_shards` wrote it, so that every member is an image,
            whatever its name. Defaults to False.

    Returns:
        Members: The images.

    Raises:
        ValueError: If the file is compressed, not a tar file, truncated or damaged.
        OSError: If it cannot be read.
    """
    if file.read(6).startswith(_COMPRESSED):
        raise ValueError(
            f'{printable(title)} is compressed, and images are read from uncompressed *.tar only; '
            'decompress it, e.g. with gunzip or zstd -d'
        )
    file.seek(0)
    found = Members([], [], [], 0)
    unusable = 0
    try:
        with tarfile.open(fileobj=file, mode='r:', errors='surrogateescape') as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # tarfile keeps an object per member otherwise
                name = member.name
                if not is_packed:
                    name = name[2:] if name.startswith('./') else name
                    base = name.rpartition('/')[2]
                    if not base.lower().endswith(IMAGE_SUFFIXES) or base.startswith('.'):
                        continue
                if member.isreg() and not member.issparse():
                    found.names.append(name)
                    found.starts.append(member.offset_data)
                    found.sizes.append(member.size)
                elif not member.isdir():
                    unusable += 1
            end = archive.offset
    except (tarfile.TarError, EOFError) as error:
        raise _damaged(title, f'{type(error).__name__}: {error}') from error
    # tarfile ends silently at a damaged or missing header.
    file.seek(end)
    if file.read(_BLOCK) != bytes(_BLOCK):
        raise _damaged(title, f'there is neither a member nor an end mark at byte {end:,}')
    return found._replace(unusable=unusable)


def _damaged(title: str, why: str) -> ValueError:
    return ValueError(
        f'{printable(title)} must be a complete tar file: {why}; copy or write it again'
    )
