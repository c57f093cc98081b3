"""Tools replace only files that they have written themselves."""

from __future__ import annotations

import numpy as np
import pytest

from cotap_mm.datasets.neighbors.file import is_neighbor_file, save_neighbors
from cotap_mm.datasets.sources.packed import is_packed_file
from cotap_mm.files.overwrite import check_replaceable
from cotap_mm.visualization import Report
from cotap_mm.visualization.report.html import is_report


def test_a_neighbor_file(tmp_path):
    path = tmp_path / 'n.npz'
    check_replaceable(path, is_neighbor_file, 'a neighbor file')
    save_neighbors(path, ['a', 'b'], np.array([[1], [0]]))
    check_replaceable(path, is_neighbor_file, 'a neighbor file')
    np.savez(path, weights=np.zeros(3))
    with pytest.raises(ValueError, match='n.npz exists and is not a neighbor file .*--overwrite'):
        check_replaceable(path, is_neighbor_file, 'a neighbor file')
    check_replaceable(path, is_neighbor_file, 'a neighbor file', overwrite=True)


def test_a_report(tmp_path):
    page = Report('Title', 'text').save(tmp_path)
    check_replaceable(page, is_report, 'a report')
    page.write_text('<html>mine</html>')
    with pytest.raises(ValueError, match='report.html exists and is not a report'):
        check_replaceable(page, is_report, 'a report')


def test_packed_images(tmp_path):
    pytest.importorskip('lmdb', reason='lmdb is not installed')
    from PIL import Image

    from cotap_mm.datasets import ImageList, pack_images

    (tmp_path / 'images').mkdir()
    Image.new('RGB', (8, 8)).save(tmp_path / 'images/a.png')
    path = tmp_path / 'a.lmdb'
    pack_images(ImageList(tmp_path / 'images'), path)
    check_replaceable(path, is_packed_file, 'a file of packed images')
    path.write_bytes(b'somebody else wrote this')
    with pytest.raises(ValueError, match='a.lmdb exists and is not a file of packed images'):
        check_replaceable(path, is_packed_file, 'a file of packed images')


def test_a_folder_or_a_dangling_link_is_not_replaced(tmp_path):
    (tmp_path / 'link').symlink_to(tmp_path / 'nothing')
    for path in (tmp_path, tmp_path / 'link'):
        with pytest.raises(ValueError, match='exists and is not a report'):
            check_replaceable(path, is_report, 'a report')
