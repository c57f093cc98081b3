"""Resume shipped configs with default options: ``neighbors='auto'`` and an init checkpoint."""

from __future__ import annotations

import os
import shutil

import pytest
import torch
from mmengine.config import Config

from tests.engine.resume.test_exact_resume import assert_same, saved
from tests.helpers import default_runs, resume_work
from tests.helpers.default_runs import SHIPPED, arguments, make_images, write_toy_config
from tests.helpers.rank_work import on_two_ranks
from tests.helpers.toy_config import write_init


@pytest.fixture(autouse=True)
def quick_start(monkeypatch):
    """Skip formatting of the config, which takes most of the start-up time."""
    monkeypatch.setattr(Config, 'pretty_text', property(resume_work.plain_text))


@pytest.fixture
def folder(tmp_path):
    make_images(tmp_path / 'images')
    write_init(tmp_path / 'init.pth')
    return tmp_path


def neighbor_files(folder):
    return sorted(path.name for path in folder.glob('neighbors_*'))


@pytest.mark.slow
@pytest.mark.parametrize('name', SHIPPED)
def test_every_shipped_config(folder, name):
    write_toy_config(folder, name)
    if 'in1k' in name:
        make_images(folder / 'cls', count=8, seed=1)
    words = arguments(folder, name)
    default_runs.run([*words, '--seed', 3, '--work-dir', folder / 'whole'])
    default_runs.run([*words, '--seed', 3, '--work-dir', folder / 'killed'], kill_at=3)
    (folder / 'init.pth').unlink()  # a resumed run does not need it
    default_runs.run([*words, '--work-dir', folder / 'killed', '--resume'], may_compute=False)
    assert_same(saved(folder / 'killed', 4), saved(folder / 'whole', 4))
    assert neighbor_files(folder / 'killed') == neighbor_files(folder / 'whole')
    assert len(neighbor_files(folder / 'whole')) == 1 + ('in1k' in name)


@pytest.mark.slow
def test_on_two_threads(folder):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        test_every_shipped_config(folder, 'vits_folder')
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def killed(folder):
    """Kill a run after its checkpoint of iteration 2; return its options."""
    write_toy_config(folder, 'vits_folder')
    words = [*arguments(folder, 'vits_folder'), '--seed', 3, '--work-dir']
    default_runs.run([*words, folder / 'run'], kill_at=3)
    return words


@pytest.mark.slow
def test_moved_folder_and_changed_times(folder, killed, monkeypatch):
    messages = []
    monkeypatch.setattr(
        'cotap_mm.engine.auto_neighbors.print_log', lambda text, **_: messages.append(text)
    )
    shutil.copytree(folder / 'run', folder / 'copy')
    default_runs.run([*killed, folder / 'copy', '--resume'], may_compute=False)
    assert not messages
    whole = saved(folder / 'copy', 4)
    shutil.copytree(folder / 'run', folder / 'again')
    shutil.rmtree(folder / 'run')
    os.utime(folder / 'images' / '3.png', (1, 1))
    default_runs.run([*killed, folder / 'again', '--resume'], may_compute=False)
    assert len(messages) == 1 and 'images have changed since' in messages[0]
    assert_same(saved(folder / 'again', 4), whole)


@pytest.mark.slow
def test_deleted_neighbors(folder, killed):
    [name] = neighbor_files(folder / 'run')
    shutil.copytree(folder / 'run', folder / 'copy')
    default_runs.run([*killed, folder / 'run', '--resume'])
    # Rebuilt from the same images and init to the same file.
    (folder / 'copy' / name).unlink()
    shutil.copytree(folder / 'copy', folder / 'other')
    default_runs.run([*killed, folder / 'copy', '--resume'])
    assert neighbor_files(folder / 'copy') == [name]
    assert_same(saved(folder / 'copy', 4), saved(folder / 'run', 4))
    # Rejected if they would be different.
    write_init(folder / 'init.pth', seed=6)
    with pytest.raises(
        SystemExit,
        match=f'{name} of this run does not exist any more.*Restore '
        'the file .* or set one with --neighbors',
    ):
        default_runs.run([*killed, folder / 'other', '--resume'])
    default_runs.run(
        [
            *killed[:-1],
            '--neighbors',
            folder / 'run' / name,
            '--work-dir',
            folder / 'other',
            '--resume',
        ],
        may_compute=False,
    )
    assert_same(saved(folder / 'other', 4)['state_dict'], saved(folder / 'run', 4)['state_dict'])


@pytest.mark.slow
def test_checkpoints_of_an_earlier_version(folder, killed):
    """Only their config contains the neighbor file, and their records have no numbers."""
    path = folder / 'run' / 'iter_2.pth'
    shutil.copytree(folder / 'run', folder / 'new')
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint['run_state']['neighbors']
    torch.save(checkpoint, path)
    path.with_name('iter_2.pth.json').unlink()
    (folder / 'run' / 'run.json').unlink()
    # Its name was different, too.
    [name] = neighbor_files(folder / 'run')
    for folders in ('run', 'new'):
        default_runs.run([*killed, folder / folders, '--resume'], may_compute=False)
    assert_same(saved(folder / 'run', 4), saved(folder / 'new', 4))


@pytest.mark.slow
def test_other_images_with_the_same_names(folder, killed):
    """A new run computes neighbors again, even if a file is replaced by one of the same size."""
    first = neighbor_files(folder / 'run')
    shutil.rmtree(folder / 'images')
    make_images(folder / 'images', seed=7)
    default_runs.run([*killed, folder / 'run', '--overwrite'], kill_at=1)
    assert len(neighbor_files(folder / 'run')) == 2 and set(first) < set(
        neighbor_files(folder / 'run')
    )
    default_runs.run([*killed, folder / 'run', '--overwrite'], kill_at=1, may_compute=False)


@pytest.mark.dist
def test_two_processes(folder, monkeypatch):
    monkeypatch.setenv('COTAP_TEST_FOLDER', str(folder))
    monkeypatch.setenv('WORLD_SIZE', '2')
    (folder / 'ranks').mkdir()
    on_two_ranks(resume_work.two_default_runs, folder / 'ranks')
    assert_same(saved(folder / 'killed', 6), saved(folder / 'whole', 6))
    assert neighbor_files(folder / 'killed') == neighbor_files(folder / 'whole')
    # One process resumes it with the same neighbors.
    monkeypatch.delenv('WORLD_SIZE')
    resume_work.train(folder / 'killed', 8, resume=True)
    assert len(neighbor_files(folder / 'killed')) == 1
