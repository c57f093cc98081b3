"""Lists of images, and reading one robustly."""
import json
from pathlib import Path
from typing import List, Optional

import numpy as np
from PIL import Image, ImageOps

from cotap_mm.registry import DATASETS

IMAGE_SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.ppm', '.tif', '.tiff', '.webp')


class BadImage(Exception):
    """An image file that cannot be decoded."""


def read_image(path: 'str | Path') -> np.ndarray:
    """Read any image file as RGB.

    Grayscale, CMYK, palette and 16-bit images are converted, transparency is dropped,
    and the camera's orientation (EXIF) is applied.

    Args:
        path (str | Path): The file.

    Returns:
        np.ndarray: Pixels, shape (H, W, 3), uint8.

    Raises:
        BadImage: If the file is missing, truncated, or no image.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return to_rgb(ImageOps.exif_transpose(image))
    # Decoders raise many types on damaged files, SyntaxError and struct.error among them.
    except Exception as error:
        raise BadImage(f'{path}: {type(error).__name__}: {error}') from error


def to_rgb(image: Image.Image) -> np.ndarray:
    """Pixels of a PIL image as (H, W, 3) uint8."""
    if image.mode.startswith(('I', 'F')):  # 16 or 32 bits, which PIL would clip at 255
        values = np.asarray(image, dtype=np.float64)
        deep = image.mode.startswith('I;16') or values.max(initial=0) > 255
        values = values / 257 if deep else values
        gray = np.clip(np.nan_to_num(values), 0, 255).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=2)
    return np.array(image.convert('RGB'))


@DATASETS.register_module()
class ImageList:
    """Image files: a folder, a text list, or a COCO json.

    The files are sorted by name, so that an index means the same on every machine.

    Args:
        root (str | Path): Folder that names are relative to; read recursively
            unless ``ann_file`` is given.
        ann_file (str | Path, optional): A text file with one name a line, or a COCO
            json whose ``images`` have a ``file_name``.

    Raises:
        FileNotFoundError: If the folder or the list does not exist, or holds no image.
        ValueError: If the list has the wrong form.
    """

    def __init__(self, root: 'str | Path', ann_file: 'Optional[str | Path]' = None) -> None:
        self.root = Path(root).expanduser()
        if not self.root.is_dir():
            raise FileNotFoundError(f'image folder {root} does not exist; give an existing folder, '
                                    'e.g. with --images DIR')
        self.names = _listed(Path(ann_file)) if ann_file else _found(self.root)
        if not self.names:
            raise FileNotFoundError(f'{ann_file or root} holds no image; expected files ending in '
                                    f'{", ".join(IMAGE_SUFFIXES)}')

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        """Name of an image relative to the root, with forward slashes."""
        return self.names[index]

    def read(self, index: int) -> np.ndarray:
        """Pixels (H, W, 3), uint8; raises :class:`BadImage`."""
        return read_image(self.root / self.names[index])


def _found(root: Path) -> List[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob('*')
                  if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())


def _listed(path: Path) -> List[str]:
    if not path.is_file():
        raise FileNotFoundError(f'image list {path} does not exist')
    text = path.read_text(encoding='utf-8')
    if path.suffix.lower() != '.json':
        return sorted(line.strip() for line in text.splitlines() if line.strip())
    try:
        return sorted(image['file_name'] for image in json.loads(text)['images'])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f'{path} must be a COCO json with images[].file_name, '
                         f'got {type(error).__name__}: {error}') from error
