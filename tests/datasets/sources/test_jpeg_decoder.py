"""Fast JPEG decoding: the pixels and errors of Pillow, with and without simplejpeg."""

from __future__ import annotations

import io
import types

import numpy as np
import pytest
from PIL import Image

from cotap_mm.datasets.sources.decoding import BadImage, decode_image
from cotap_mm.datasets.sources.jpeg import decoder
from cotap_mm.datasets.sources.jpeg.header import plain_size


def encoded(mode='RGB', size=(53, 37), kind='JPEG', **options):
    """A file of random blocks; size is width, height."""
    noise = np.random.RandomState(0).randint(0, 256, (*size[::-1], len(mode)), dtype=np.uint8)
    image = Image.fromarray(noise // 4 + 90 if mode == 'RGB' else noise.squeeze(), mode)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def exif():
    data = Image.Exif()
    data[0x0112] = 6
    return data


PLAIN = [
    dict(),
    dict(progressive=True),
    dict(subsampling=0),
    dict(subsampling=1),
    dict(restart_marker_rows=1),
    dict(optimize=True, comment='x' * 300),
    dict(icc_profile=b'profile' * 20_000),  # several segments
    dict(size=(1, 1)),
    dict(size=(16, 8), quality=100),
    dict(keep_rgb=True),
]


@pytest.fixture(params=['installed', 'missing', 'stub'])
def library(request, monkeypatch):
    monkeypatch.setattr(decoder, '_is_same', {})
    if request.param == 'installed':
        pytest.importorskip('simplejpeg')
    else:
        stub = Stub() if request.param == 'stub' else None
        monkeypatch.setattr(decoder, 'simplejpeg', stub)


class Stub(types.SimpleNamespace):
    """Decodes by Pillow, strictly, into a buffer; with an offset to other pixels."""

    __version__ = '0'

    def __init__(self, offset=0):
        super().__init__(offset=offset, num_calls=0)

    def __hash__(self):
        return id(self)

    def decode_jpeg(self, data, colorspace, buffer):
        self.num_calls += 1
        try:
            pixels = np.asarray(Image.open(io.BytesIO(data)).convert(colorspace)) + self.offset
        except OSError as error:
            raise ValueError(str(error)) from error
        buffer[:] = pixels.ravel()
        return buffer.reshape(pixels.shape)


@pytest.mark.parametrize('options', PLAIN, ids=str)
def test_ordinary_files(options, library):
    data = encoded(**options)
    with Image.open(io.BytesIO(data)) as image:
        assert plain_size(data) == (image.height, image.width)
        expected = np.asarray(image.convert('RGB'))
    pixels = decode_image(data, None, 'a.jpg')
    assert pixels.flags['C'] and pixels.flags['W']
    np.testing.assert_array_equal(pixels, expected)


OTHERS = dict(
    gray=lambda: encoded('L'),
    cmyk=lambda: encoded('CMYK'),
    rotated=lambda: encoded(exif=exif()),
    xmp=lambda: encoded(xmp=b'<x:xmpmeta tiff:Orientation="6"/>'),
    several=lambda: encoded(kind='MPO', save_all=True, append_images=[Image.new('RGB', (53, 37))]),
    png=lambda: encoded(kind='PNG'),
    fill=lambda: encoded().replace(b'\xff\xdb', b'\xff\xff\xdb', 1),
)


@pytest.mark.parametrize('kind', sorted(OTHERS))
def test_what_is_left_to_pillow(kind, library):
    data = OTHERS[kind]()
    assert plain_size(data) is None
    shape = (53, 37, 3) if kind in ('rotated', 'xmp') else (37, 53, 3)
    assert decode_image(data, None, 'a.jpg').shape == shape


def test_headers_that_end_early_or_are_damaged():
    data = encoded(comment='a comment')
    start = data.index(b'\xff\xda')
    rng = np.random.RandomState(0)
    for length in range(start + 2):
        assert plain_size(data[:length]) is None
    for position in range(3, start):
        changed = bytearray(data)
        changed[position] = rng.randint(256)
        size = plain_size(bytes(changed))  # ends, without an error
        assert size is None or min(size) > 0


@pytest.mark.parametrize('keep', [0.3, 0.9, 'end'])
def test_truncated_files_are_bad(keep, library):
    data = encoded(size=(200, 150), quality=95)
    data = data[:-40] if keep == 'end' else data[: int(keep * len(data))]
    with pytest.raises(BadImage, match='a.jpg: '):
        decode_image(data, None, 'a.jpg')


def test_large_images_are_rejected_by_their_header(library, monkeypatch):
    monkeypatch.setattr('cotap_mm.datasets.sources.decoding.MAX_IMAGE_PIXELS', 53 * 37 - 1)
    monkeypatch.setattr('cotap_mm.datasets.sources.decoding.decode_rgb', None)
    with pytest.raises(BadImage, match='53 x 37 pixels exceed the limit'):
        decode_image(encoded(), None, 'a.jpg')


def test_reduced_size(library):
    data = encoded(size=(200, 120))
    assert decode_image(data, lambda height, width: height >= 30, 'a').shape == (30, 50, 3)
    assert decode_image(data, lambda height, width: height >= 61, 'a').shape == (120, 200, 3)


def test_given_memory(library):
    memory = []

    def new_pixels(height, width):
        memory.append(np.zeros((height, width, 3), np.uint8))
        return memory[-1]

    with decoder.decoded_into(new_pixels):
        pixels = decode_image(encoded(), None, 'a.jpg')
    assert all(each is pixels for each in memory)
    assert len(memory) == (decoder.simplejpeg is not None)
    np.testing.assert_array_equal(pixels, decode_image(encoded(), None, 'a.jpg'))
    assert len(memory) < 2  # only inside


@pytest.mark.parametrize('offset', [0, 1])
def test_the_first_image_is_compared(offset, monkeypatch):
    library, shown = Stub(offset), []
    monkeypatch.setattr(decoder, 'simplejpeg', library)
    monkeypatch.setattr(decoder, '_is_same', {})
    monkeypatch.setattr(decoder, 'print_log', lambda text, **_: shown.append(text))
    data = encoded()
    for _ in range(3):
        pixels = decode_image(data, None, 'a.jpg')
        np.testing.assert_array_equal(pixels, np.asarray(Image.open(io.BytesIO(data))))
    assert library.num_calls == (1 if offset else 3)
    assert len(shown) == offset
    if offset:
        assert shown[0].startswith('simplejpeg 0 decodes to other pixels than torchvision')
