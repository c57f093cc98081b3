"""Lists of images, and reading one robustly.

An image source is any object with ``len(source)``, ``name(i)``, a name that is unique
and stays the same from run to run, and ``read(i, enough)``, pixels of shape (H, W, 3),
uint8 RGB, which raises :class:`BadImage` where there are none. ``enough(height, width)``
says whether an image of that size would do; then a source may return it at a half, a
quarter or an eighth of its sides, if that is faster. It may have ``is_there()``, whether
its files can be reached at all; where they cannot, readers wait. It may have
``fingerprint()``, which changes with its images; see :func:`fingerprint_of`.
"""
import hashlib
import io
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable, List, Optional

import numpy as np
import torch
from PIL import Image, ImageOps
from torchvision.io import ImageReadMode, decode_jpeg

from cotap_mm.registry import DATASETS

IMAGE_SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.ppm', '.tif', '.tiff', '.webp')
_BLOCK = 1024  # files that one thread asks the disk for
_ORIENTATION = 0x0112  # EXIF tag
Enough = Optional[Callable[[int, int], bool]]


class BadImage(Exception):
    """An image file that cannot be decoded."""


class UnreadImage(BadImage):
    """An image file that could not even be read, perhaps for a while only."""


def read_image(path: 'str | Path', enough: Enough = None) -> np.ndarray:
    """Read any image file as RGB.

    Grayscale, CMYK, palette and 16-bit images are converted, transparency is dropped,
    and the camera's orientation (EXIF) is applied.

    Args:
        path (str | Path): The file.
        enough (callable, optional): ``enough(height, width)`` says whether an image of
            that size will do. A JPEG is decoded at an eighth, a quarter or a half of its
            sides if so, which saves most of the work. Defaults to None, full size.

    Returns:
        np.ndarray: Pixels, shape (H, W, 3), uint8.

    Raises:
        BadImage: If the file is truncated, or no image.
        UnreadImage: The same where the file is missing or the disk fails.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UnreadImage(f'{path}: {type(error).__name__}: {error}') from error
    return decode_image(data, enough, path)


def decode_image(data: bytes, enough: Enough, name: 'str | Path') -> np.ndarray:
    """As :func:`read_image`, from a file's content; ``name`` is for the message."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            is_reduced = _reduce(image, enough)
            if image.format == 'JPEG' and image.mode == 'RGB' and not is_reduced \
                    and not _is_turned(image):
                pixels = _decode_whole_jpeg(data)
                if pixels is not None:
                    return pixels
            image.load()
            return to_rgb(_upright(image))
    # Decoders raise many types on damaged files, SyntaxError and struct.error among them.
    except Exception as error:
        raise BadImage(f'{name}: {type(error).__name__}: {error}') from error


def _reduce(image: Image.Image, enough: Enough) -> bool:
    """Let the JPEG decoder skip frequencies; other formats do not know how."""
    if enough is None or image.format != 'JPEG':
        return False
    width, height = image.size
    for factor in (8, 4, 2):
        if enough(height // factor, width // factor):
            image.draft(None, (width // factor, height // factor))
            return True
    return False


def _decode_whole_jpeg(data: bytes) -> Optional[np.ndarray]:
    """What Pillow's decoder gives, a fifth faster; None for Pillow to say what is wrong."""
    try:
        pixels = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8),
                             ImageReadMode.RGB)  # (3, H, W), channels innermost
    except RuntimeError:
        return None
    return pixels.permute(1, 2, 0).contiguous().numpy()


def _is_turned(image: Image.Image) -> bool:
    try:
        return image.getexif().get(_ORIENTATION, 1) != 1
    except Exception:  # pixels are fine, only the note on the camera is damaged
        return False


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image) if _is_turned(image) else image
    except Exception:  # as above
        return image


def to_rgb(image: Image.Image) -> np.ndarray:
    """Pixels of a PIL image as (H, W, 3) uint8."""
    if image.mode.startswith(('I', 'F')):  # 16 or 32 bits, which PIL would clip at 255
        values = np.nan_to_num(np.asarray(image, dtype=np.float64))
        highest = values.max(initial=0)
        if image.mode.startswith('I;16') or highest > 255:
            values = values / 257  # 65535 -> 255
        elif image.mode == 'F' and highest <= 1:
            values = values * 255
        gray = np.clip(values.round(), 0, 255).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=2)
    if image.mode == 'P':  # PIL warns when a palette's transparency is dropped directly
        image = image.convert('RGBA')
    return np.array(image if image.mode == 'RGB' else image.convert('RGB'))


def fingerprint_of(source) -> str:
    """Digest of an image source that tells whether its images have been changed.

    Args:
        source (object): Image source; names alone count if it has no ``fingerprint()``.

    Returns:
        str: Hexadecimal digits; computed once for each object.
    """
    known = getattr(source, '_fingerprint', None)
    if known is None:
        if hasattr(source, 'fingerprint'):
            known = source.fingerprint()
        else:
            names = '\n'.join(source.name(index) for index in range(len(source)))
            known = hashlib.sha256(names.encode(errors='surrogateescape')).hexdigest()
        source._fingerprint = known
    return known


@DATASETS.register_module()
class ImageList:
    """Image files: a folder, a text list, or a COCO json.

    A folder is read recursively (through links, without hidden files) and sorted by
    name; a list keeps its order. So an index means the same on every machine.

    Args:
        root (str | Path): Folder that names are relative to; or a text list or json
            itself, whose names are then relative to the folder it is in.
        ann_file (str | Path, optional): A text file with one name a line, or a COCO
            json whose ``images`` have a ``file_name``.

    Raises:
        FileNotFoundError: If the folder or the list does not exist, or has no image.
        ValueError: If the list has the wrong form or names an image twice.
    """

    def __init__(self, root: 'str | Path', ann_file: 'Optional[str | Path]' = None) -> None:
        self.root = Path(root).expanduser()
        if self.root.is_file() and ann_file is None:
            self.root, ann_file = self.root.parent, self.root
        if not self.root.is_dir():
            raise FileNotFoundError(f'image folder {root} does not exist; give an existing folder, '
                                    'e.g. with --images DIR')
        self.names = _found(self.root) if ann_file is None else _listed(
            Path(ann_file).expanduser(), self.root)
        if not self.names:
            raise FileNotFoundError(f'{ann_file or root} holds no image; expected files ending in '
                                    f'{", ".join(IMAGE_SUFFIXES)}')

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        """Name of an image relative to the root, with forward slashes."""
        return self.names[index]

    def read(self, index: int, enough: Enough = None) -> np.ndarray:
        """Pixels (H, W, 3), uint8; see :func:`read_image`; raises :class:`BadImage`."""
        return read_image(self.root / self.names[index], enough)

    def fingerprint(self) -> str:
        """Digest of names, sizes and times of change; asks the disk for each file."""
        digest = hashlib.sha256()
        blocks = [self.names[i:i + _BLOCK] for i in range(0, len(self.names), _BLOCK)]
        with ThreadPoolExecutor(8) as pool:  # a disk of the network answers several at a time
            for facts in pool.map(lambda block: _file_facts(str(self.root), block), blocks):
                digest.update(facts)
        return digest.hexdigest()

    def is_there(self) -> bool:
        """Whether the folder is, with images in it; a disk of the network may have gone."""
        some = self.names[::max(len(self.names) // 8, 1)]
        return any((self.root / name).exists() for name in some)


def _file_facts(root: str, names: List[str]) -> bytes:
    """Name, size and time of change of files, one a line."""
    lines = []
    for name in names:
        try:
            found = os.stat(os.path.join(root, name))
            facts = f'{found.st_size} {found.st_mtime_ns}'
        except OSError:
            facts = 'missing'
        lines.append(os.fsencode(name) + f'\0{facts}\n'.encode())
    return b''.join(lines)


def _found(root: Path) -> List[str]:
    names, seen = [], set()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        seen.add(os.path.realpath(folder))
        subfolders[:] = [name for name in subfolders  # a link to a folder above would not end
                         if os.path.realpath(os.path.join(folder, name)) not in seen]
        place = Path(folder).relative_to(root)
        names += [(place / name).as_posix() for name in files
                  if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith('.')]
    return sorted(names)


def _listed(path: Path, root: Path) -> List[str]:
    if not path.is_file():
        raise FileNotFoundError(f'image list {path} does not exist')
    if path.suffix.lower() in IMAGE_SUFFIXES:
        raise ValueError(f'expected a folder, a text list or a COCO json, got the image {path}')
    try:
        text = path.read_text(encoding='utf-8-sig')
    except UnicodeDecodeError as error:
        raise ValueError(f'{path} must be a list of names in UTF-8, got other bytes ({error}); '
                         'it is damaged, or no list') from error
    if path.suffix.lower() == '.json':
        names = _coco_names(path, text)
    else:
        names = [line.strip() for line in text.splitlines() if line.strip()]
    seen = set()
    for name in names:
        if name in seen:
            raise ValueError(f'{path} names {name} twice, which would be its own neighbour; '
                             'remove the second')
        seen.add(name)
    if names and not any((root / name).is_file() for name in names[:100]):
        raise FileNotFoundError(f'{path} names {names[0]}, which is not in {root}; give the folder '
                                'that its names are relative to, and the list as ann_file')
    return names


def _coco_names(path: Path, text: str) -> List[str]:
    try:
        return [str(image['file_name']) for image in json.loads(text)['images']]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f'{path} must be a COCO json with images[].file_name, '
                         f'got {type(error).__name__}: {error}') from error
