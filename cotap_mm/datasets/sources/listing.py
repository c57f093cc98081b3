"""List the images of a folder, a text list or a COCO json."""

from __future__ import annotations

import codecs
import json
import logging
import os
import re
from pathlib import Path

from mmengine.logging import print_log

from cotap_mm.files.atomic_write import name_text, open_regular, printable

from .folders.index_file import Index
from .folders.one_scan import index_or_scan
from .formats import ARCHIVE_SUFFIXES, IMAGE_SUFFIXES, describe_skipped, report_skipped

MAX_LIST_BYTES = 1 << 32
_CHECKED = 100  # names of a list that are searched on the disk
_ARCHIVE_STARTS = (
    b'PK\x03\x04',
    b'\x1f\x8b',
    b'BZh',
    b'\xfd7zXZ',
    b"7z\xbc\xaf'\x1c",
    b'Rar!',
    b'\x28\xb5\x2f\xfd',
)
_WIDE = ((codecs.BOM_UTF16_LE, 'utf-16'), (codecs.BOM_UTF16_BE, 'utf-16'))


def find_images(root: Path) -> Index:
    """List all images in a folder and its subfolders, sorted; log which files are skipped.

    The list of a large folder is kept for the next start, see :mod:`.folders.index_file`.

    Args:
        root (Path): The folder.

    Returns:
        Index: Names relative to ``root``, with forward slashes, and links that are skipped.

    Raises:
        FileNotFoundError: If there are no images.
    """
    found = index_or_scan(root)
    if isinstance(found, Index):
        report_skipped(printable(root), found.skipped)
        return found
    if not found.names:
        loud, quiet = describe_skipped(found.skipped)
        denied = f'{found.unlisted[0]}' if found.unlisted else ''
        why = '. '.join(part for part in (denied, loud, quiet) if part)
        raise FileNotFoundError(
            f'{printable(root)} contains no images; expected files ending in '
            f'{", ".join(IMAGE_SUFFIXES)}{f". {why}" if why else ""}'
        )
    report_skipped(printable(root), found.skipped)
    if found.unlisted:
        first = found.unlisted[0]
        print_log(
            f'{printable(root)}: skipped {len(found.unlisted)} folders that cannot be listed, the '
            f'first is {printable(str(first.filename))} ({first.strerror})',
            logger='current',
            level=logging.WARNING,
        )
    return Index(found.names, found.skipped, found.links)


def listed_images(path: Path, root: Path) -> list[str]:
    """Read the names of a list, in its order.

    Args:
        path (Path): Text list, or COCO json if its suffix is ``.json``.
        root (Path): Folder that the names are relative to.

    Returns:
        list[str]: The names.

    Raises:
        FileNotFoundError: If the list does not exist, is empty, or its images are not in
            ``root``.
        ValueError: If it is not a list, or contains an image twice.
    """
    if not path.exists():
        raise FileNotFoundError(f'image list {printable(path)} does not exist')
    text = _text_of(path)
    names = _coco_names(path, text) if path.suffix.lower() == '.json' else _lines(text, root)
    if not names:
        raise FileNotFoundError(f'{printable(path)} contains no image names')
    seen = set()
    for name in names:
        if name in seen:
            raise ValueError(
                f'{printable(path)} contains {printable(name)} twice, and an image must not be '
                'its own neighbor; remove the second'
            )
        seen.add(name)
        if '\0' in name or any(
            '\ud800' <= char < '\udc80' or '\udcff' < char <= '\udfff' for char in name
        ):
            raise ValueError(
                f'{printable(path)} contains {printable(name)}, which is not a valid file '
                'name; write the list again, in UTF-8'
            )
    if not any(is_file(root / name) for name in names[:_CHECKED]):
        raise _not_found(path, root, names)
    return names


def _text_of(path: Path) -> str:
    """Read the content of a list; names that are not UTF-8 keep their bytes."""
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        raise ValueError(
            f'expected a folder, a text list or a COCO json, got the image {printable(path)}'
        )
    with open_regular(path, MAX_LIST_BYTES) as file:
        start = file.read(1 << 16)
        if start.startswith(_ARCHIVE_STARTS) or suffix in ARCHIVE_SUFFIXES:
            raise ValueError(
                f'{printable(path)} is an archive, and of archives only uncompressed *.tar is '
                'supported: unpack it and give the folder; cotap pack packs it again'
            )
        wide = next((name for mark, name in _WIDE if start.startswith(mark)), None)
        if b'\0' in start and wide is None:
            raise ValueError(
                f'{printable(path)} must be a folder, a text list of names in UTF-8, '
                'a COCO json or an *.lmdb of cotap pack, got a binary '
                'file; it is damaged or not a list'
            )
        data = start + file.read(os.fstat(file.fileno()).st_size)
    if wide:
        try:
            return data.decode(wide)
        except UnicodeDecodeError as error:
            raise ValueError(
                f'{printable(path)} must be a list of names in UTF-8, got damaged UTF-16 ({error})'
            ) from error
    return name_text(data[3:] if data.startswith(codecs.BOM_UTF8) else data)


def _lines(text: str, root: Path) -> list[str]:
    """Split a text list; spaces around a name are kept only if such a file exists."""
    names = []
    for raw in re.split('\r?\n', text) if '\n' in text else text.split('\r'):
        name = raw.strip()
        if name:
            names.append(raw if raw != name and is_file(root / raw) else name)
    return names


def _not_found(path: Path, root: Path, names: list[str]) -> Exception:
    """Explain why none of a list's names is a file."""
    for name in names[:_CHECKED]:
        for separator in ('\t', ',', ';', ' '):
            first = name.split(separator, 1)[0].strip('"\' ')
            if first and first != name and is_file(root / first):
                cut = 'cut -f 1' if separator == '\t' else f'cut -d "{separator}" -f 1'
                remedy = (
                    f'keep only the names, e.g. with {cut} {printable(path.name)} > names.txt'
                    if separator in name
                    else 'remove the quotes'
                )
                return ValueError(
                    f'{printable(path)} must have one image name per line and nothing '
                    f'else, got {printable(name)}; {remedy}'
                )
    return FileNotFoundError(
        f'{printable(path)} contains {printable(names[0])}, which is not in {printable(root)}; '
        'give the folder that its names are relative to, and the list with --ann-file (ann_file '
        'in a config)'
    )


def is_file(path: Path) -> bool:
    """Whether a path is a file; False if it is not a valid path."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _coco_names(path: Path, text: str) -> list[str]:
    try:
        return [str(image['file_name']) for image in json.loads(text)['images']]
    except (json.JSONDecodeError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f'{printable(path)} must be a COCO json with images[].file_name, '
            f'got {type(error).__name__}: {error}'
        ) from error
