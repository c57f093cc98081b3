"""All image modes are read as RGB; lists keep their order."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import nullcontext

import numpy as np
import pytest
from PIL import Image

from cotap_mm.datasets import BadImage, ImageList, read_image
from cotap_mm.datasets.sources.jpeg import decoder
from cotap_mm.datasets.sources.listing import find_images
from cotap_mm.registry import DATASETS


def saved(tmp_path, image, name='image.png', **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


def corner(path):
    pixels = read_image(path)
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
    return pixels[0, 0].tolist()


@pytest.mark.parametrize(
    'mode, value, expected',
    [
        ('L', 90, [90, 90, 90]),
        ('1', 1, [255, 255, 255]),
        ('LA', (90, 10), [90, 90, 90]),
        ('RGB', (1, 2, 3), [1, 2, 3]),
        ('RGBA', (1, 2, 3, 10), [1, 2, 3]),
    ],
)
def test_modes(tmp_path, mode, value, expected):
    assert corner(saved(tmp_path, Image.new(mode, (5, 4), value))) == expected


def test_palette_with_and_without_transparency(tmp_path, recwarn):
    image = Image.new('RGB', (5, 4), (10, 200, 30)).convert('P')
    expected = image.convert('RGB').getpixel((0, 0))
    assert corner(saved(tmp_path, image)) == list(expected)
    assert corner(saved(tmp_path, image, transparency=bytes(range(256)))) == list(expected)
    assert not [w for w in recwarn if 'Palette' in str(w.message)]


def test_cmyk(tmp_path):
    path = saved(tmp_path, Image.new('CMYK', (8, 8), (0, 255, 255, 0)), 'image.jpg', quality=100)
    red, green, blue = corner(path)
    assert red > 200 and green < 40 and blue < 40


@pytest.mark.parametrize('value, expected', [(0, 0), (32896, 128), (65535, 255), (257, 1)])
def test_16_bits_are_scaled_not_clipped(tmp_path, value, expected):
    image = Image.fromarray(np.full((4, 5), value, dtype=np.uint16))
    assert corner(saved(tmp_path, image)) == [expected] * 3


@pytest.mark.parametrize('value, expected', [(0.5, 128), (1.0, 255), (200.0, 200), (np.nan, 0)])
def test_float_tiff(tmp_path, value, expected):
    image = Image.fromarray(np.full((4, 5), value, dtype=np.float32))
    assert corner(saved(tmp_path, image, 'image.tiff')) == [expected] * 3


def test_camera_orientation_is_applied(tmp_path):
    pixels = np.zeros((4, 6, 3), dtype=np.uint8)
    pixels[0, 0] = 255
    exif = Image.Exif()
    exif[274] = 6  # to be rotated by 90 degrees clockwise
    path = saved(tmp_path, Image.fromarray(pixels), exif=exif)
    read = read_image(path)
    assert read.shape == (6, 4, 3) and read[0, 3].tolist() == [255, 255, 255]


def test_damaged_exif_data_do_not_make_an_image_bad(tmp_path, monkeypatch):
    def fail(image):
        raise SyntaxError('not a TIFF file')

    exif = Image.Exif()
    exif[274] = 6
    path = saved(tmp_path, Image.new('RGB', (8, 4), (90, 90, 90)), exif=exif)
    assert read_image(path).shape == (8, 4, 3)
    monkeypatch.setattr('PIL.ImageOps.exif_transpose', fail)
    assert read_image(path).shape == (4, 8, 3)


def smooth(height, width):
    y, x = np.mgrid[:height, :width]
    return np.stack([255 * y / height, 255 * x / width, 128 + 0 * x], axis=-1).astype(np.uint8)


@pytest.mark.parametrize(
    'side, expected',
    [(400, (400, 600)), (200, (200, 300)), (101, (200, 300)), (100, (100, 150)), (1, (50, 75))],
)
def test_a_large_jpeg_is_decoded_at_the_smallest_sufficient_size(tmp_path, side, expected):
    pixels = smooth(400, 600)
    path = saved(tmp_path, Image.fromarray(pixels), 'image.jpg', quality=95)
    asked = []

    def is_large_enough(height, width):
        asked.append((height, width))
        return min(height, width) >= side

    read = read_image(path, is_large_enough)
    assert read.shape == (*expected, 3) and all(width > height for height, width in asked)
    factor = 400 // expected[0]
    means = pixels.reshape(expected[0], factor, expected[1], factor, 3).mean(axis=(1, 3))
    assert np.abs(read - means).max() < 6


def test_reduced_and_rotated(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    path = saved(tmp_path, Image.fromarray(smooth(40, 80)), 'image.jpg', exif=exif)
    assert read_image(path, lambda height, width: height >= 20).shape == (40, 20, 3)


@pytest.mark.parametrize(
    'options',
    [
        dict(quality=90),
        dict(quality=50, progressive=True),
        dict(quality=95, subsampling=0),
        dict(quality=95, subsampling=1),
        dict(quality=90, restart_marker_rows=1),
        dict(quality=90, optimize=True, dpi=(300, 300)),
    ],
)
@pytest.mark.parametrize('size', [(37, 53), (64, 48), (1, 1)])
def test_full_size_jpegs_equal_those_of_pillow(tmp_path, options, size):
    noise = np.random.RandomState(0).randint(0, 60, (*size, 3), dtype=np.uint8)
    path = saved(tmp_path, Image.fromarray(smooth(*size) // 2 + noise), 'image.jpg', **options)
    read = read_image(path)
    assert read.flags['C'] and read.flags['W']  # contiguous and writable
    with Image.open(path) as image:
        np.testing.assert_array_equal(read, np.asarray(image))


def test_a_jpeg_that_the_fast_decoder_rejects_is_decoded_by_pillow(tmp_path, monkeypatch):
    path = saved(tmp_path, Image.fromarray(smooth(40, 80)), 'image.jpg')
    expected = read_image(path)

    def reject(*_):
        raise RuntimeError('unsupported')

    monkeypatch.setattr(decoder, 'simplejpeg', None)
    monkeypatch.setattr(decoder, 'decode_jpeg', reject)
    np.testing.assert_array_equal(read_image(path), expected)


def test_other_formats_keep_their_size(tmp_path):
    path = saved(tmp_path, Image.fromarray(smooth(40, 80)))
    assert read_image(path, lambda height, width: True).shape == (40, 80, 3)


@pytest.mark.parametrize('size', [(1, 1), (1, 7), (7, 1)])
def test_one_pixel(tmp_path, size):
    assert read_image(saved(tmp_path, Image.new('RGB', size))).shape == (size[1], size[0], 3)


@pytest.mark.parametrize('name', ['image.jpg', 'image.png', 'image.webp', 'image.tiff'])
def test_truncated(tmp_path, name):
    noise = np.random.RandomState(0).randint(0, 256, (64, 64, 3), dtype=np.uint8)
    path = saved(tmp_path, Image.fromarray(noise), name)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(BadImage, match=name):
        read_image(path)


@pytest.mark.parametrize('content', [b'', b'no image', None])
def test_not_an_image(tmp_path, content):
    path = tmp_path / 'image.png'
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadImage, match='image.png'):
        read_image(path)


def test_folder_is_recursive_and_sorted(photos):
    (photos / 'notes.txt').write_text('no image')
    (photos / '._a.png').write_text('metadata of macOS')
    source = DATASETS.build(dict(type='ImageList', root=str(photos)))
    names = [source.name(i) for i in range(len(source))]
    assert names == ['a.png', 'b.jpg', 'c.PNG', 'd.jpeg', 'more/a.png', 'more/e.webp']
    assert source.read(0)[0, 0].tolist() == [40, 40, 40]
    assert source.read(4)[0, 0].tolist() == [160, 160, 160]


@pytest.mark.parametrize('order', [('a', 'b'), ('b', 'a')])
def test_the_order_of_the_disk_does_not_matter(photos, tmp_path, monkeypatch, order):
    """Whether a folder or a link to it is visited first does not depend on the machine."""
    for name in 'ab':
        (tmp_path / 'root' / name).mkdir(parents=True)
    shutil.copy(next(photos.rglob('*.jpg')), tmp_path / 'root' / 'b' / 'x.jpg')
    os.symlink('../b', tmp_path / 'root' / 'a' / 'link')
    scandir, listed = os.scandir, []

    def in_order(folder):
        with scandir(folder) as entries:
            found = sorted(
                entries, key=lambda entry: order.index(entry.name) if entry.name in order else -1
            )
        listed.append([entry.name for entry in found])
        return nullcontext(found)

    monkeypatch.setattr('cotap_mm.datasets.sources.folders.scan.os.scandir', in_order)
    assert find_images(tmp_path / 'root').names == ['a/link/x.jpg']
    assert listed[0] == list(order)


def test_circular_links_are_followed_once(photos, tmp_path):
    root = tmp_path / 'linked'
    root.mkdir()
    os.symlink(photos, root / 'photos')
    os.symlink(root, photos / 'back')
    assert len(ImageList(root)) == 6


@pytest.mark.parametrize('given', ['list alone', 'folder and list'])
def test_text_list_keeps_its_order(photos, given):
    path = photos / 'some.txt'
    path.write_text('\ufeffmore/a.png\n\n  a.png \n', encoding='utf-8')
    source = ImageList(path) if given == 'list alone' else ImageList(photos, path)
    assert source.names == ['more/a.png', 'a.png']
    assert source.read(1)[0, 0].tolist() == [40, 40, 40]


def test_coco_json(photos, tmp_path):
    path = tmp_path / 'coco.json'
    images = [dict(id=7, file_name='d.jpeg'), dict(id=2, file_name='a.png')]
    path.write_text(json.dumps(dict(images=images, annotations=[])))
    assert ImageList(photos, path).names == ['d.jpeg', 'a.png']
    assert ImageList(photos, path).read(1)[0, 0].tolist() == [40, 40, 40]


@pytest.mark.parametrize(
    'content',
    ['[1, 2]', '{"annotations": []}', '{"images": [{"id": 1}]}', '{"images": 3}', '{"images":', ''],
)
def test_wrong_json(photos, tmp_path, content):
    path = tmp_path / 'coco.json'
    path.write_text(content)
    with pytest.raises(ValueError, match=r'coco.json must be .* with images\[\].file_name'):
        ImageList(photos, path)


def test_json_without_images(photos, tmp_path):
    path = tmp_path / 'coco.json'
    path.write_text('{"images": []}')
    with pytest.raises(FileNotFoundError, match='coco.json contains no image names'):
        ImageList(photos, path)


def test_helpful_errors(photos, tmp_path):
    with pytest.raises(FileNotFoundError, match='image folder .* does not exist'):
        ImageList(tmp_path / 'nowhere')
    with pytest.raises(FileNotFoundError, match='image list .* does not exist'):
        ImageList(photos, tmp_path / 'nowhere.txt')
    with pytest.raises(ValueError, match='got the image'):
        ImageList(photos / 'a.png')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(
        FileNotFoundError, match='contains no images; expected files ending in .*.bmp'
    ):
        ImageList(tmp_path / 'empty')
    path = tmp_path / 'list.txt'
    path.write_text('a.png\nb.jpg\na.png\n')
    with pytest.raises(ValueError, match='contains a.png twice'):
        ImageList(photos, path)
    with pytest.raises(ValueError, match='contains a.png twice'):
        ImageList(path)
    path.write_text('x.png\ny.jpg\n')
    with pytest.raises(FileNotFoundError, match='contains x.png, which is not in'):
        ImageList(path)
