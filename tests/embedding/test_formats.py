"""The same features in every format; packages that only one format needs are optional."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from cotap_mm.embedding import embed as module
from cotap_mm.embedding.embed import embed
from cotap_mm.embedding.file import read_features

PACKAGES = {'parquet': 'pyarrow', 'zarr': 'zarr'}


def write(encoder, photos, out, **options):
    options = dict(features=['cls', 'mean', 'patches'], size=16, num_workers=0, **options)
    return embed(encoder, photos, out, **options)


@pytest.mark.parametrize('dtype', ['float32', 'float16'])
@pytest.mark.parametrize('suffix', PACKAGES)
def test_same_features(encoder, photos, tmp_path, monkeypatch, suffix, dtype):
    pytest.importorskip(PACKAGES[suffix])
    monkeypatch.setattr(module, '_ROWS_OF_PATCHES', 3)
    wanted = write(encoder, photos, tmp_path / 'f.npz', dtype=dtype)
    found = write(encoder, photos, tmp_path / f'f.{suffix}', dtype=dtype)
    for features in (found, read_features(tmp_path / f'f.{suffix}')):
        assert features.ids == wanted.ids and features.skipped == wanted.skipped
        assert features.provenance == wanted.provenance
        for name in ('cls', 'mean', 'patches'):
            assert features.shape(name) == features[name].shape
            assert features[name].dtype == dtype
            assert np.array_equal(features[name], wanted[name])
    encoder.left = 0
    write(encoder, photos, tmp_path / f'f.{suffix}', dtype=dtype)  # exists already
    encoder.left = None
    write(encoder, photos, tmp_path / f'f.{suffix}', dtype=dtype, overwrite=True)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == sorted(['f.npz', f'f.{suffix}', 'photos'])


@pytest.mark.parametrize('suffix', PACKAGES)
def test_interrupted(encoder, photos, tmp_path, monkeypatch, suffix):
    pytest.importorskip(PACKAGES[suffix])
    monkeypatch.setattr(module, '_ROWS_OF_PATCHES', 2)
    encoder.left = 2
    with pytest.raises(KeyboardInterrupt, match='4 of 8 images are saved'):
        write(encoder, photos, tmp_path / f'f.{suffix}', batch_size=2)
    encoder.left = 2
    assert len(write(encoder, photos, tmp_path / f'f.{suffix}', batch_size=2)) == 7


@pytest.mark.parametrize('suffix', PACKAGES)
def test_foreign_files_stay(encoder, photos, tmp_path, suffix):
    pytest.importorskip(PACKAGES[suffix])
    out = tmp_path / f'f.{suffix}'
    if suffix == 'zarr':
        out.mkdir()
        (out / 'mine.txt').write_text('x')
    else:
        out.write_text('x')
    with pytest.raises(ValueError, match='exists and is not a feature file'):
        write(encoder, photos, out)
    assert out.exists()
    assert len(write(encoder, photos, out, overwrite=True)) == 7


def test_parquet_without_cotap_mm(encoder, photos, tmp_path):
    parquet = pytest.importorskip('pyarrow.parquet')
    found = write(encoder, photos, tmp_path / 'f.parquet')
    rows = parquet.read_table(tmp_path / 'f.parquet').to_pylist()
    assert [row['id'] for row in rows] == found.ids
    np.testing.assert_array_equal([row['cls'] for row in rows], found['cls'])


def test_zarr_without_cotap_mm(encoder, photos, tmp_path):
    zarr = pytest.importorskip('zarr')
    found = write(encoder, photos, tmp_path / 'f.zarr')
    group = zarr.open_group(str(tmp_path / 'f.zarr'), mode='r')
    assert group['ids'][:].tolist() == found.ids
    np.testing.assert_array_equal(group['patches'][2:4], found['patches'][2:4])


@pytest.mark.parametrize('suffix', PACKAGES)
def test_a_missing_package_is_reported_before_anything_else(tmp_path, monkeypatch, suffix):
    monkeypatch.setitem(sys.modules, PACKAGES[suffix], None)
    with pytest.raises(ImportError, match=f'pip install {PACKAGES[suffix]}'):
        embed('nowhere.pth', 'nowhere', tmp_path / f'f.{suffix}')
