"""Source archive and wheel: complete, and usable from another folder; files of a release agree."""

from __future__ import annotations

import email
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml

from cotap_mm.version import __version__
from tests.helpers.tool_loading import load_tool
from tests.helpers.toy_config import write_noise

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ('cotap_mm', 'configs', 'tools', 'requirements')
IGNORED = shutil.ignore_patterns('__pycache__', '.mim', '*.egg-info')
WORKFLOWS = sorted((ROOT / '.github' / 'workflows').glob('*.yml'))


def build(kind, folder, out):
    """Build 'sdist' or 'wheel' of a folder, without network, and return the file."""
    code = f'import sys, setuptools.build_meta as b; print(b.build_{kind}(sys.argv[1]))'
    done = subprocess.run(
        [sys.executable, '-c', code, str(out)], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return out / done.stdout.splitlines()[-1]


@pytest.fixture(scope='module')
def release(tmp_path_factory):
    """Return the source archive of a clean copy, and the wheel that is built from the archive."""
    top = tmp_path_factory.mktemp('release')
    copy, out = top / 'source', top / 'dist'
    out.mkdir()
    for name in FOLDERS:
        shutil.copytree(ROOT / name, copy / name, ignore=IGNORED)
    for path in ROOT.iterdir():
        if path.is_file() and path.suffix != '.log':
            shutil.copy(path, copy)
    archive = build('sdist', copy, out)
    with tarfile.open(archive) as file:
        file.extractall(top / 'unpacked')
    (unpacked,) = (top / 'unpacked').iterdir()
    return archive, build('wheel', unpacked, out)


@pytest.fixture(scope='module')
def wheel_names(release):
    return zipfile.ZipFile(release[1]).namelist()


def shipped():
    """Files of the repository that belong into a wheel -> their names there."""
    found = {}
    for name, prefix in (
        ('cotap_mm', ''),
        ('configs', 'cotap_mm/.mim/'),
        ('tools', 'cotap_mm/.mim/'),
    ):
        for path in (ROOT / name).rglob('*'):
            parts = path.relative_to(ROOT).parts
            if path.is_file() and not {'__pycache__', '.mim'} & set(parts):
                found[path] = prefix + '/'.join(parts)
    return found


@pytest.mark.slow
def test_wheel_ships_configs_and_tools(wheel_names):
    for name in (
        'cotap_mm/.mim/configs/cotap/vitb_coco.py',
        'cotap_mm/.mim/tools/train.py',
        'cotap_mm/.mim/tools/dist_train.sh',
        'cotap_mm/models/algorithms/cotap.py',
        'cotap_mm_mmcv_lite.pth',
    ):
        assert name in wheel_names, name
    assert not [name for name in wheel_names if name.startswith('tests')]


@pytest.mark.slow
def test_wheel_ships_every_asset(wheel_names):
    assets = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / 'cotap_mm' / 'assets').rglob('*')
        if path.is_file()
    ]
    assert 'cotap_mm/assets/toy_vit.pth' in assets
    assert set(assets) <= set(wheel_names)


@pytest.mark.slow
def test_wheel_of_the_source_archive_is_complete(wheel_names):
    assert [name for name in shipped().values() if name not in wheel_names] == []
    own = [name for name in wheel_names if '.dist-info/' not in name]
    assert set(own) == {*shipped().values(), 'cotap_mm_mmcv_lite.pth'}


@pytest.mark.slow
def test_metadata(release):
    with zipfile.ZipFile(release[1]) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith('/METADATA'))
        data = email.message_from_bytes(wheel.read(name))
        names = wheel.namelist()
    assert data['Version'] == __version__ and data['Name'].replace('-', '_') == 'cotap_mm'
    assert data['Requires-Python'] == '>=3.9'
    assert {'mm', 'mmseg', 'mmdet', 'downstream', 'pack', 'viewer', 'all', 'tests'} <= set(
        data.get_all('Provides-Extra')
    )
    assert data['Description-Content-Type'] == 'text/markdown'
    assert any(re.search(r'dist-info/(licenses/)?LICENSE$', name) for name in names)
    # Forks of OpenMMLab's packages have other names, so these are in extras.
    required = [text for text in data.get_all('Requires-Dist') if 'extra ==' not in text]
    assert required and not [text for text in required if text.startswith('mm')]
    mm = [text for text in data.get_all('Requires-Dist') if re.search('extra == .all.', text)]
    assert any(text.startswith('mmdet') for text in mm)
    assert not any(text.startswith('openmim') for text in mm)


@pytest.fixture(scope='module')
def installed(release, tmp_path_factory):
    """Install the wheel into an empty environment, which finds its dependencies in this one."""
    top = tmp_path_factory.mktemp('installed')
    venv.create(top / 'env', with_pip=False)
    python = top / 'env' / 'bin' / 'python'
    subprocess.run(
        [
            sys.executable,
            '-m',
            'pip',
            '--python',
            python,
            'install',
            '-q',
            '--no-deps',
            '--no-index',
        ]
        + [str(release[1])],
        check=True,
    )
    site = subprocess.run(
        [python, '-c', 'import sysconfig; print(sysconfig.get_path("purelib"))'],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    # A folder in a .pth file comes after the environment's own packages, and its .pth files are
    # not read: an editable cotap_mm there is not found.
    (Path(site) / 'dependencies.pth').write_text(sysconfig.get_path('purelib') + '\n')
    rng = np.random.default_rng(0)
    for index in range(6):
        write_noise(top / 'elsewhere' / 'images' / f'{index}.png', rng, (70, 80))
    environment = {key: each for key, each in os.environ.items() if not key.startswith('PYTHON')}

    def run(program, *words):
        done = subprocess.run(
            [top / 'env' / 'bin' / program, *words],
            cwd=top / 'elsewhere',
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    return run


@pytest.mark.slow
def test_installed_package_is_the_one_that_runs(installed):
    place = installed('python', '-c', 'import cotap_mm; print(cotap_mm.__file__)')
    assert '/env/lib/' in place and str(ROOT) not in place
    assert installed('cotap', '--version') == f'cotap_mm {__version__}\n'
    assert 'cotap COMMAND --help' in installed('cotap', '--help')
    assert 'usage: cotap train' in installed('python', '-m', 'cotap_mm', 'train', '--help')
    report = installed('cotap', 'doctor', '--no-imports')
    assert f'{__version__} (installed package)' in report


@pytest.mark.slow
def test_installed_package_trains_from_another_folder(installed):
    """Config and initial weights come from the package."""
    text = installed(
        'cotap',
        *('train', 'raccoon_toy', '--images', 'images', '--dry-run', '--cfg-options'),
        *('train_dataloader.batch_size=2', 'train_dataloader.num_workers=0'),
    )
    assert 'dry run passed' in text


def test_versions_agree(tmp_path):
    tool = load_tool('check_release')
    assert tool.mistakes(ROOT, None) == []
    for name in ('CITATION.cff', 'CHANGELOG.md'):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / 'cotap_mm').mkdir()
    (tmp_path / 'cotap_mm' / 'version.py').write_text("__version__ = '7.1.0'\n")
    found = '\n'.join(tool.mistakes(tmp_path, 'v7.1'))
    for text in ('the tag must be v7.1.0', 'CITATION.cff must have version 7.1.0', '## [7.1.0] -'):
        assert text in found
    changelog = tmp_path / 'CHANGELOG.md'
    changelog.write_text(changelog.read_text() + '\n## [7.1.0] - 2030-01-02\n')
    citation = tmp_path / 'CITATION.cff'
    citation.write_text(citation.read_text().replace(f'version: {__version__}', 'version: 7.1.0'))
    assert tool.mistakes(tmp_path, 'v7.1.0') == []


def test_the_version_is_written_once():
    assert __version__ not in (ROOT / 'setup.py').read_text()
    assert __version__ not in (ROOT / 'pyproject.toml').read_text()


def test_changelog_has_the_usual_form():
    text = (ROOT / 'CHANGELOG.md').read_text(encoding='utf-8')
    sections = re.findall(r'^## (.*)$', text, re.M)
    assert sections[0] == '[Unreleased]'
    for section in sections[1:]:
        assert re.fullmatch(r'\[\d+\.\d+\.\d+\S*\] - \d{4}-\d\d-\d\d', section), section
    kinds = ('Added', 'Changed', 'Deprecated', 'Removed', 'Fixed', 'Security')
    assert set(re.findall(r'^### (.*)$', text, re.M)) <= set(kinds)


def test_every_deprecation_is_listed():
    tool = load_tool('list_deprecations')
    text = (ROOT / 'CHANGELOG.md').read_text(encoding='utf-8')
    table = text.split(tool.FIRST)[1].split(tool.LAST)[0]
    assert table.splitlines() == tool.rows(), 'python tools/list_deprecations.py --write'
    for known in ('`cotap train`: `--check`', "`type='SafeCheckpointHook'`", 'camvid_small.py'):
        assert known in table


def test_citation():
    data = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert {'cff-version', 'message', 'title', 'authors'} <= set(data)
    paper = data['preferred-citation']
    assert [each['family-names'] for each in paper['authors']] == [
        *('Wen', 'Xu', 'Dai', 'Cong', 'Huang')
    ]
    assert '2509.09429' in paper['url'] and paper['year'] == 2025


@pytest.mark.parametrize('path', WORKFLOWS, ids=lambda path: path.stem)
def test_workflows(path):
    data = yaml.safe_load(path.read_text())
    assert data['permissions'] == {'contents': 'read'}, 'jobs ask for more'
    for job in data['jobs'].values():
        for step in job['steps']:
            for name in re.findall(r'\btools/\w+\.(?:py|sh)|\.ci/run', step.get('run', '')):
                assert (ROOT / name).is_file(), name
            for target in re.findall(r'\bmake (\w+)', step.get('run', '')):
                if target != 'docs' or (ROOT / 'mkdocs.yml').exists():
                    assert re.search(rf'^{target}:', (ROOT / 'Makefile').read_text(), re.M), target


def test_publishing_needs_no_password():
    jobs = yaml.safe_load((ROOT / '.github/workflows/publish.yml').read_text())['jobs']
    assert jobs['upload']['permissions'] == {'id-token': 'write'}
    assert 'permissions' not in jobs['build']
    assert 'secrets' not in str(jobs) and 'password' not in str(jobs)


def test_issue_templates_ask_for_the_report_of_doctor():
    folder = ROOT / '.github' / 'ISSUE_TEMPLATE'
    for path in folder.glob('*.yml'):
        assert yaml.safe_load(path.read_text()), path.name
    fields = {
        each.get('id'): each for each in yaml.safe_load((folder / 'bug.yml').read_text())['body']
    }
    assert 'cotap doctor --markdown' in fields['doctor']['attributes']['description']
    assert fields['doctor']['validations']['required']
