from __future__ import annotations

import json

import numpy as np
import pytest

from cotap_mm.visualization import curves, read_scalars


@pytest.fixture
def work_dir(tmp_path):
    for run, scale in (('20250101_000000', 1), ('20250102_000000', 10)):
        path = tmp_path / run / 'vis_data' / 'scalars.json'
        path.parent.mkdir(parents=True)
        lines = [
            dict(loss=scale * 2.0, lr=0.1, time=0.5, iter=10, step=10),
            dict(loss=scale * 1.0, lr=0.1, time=0.5, iter=20, step=20),
            {'dense_retrieval/mIoU_student': 30.0, 'step': 20},
            {'dense_retrieval/mIoU_teacher': 31.0, 'step': 20},
        ]
        path.write_text('\n'.join(json.dumps(line) for line in lines) + '\n')
    return tmp_path


def test_reads_the_newest_log_without_bookkeeping(work_dir):
    scalars = read_scalars(work_dir)
    assert scalars['loss'] == ([10, 20], [20.0, 10.0])
    assert set(scalars) == {
        'loss',
        'lr',
        'dense_retrieval/mIoU_student',
        'dense_retrieval/mIoU_teacher',
    }
    assert read_scalars(work_dir / '20250101_000000/vis_data/scalars.json')['loss'][1] == [2.0, 1.0]


def test_no_log_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match='scalars.json'):
        read_scalars(tmp_path)


def test_student_and_teacher_share_a_panel(work_dir):
    scalars = read_scalars(work_dir)
    measure = [name for name in scalars if name.startswith('dense')]
    together, apart = curves(scalars, measure), curves(scalars, ['loss', 'lr'])
    assert together.dtype == np.uint8 and together.shape[1] < apart.shape[1]


def test_odd_values_are_drawn():
    picture = curves(
        {'loss': ([1, 2, 3], [1.0, float('nan'), 2.0]), 'lr': ([1], [0.0])}, title='run'
    )
    assert picture.shape[2] == 3


def test_unknown_name_lists_the_logged_names():
    with pytest.raises(ValueError, match=r"\['lr'\].*the log has \['loss'\]"):
        curves({'loss': ([1], [1.0])}, ['lr'])
    with pytest.raises(ValueError, match='nothing'):
        curves({})
