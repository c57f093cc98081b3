"""Names of the images of a folder, a text list or a COCO json."""

from __future__ import annotations

import codecs
import json
import logging
import os
import re
from pathlib import Path

from mmengine.logging import print_log

from cotap_mm.files.atomic_write import name_text, open_regular, printable

from .formats import ARCHIVE_SUFFIXES, IMAGE_SUFFIXES, describe_skipped, report_skipped

MAX_LIST_BYTES = 1 << 32
_LOOKED_AT = 100  # names of a list that are looked for
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


def find_images(root: Path) -> list[str]:
    """Names of all images below a folder, sorted; what is skipped is logged.

    Raises:
        FileNotFoundError: If there is none.
    """
    names, skipped, seen = [], [], set()
    closed: list[OSError] = []
    for folder, subfolders, files in os.walk(root, onerror=closed.append, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link to a folder above would not end
            subfolders[:] = []
            continue
        seen.add(real)
        subfolders.sort()  # of a folder and links to it the first counts, on every machine
        place = Path(folder).relative_to(root)
        for name in files:
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith('.'):
                names.append((place / name).as_posix())
            elif not name.startswith('.'):
                skipped.append(name)
    if not names:
        loud, quiet = describe_skipped(skipped)
        cannot = f'{closed[0]}' if closed else ''
        why = '. '.join(part for part in (cannot, loud, quiet) if part)
        raise FileNotFoundError(
            f'{printable(root)} holds no image; expected files ending in '
            f'{", ".join(IMAGE_SUFFIXES)}{f". {why}" if why else ""}'
        )
    report_skipped(printable(root), skipped)
    if closed:
        print_log(
            f'{printable(root)}: skipped {len(closed)} folders that cannot be listed, the '
            f'first is {printable(str(closed[0].filename))} ({closed[0].strerror})',
            logger='current',
            level=logging.WARNING,
        )
    return sorted(names)


def listed_images(path: Path, root: Path) -> list[str]:
    """Names in a list, in its order.

    Args:
        path (Path): Text list, or COCO json by its ending.
        root (Path): Folder that the names are relative to.

    Raises:
        FileNotFoundError: If there is no list, it is empty, or its images are elsewhere.
        ValueError: If it is not a list, or names an image twice.
    """
    if not path.exists():
        raise FileNotFoundError(f'image list {printable(path)} does not exist')
    text = _text_of(path)
    names = _coco_names(path, text) if path.suffix.lower() == '.json' else _lines(text, root)
    if not names:
        raise FileNotFoundError(f'{printable(path)} holds no image: it names none')
    seen = set()
    for name in names:
        if name in seen:
            raise ValueError(
                f'{printable(path)} names {printable(name)} twice, which would be its '
                'own neighbour; remove the second'
            )
        seen.add(name)
        if '\0' in name or any(
            '\ud800' <= char < '\udc80' or '\udcff' < char <= '\udfff' for char in name
        ):
            raise ValueError(
                f'{printable(path)} names {printable(name)}, and no file can be '
                'called so; write the list again, in UTF-8'
            )
    if not any(is_file(root / name) for name in names[:_LOOKED_AT]):
        raise _not_found(path, root, names)
    return names


def _text_of(path: Path) -> str:
    """Content of a list; names that are not UTF-8 stay the bytes that they are."""
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        raise ValueError(
            f'expected a folder, a text list or a COCO json, got the image {printable(path)}'
        )
    with open_regular(path, MAX_LIST_BYTES) as file:
        start = file.read(1 << 16)
        if start.startswith(_ARCHIVE_STARTS) or suffix in ARCHIVE_SUFFIXES:
            raise ValueError(
                f'{printable(path)} is an archive, and archives are not read: unpack '
                'it and give the folder; tools/pack_dataset.py makes one file of it'
            )
        wide = next((name for mark, name in _WIDE if start.startswith(mark)), None)
        if b'\0' in start and wide is None:
            raise ValueError(
                f'{printable(path)} must be a folder, a text list of names in UTF-8, '
                'a COCO json or an *.lmdb of tools/pack_dataset.py, got a binary '
                'file; it is damaged, or no list'
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
    """Names of a text list; spaces around one count where a file is called so."""
    names = []
    for raw in re.split('\r?\n', text) if '\n' in text else text.split('\r'):
        name = raw.strip()
        if name:
            names.append(raw if raw != name and is_file(root / raw) else name)
    return names


def _not_found(path: Path, root: Path, names: list[str]) -> Exception:
    """Why none of a list's names is a file."""
    for name in names[:_LOOKED_AT]:
        for separator in ('\t', ',', ';', ' '):
            first = name.split(separator, 1)[0].strip('"\' ')
            if first and first != name and is_file(root / first):
                cut = 'cut -f 1' if separator == '\t' else f'cut -d "{separator}" -f 1'
                remedy = (
                    f'keep the names only, e.g. with {cut} {printable(path.name)} > names.txt'
                    if separator in name
                    else 'remove the quotes'
                )
                return ValueError(
                    f'{printable(path)} must have one image name a line and nothing '
                    f'else, got {printable(name)}; {remedy}'
                )
    return FileNotFoundError(
        f'{printable(path)} names {printable(names[0])}, which is not in {printable(root)}; give '
        'the folder that its names are relative to, and the list with --ann-file (ann_file in a '
        'config)'
    )


def is_file(path: Path) -> bool:
    """Whether a path is a file; False for a name that no file can have."""
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
