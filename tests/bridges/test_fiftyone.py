"""Features in a field of FiftyOne, with a stand-in for its data sets."""

from __future__ import annotations

import numpy as np
import pytest

import cotap_mm
from cotap_mm.bridges.fiftyone import add_to_fiftyone
from tests.helpers.tiny import write_checkpoint
from tests.helpers.toy_config import write_noise


class Samples:
    """The two methods of ``fiftyone.Dataset`` that are used."""

    def __init__(self, paths):
        self.fields = dict(filepath=[str(path) for path in paths])

    def values(self, field):
        return self.fields[field]

    def set_values(self, field, values):
        assert len(values) == len(self.fields['filepath'])
        self.fields[field] = values


def test_features_are_stored(tmp_path):
    write_checkpoint(tmp_path / 'iter_1.pth')
    rng = np.random.default_rng(0)
    paths = [tmp_path / f'{index}.png' for index in range(3)]
    for index, path in enumerate(paths):
        write_noise(path, rng, (32, 32 + 8 * index))
    samples = Samples(paths)
    found = add_to_fiftyone(
        samples, tmp_path / 'iter_1.pth', 'mine', size=32, device='cpu', output='backbone'
    )
    wanted = cotap_mm.load(tmp_path / 'iter_1.pth', output='backbone').encode(paths, size=32).cls
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(np.stack(samples.fields['mine']), found)
    with pytest.raises(ValueError, match='at least one image'):
        add_to_fiftyone(Samples([]), tmp_path / 'iter_1.pth')
