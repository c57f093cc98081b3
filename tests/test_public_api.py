"""Public names and their arguments, which users rely on: a change here is a change for them.

A new argument may be added, and this list then too. To rename or remove one, keep the old name
working for a release (cotap_mm/deprecation.py) and write it into the changelog.
"""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import cotap_mm
from cotap_mm.api.run import PretrainedRun
from cotap_mm.commands.compare import Comparison
from cotap_mm.embedding.file import Features
from cotap_mm.encoders.encoder import Encoder

ROOT = Path(cotap_mm.__file__).parent
#: Name -> its arguments; those after * can only be given by name. Values are defaults.
FUNCTIONS = {
    'CoTAPTransformer': (
        "checkpoint, feature='cls', size=224, batch_size=32, device=None, network=None, "
        'output=None, num_heads=None, trust=False'
    ),
    'compare': (
        'backbones, data, out, *, protocol=None, full=False, images=None, '
        "kinds=('compare', 'pca', 'similarity'), shown=6, size=None, root=None, classes=None, "
        'limit=None, image_size=None, value_range=None, settings=None, overwrite=False, '
        'device=None, network=None, output=None, num_heads=None, trust=False'
    ),
    'embed': (
        "encoder, images, out, *, features=('cls',), size=224, dtype='float32', batch_size=32, "
        "num_workers=2, device=None, ann_file=None, value_range='auto', overwrite=False, "
        'progress=None, network=None, output=None, num_heads=None, trust=False'
    ),
    'evaluate': (
        "encoder, data, protocol='dense-retrieval', *, name=None, root=None, classes=None, "
        'limit=None, image_size=None, value_range=None, settings=None, out=None, device=None, '
        'network=None, output=None, num_heads=None, trust=False'
    ),
    'load': (
        "checkpoint, device='cpu', network=None, source='auto', trust=False, num_heads=None, "
        'output=None'
    ),
    'pretrain': (
        "images, out, *, init=None, config='vits_folder', iterations=None, batch_size=None, "
        'num_workers=None, patch_size=None, trainable_blocks=None, lora=None, seed=None, '
        'amp=False, auto_scale_lr=False, resume=False, overwrite=False, force=False, '
        'cls_images=None, ann_file=None, cls_ann_file=None, '
        'neighbors=None, cls_neighbors=None, value_range=None, trust=False, '
        "launcher='none', log=None, options=None, report=False, progress=None"
    ),
    'read_features': 'path',
    'visualize': (
        'checkpoints, images, out, *, kinds=None, limit=6, size=None, labels=None, classes=None, '
        'overwrite=False, device=None, network=None, output=None, num_heads=None, trust=False, '
        '**options'
    ),
}
#: Methods and attributes of what these functions return.
RESULTS = {
    Encoder: {
        'encode': "images, size=None, batch_size=32, progress=False, value_range='auto'",
        '__call__': 'images',
        'layers': 'images',
        'cls_attention': 'images',
        'prototype_attention': 'images',
        'foreground': 'images, mass=0.6',
        'weights_hash': '',
        'grid': 'height, width',
        'device': None,
    },
    PretrainedRun: {
        'load': '**options',
        **dict.fromkeys(
            (
                *('work_dir', 'checkpoint', 'best', 'iterations', 'metrics', 'history'),
                *('config', 'logs', 'report'),
            )
        ),
    },
    Features: {'__getitem__': 'name', '__len__': '', 'shape': 'name', 'names': None},
    cotap_mm.CoTAPTransformer: {
        'fit': 'X, y=None',
        'transform': 'X',
        'get_feature_names_out': 'input_features=None',
    },
    Comparison: {'rows': '', 'results': None, 'report': None},
}


def arguments(function):
    """Arguments of a function or method as in :data:`FUNCTIONS`."""
    signature = inspect.signature(function)
    plain = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for name, parameter in signature.parameters.items()
        if name != 'self'
    ]
    empty = inspect.Signature.empty
    return str(signature.replace(parameters=plain, return_annotation=empty))[1:-1]


def test_names():
    assert sorted(cotap_mm.__all__) == sorted(['__version__', *FUNCTIONS])
    assert set(cotap_mm.__all__) <= set(dir(cotap_mm))
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        cotap_mm.lode  # noqa: B018


@pytest.mark.parametrize('name', FUNCTIONS)
def test_arguments(name):
    assert arguments(getattr(cotap_mm, name)) == FUNCTIONS[name]


@pytest.mark.parametrize('kind', RESULTS, ids=lambda kind: kind.__name__)
def test_results(kind):
    fields = {*getattr(kind, '__dataclass_fields__', ()), *getattr(kind, '_fields', ())}
    for name, wanted in RESULTS[kind].items():
        if wanted is None:
            assert name in fields or hasattr(kind, name), name
        else:
            assert arguments(getattr(kind, name)) == wanted, name


@pytest.mark.parametrize('name', [*FUNCTIONS, 'Encoder.encode'])
def test_docstrings_have_an_example_and_every_argument(name):
    function = Encoder.encode if '.' in name else getattr(cotap_mm, name)
    text = inspect.getdoc(function)
    assert '::\n\n' in text or name == 'read_features', 'there is no example'
    documented = text[text.index('Args:') :]
    for argument in inspect.signature(function).parameters:
        if argument != 'self':
            assert (
                f'\n    {argument} (' in documented
                or f'\n    {argument}: ' in documented
                or (f'\n    **{argument}: ' in documented)
            ), argument
    assert inspect.isclass(function) or '\nReturns:\n' in text and '\nRaises:\n' in text


def test_types_are_shipped():
    assert (ROOT / 'py.typed').is_file()
    for name in FUNCTIONS:
        hints = inspect.signature(getattr(cotap_mm, name))
        assert hints.return_annotation is not inspect.Signature.empty
        for argument in hints.parameters.values():
            assert argument.annotation is not inspect.Parameter.empty, (name, argument)


def test_importing_is_light_and_the_rest_follows():
    code = (
        'import sys, cotap_mm\n'
        'slow = {"torch", "mmengine", "sklearn", "matplotlib", "PIL", "numpy", "rich"}\n'
        'assert not slow & set(sys.modules), slow & set(sys.modules)\n'
        'assert not hasattr(cotap_mm, "fiftyone")\n'
    )
    subprocess.run([sys.executable, '-c', code], check=True)
