"""A training reaches its first step without packages that it does not use.

Modules are counted, since seconds depend on the machine.
"""

from __future__ import annotations

import json

import pytest

from tests.helpers.default_runs import arguments, make_images, write_toy_config
from tests.helpers.tool_loading import load_tool
from tests.helpers.toy_config import write_init

#: Packages that are installed for other tasks. MMEngine itself imports matplotlib and setuptools.
UNUSED = (
    *('mmdet', 'mmseg', 'transformers', 'timm', 'sklearn', 'pandas', 'faiss', 'lmdb', 'zarr'),
    *('gradio', 'plotly', 'huggingface_hub', 'cotap_mm.visualization', 'cotap_mm.export'),
)


def modules_at_first_step(folder, before=''):
    """Names of all modules when ``cotap train`` has its first batch, after importing ``before``."""
    startup = load_tool('benchmarks/startup')
    shown = startup.run_code(
        startup.TRAIN, before, *arguments(folder, 'vits_folder'), folder=folder
    )
    found = [line for line in shown.splitlines() if line.startswith('MODULES ')]
    return set(json.loads(found[0][len('MODULES ') :]))


@pytest.mark.slow
def test_a_training_imports_what_it_uses(tmp_path):
    make_images(tmp_path / 'images')
    write_init(tmp_path / 'init.pth')
    write_toy_config(tmp_path, 'vits_folder')
    found = modules_at_first_step(tmp_path)
    assert {'torch', 'mmengine.runner', 'cotap_mm.engine'} <= found
    assert set(UNUSED) & found == set()
    # The same test sees a package that is imported without need.
    assert set(UNUSED) & modules_at_first_step(tmp_path, 'lmdb') == {'lmdb'}
