"""A training reaches its first step without packages that it does not use.

Modules are counted, since seconds depend on the machine.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.helpers.default_runs import arguments, make_images, write_toy_config
from tests.helpers.toy_config import write_init

#: Packages that are installed for other tasks. MMEngine itself imports matplotlib and setuptools.
UNUSED = (
    *('mmdet', 'mmseg', 'transformers', 'timm', 'sklearn', 'pandas', 'faiss', 'lmdb', 'zarr'),
    *('gradio', 'plotly', 'huggingface_hub', 'cotap_mm.visualization', 'cotap_mm.export'),
)
# Runs the command line in argv, and prints what is imported instead of the first step.
SCRIPT = """
import json, os, sys
from cotap_mm.cli import train
from cotap_mm.compat.import_hooks import after_import

def stop(self, data_batch):
    print('MODULES', json.dumps(sorted(sys.modules)), flush=True)
    os._exit(0)

def change(module):
    module.ResumableTrainLoop.run_iter = stop

after_import('cotap_mm.engine.resume.train_loop', change)
before = sys.argv[1]
if before:
    __import__(before)
train.main(sys.argv[2:])
"""


def modules_at_first_step(folder, before=''):
    """Names of all modules when ``cotap train`` has its first batch, after importing ``before``."""
    done = subprocess.run(
        [sys.executable, '-c', SCRIPT, before, *arguments(folder, 'vits_folder')],
        capture_output=True,
        text=True,
        cwd=folder,
    )
    found = [line for line in done.stdout.splitlines() if line.startswith('MODULES ')]
    assert found, done.stdout[-2000:] + done.stderr[-2000:]
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
