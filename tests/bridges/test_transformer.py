"""CoTAPTransformer behaves as scikit-learn expects."""

from __future__ import annotations

import pickle
import sys

import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

import cotap_mm
from cotap_mm import CoTAPTransformer
from tests.helpers.tiny import write_checkpoint


@pytest.fixture
def checkpoint(tmp_path):
    write_checkpoint(tmp_path / 'iter_1.pth')
    return str(tmp_path / 'iter_1.pth')


@pytest.fixture
def photos(tmp_path):
    """Dark and bright images of two sizes, and whether they are bright."""
    paths, rng = [], np.random.default_rng(0)
    for index in range(8):
        noise = rng.integers(0, 60, (32 + 8 * (index % 3), 32, 3)) + 180 * (index % 2)
        paths.append(tmp_path / f'{index}.png')
        Image.fromarray(noise.astype(np.uint8)).save(paths[-1])
    return paths, np.arange(8) % 2


def test_features_are_those_of_the_encoder(checkpoint, photos):
    encoder = cotap_mm.load(checkpoint, output='backbone')
    wanted = encoder.encode(photos[0], size=32)
    options = dict(size=32, batch_size=3, device='cpu', output='backbone')
    for feature, values in (('cls', wanted.cls), ('mean', wanted.patches.mean((2, 3)))):
        step = CoTAPTransformer(checkpoint, feature, **options)
        found = step.fit_transform(photos[0])
        np.testing.assert_allclose(found, values, rtol=1e-4, atol=1e-5)
        assert found.dtype == np.float32 and step.n_features_out_ == 16
        assert list(step.get_feature_names_out()[:2]) == [f'{feature}0', f'{feature}1']
    as_objects = np.array([str(path) for path in photos[0]])
    np.testing.assert_array_equal(step.transform(as_objects), found)
    np.testing.assert_array_equal(step.transform(as_objects.astype(object)), found)
    np.testing.assert_array_equal(step.transform(photos[0][0].parent), found)


def test_parameters_and_clone(checkpoint):
    step = CoTAPTransformer(checkpoint, 'mean', size=(32, 64), network='teacher', device='cpu')
    copy = clone(step.fit(None))
    assert copy.get_params() == step.get_params() and not hasattr(copy, 'encoder_')
    assert step.encoder_.report.network == 'teacher'
    assert copy.set_params(size=64).size == 64
    with pytest.raises(NotFittedError):
        copy.transform([np.zeros((32, 32, 3), np.uint8)])
    with pytest.raises(ValueError, match="'cls' or 'mean', got 'patches'"):
        CoTAPTransformer(checkpoint, 'patches').fit(None)
    with pytest.raises(FileNotFoundError, match='nowhere.pth is not a file'):
        CoTAPTransformer('nowhere.pth').fit(None)


def test_pipeline_and_search(checkpoint, photos):
    paths, labels = photos
    step = CoTAPTransformer(checkpoint, size=32, device='cpu')
    model = make_pipeline(step, LogisticRegression(C=1e6, max_iter=1000)).fit(paths, labels)
    assert model.predict(paths).tolist() == labels.tolist()
    again = pickle.loads(pickle.dumps(model))
    assert again[0].encoder_ is None and again.predict(paths).tolist() == labels.tolist()
    grid = dict(cotaptransformer__feature=['cls', 'mean'])
    search = GridSearchCV(model, grid, cv=2).fit(paths, labels)
    assert len(search.cv_results_['params']) == 2 and np.isfinite(search.best_score_)


def test_encoders_are_taken_and_kept(checkpoint, photos):
    encoder = cotap_mm.load(checkpoint)
    step = CoTAPTransformer(encoder, size=32).fit(None)
    assert step.encoder_ is encoder
    found = pickle.loads(pickle.dumps(step)).transform(photos[0][:2])
    np.testing.assert_allclose(found, step.transform(photos[0][:2]), rtol=1e-5)


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, 'sklearn.base', None)
    monkeypatch.delitem(sys.modules, 'cotap_mm.bridges.transformer')
    with pytest.raises(ImportError, match='pip install scikit-learn'):
        cotap_mm.CoTAPTransformer  # noqa: B018
