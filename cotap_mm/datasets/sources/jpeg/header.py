"""Read the size of an ordinary JPEG without Pillow, which takes longer than some decoders."""

from __future__ import annotations

from typing import Optional

START = b'\xff\xd8\xff'  # first bytes; no other format has them
_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended and progressive, with Huffman codes
_SCAN = 0xDA
_EXIF = 0xE1  # or XMP, which can have an orientation, too
_MULTI_PICTURE = 0xE2  # or a color profile
_IGNORED = (0xC4, 0xDB, 0xDD, 0xFE, 0xE0, _MULTI_PICTURE, *range(0xE3, 0xF0))


def plain_size(data: bytes) -> Optional[tuple[int, int]]:
    """Read the size of a JPEG whose pixels need no conversion and no rotation.

    Args:
        data (bytes): Content of a file.

    Returns:
        tuple[int, int]: Height and width in pixels; None if the file has something unusual (it is
        not a JPEG, has EXIF data, several images, 12 bits, one or four channels, or errors), so
        that Pillow has to look at it.
    """
    if not data.startswith(START):
        return None
    size = None
    at, end = len(START) - 1, len(data) - 9
    while 0 <= at < end and data[at] == 0xFF:
        marker, length = data[at + 1], data[at + 2] << 8 | data[at + 3]
        if marker == _SCAN:
            return size
        if marker in _FRAMES:
            height, width = data[at + 5] << 8 | data[at + 6], data[at + 7] << 8 | data[at + 8]
            if size or data[at + 4] != 8 or data[at + 9] != 3 or not height * width:
                return None
            size = height, width
        elif marker not in _IGNORED or marker == _MULTI_PICTURE and data[at + 4 : at + 7] == b'MPF':
            return None
        at += 2 + length
    return None
