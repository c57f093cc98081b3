"""A sample of a folder is decoded, and damage, links and copies are found."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from cotap_mm.datasets import open_images
from cotap_mm.datasets.sources import files
from cotap_mm.datasets.sources.packed import pack_images
from cotap_mm.planning.survey import sample_indices, survey_images


def look(folder, **options):
    return survey_images(open_images(folder), str(folder), **options)


def test_all_of_a_small_set_and_pairs_of_a_large_one():
    assert sample_indices(5, 8) == [0, 1, 2, 3, 4]
    assert sample_indices(100, 8) == [0, 1, 25, 26, 50, 51, 75, 76]
    assert sample_indices(9, 8) == sample_indices(9, 8) and len(sample_indices(9, 8)) <= 8
    assert sample_indices(10, 1) == [0, 1]
    large = sample_indices(1_000_000)
    assert len(large) == 400 and large[-1] < 1_000_000


def test_sizes_modes_and_time(write, tmp_path):
    for index in range(3):
        write(f'{index}.jpg', index, size=(60, 80))
    write('gray.png', 7, mode='L')
    write('sub/alpha.png', 8, size=(200, 100), mode='RGBA')
    survey = look(tmp_path / 'images')
    assert survey.count == 5 and survey.bad == [] and survey.links == []
    assert survey.modes() == {'RGB': 3, 'L': 1, 'RGBA': 1}
    assert survey.shorter_sides().tolist() == [60, 60, 60, 60, 100]
    assert 0 < survey.seconds_per_image < 1
    assert survey.duplicates == [] and survey.value_range == ''


def test_damaged_and_missing_files(write, tmp_path):
    for index in range(3):
        write(f'{index}.jpg', index)
    whole = (tmp_path / 'images' / '0.jpg').read_bytes()
    (tmp_path / 'images' / 'cut.jpg').write_bytes(whole[: len(whole) // 2])
    (tmp_path / 'images' / 'text.png').write_text('no image')
    (tmp_path / 'images' / 'gone.png').symlink_to('nowhere.png')
    survey = look(tmp_path / 'images')
    bad = {each.name: each for each in survey.bad}
    assert set(bad) == {'cut.jpg', 'text.png', 'gone.png'}
    assert bad['gone.png'].is_unreachable and not bad['cut.jpg'].is_unreachable
    assert len(survey.good) == 3 and survey.seconds_per_image > 0


def test_no_image_can_be_decoded(tmp_path):
    (tmp_path / 'a.png').write_text('x')
    survey = look(tmp_path)
    assert len(survey.bad) == 1 and survey.seconds_per_image == 0.0


def test_copies_blank_images_and_deep_ones(write, tmp_path):
    for index in range(4):
        write(f'{index}.jpg', index)
    write('copy.png', 2)
    Image.new('RGB', (50, 50), (3, 3, 3)).save(tmp_path / 'images' / 'blank.png')
    values = np.random.default_rng(0).integers(0, 4095, (50, 60)).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / 'images' / 'deep.png')
    survey = look(tmp_path / 'images')
    assert survey.duplicates == [('2.jpg', 'copy.png')]
    assert survey.blank == ['blank.png']
    assert [each.name for each in survey.good if each.is_deep] == ['deep.png']
    assert survey.value_range == '0..4095'


def test_frames_of_a_video(write, tmp_path):
    for index in range(12):
        write(f'{index:02}.jpg', index // 3)
    survey = look(tmp_path / 'images')
    assert survey.consecutive == (8, 11)


def test_links_to_a_parent_and_to_a_sibling(write, tmp_path, monkeypatch):
    write('a/1.jpg', 1)
    write('b/2.jpg', 2)
    (tmp_path / 'images' / 'b' / 'up').symlink_to(tmp_path / 'images')
    (tmp_path / 'images' / 'c').symlink_to('a')
    scans, list_images = [], files.find_images
    monkeypatch.setattr(files, 'find_images', lambda root: scans.append(root) or list_images(root))
    monkeypatch.setattr('os.walk', None)
    survey = look(tmp_path / 'images')
    assert survey.count == 2 and survey.links == ['b/up', 'c'] and len(scans) == 1
    (tmp_path / 'names.txt').write_text('images/a/1.jpg')  # links beside a list do not matter
    assert look(tmp_path / 'names.txt').links == []


def test_a_packed_file(write, tmp_path):
    pytest.importorskip('lmdb')
    for index in range(3):
        write(f'{index}.jpg', index)
    pack_images(open_images(tmp_path / 'images'), tmp_path / 'images.lmdb')
    survey = look(tmp_path / 'images.lmdb')
    assert survey.count == len(survey.good) == 3 and survey.links == []
