"""Facts about an installation in which everything works."""

from __future__ import annotations

import pytest

from cotap_mm.diagnosis.facts import Facts
from cotap_mm.diagnosis.hardware import GIB, Folder, Machine
from cotap_mm.diagnosis.imports import Import


@pytest.fixture
def healthy():
    gpu = dict(name='H', memory=80 * GIB, free=79 * GIB, capability='9.0', error='')
    torch = dict(
        version='2.11.0',
        cuda='13.0',
        hip=None,
        threads=4,
        cpu='AVX2',
        available=True,
        warning='',
        gpus=[gpu],
        bf16=True,
        cudnn=9,
        nccl='2.27',
        gloo=True,
    )
    return Facts(
        python=(3, 11, 7),
        origin='0.1.0 (checkout, commit abc)',
        versions={
            'torch': '2.11.0',
            'torchvision': '0.26.0',
            'mmengine': '0.10.7',
            'mmcv-lite': '2.1.0',
            'mmpretrain': '1.2.0',
            'mmdet': '3.3.0',
            'numpy': '2.4.6',
            'transformers': '5.24.0',
        },
        optional={'lmdb': '3.0.0', 'gradio': ''},
        imports={
            'torch': Import('ok', 2.0, facts=torch),
            'mmcv.ops': Import('ok', 1.0, facts=dict(compiled=False, cuda='')),
            'cotap_mm.models': Import('ok', 3.0),
        },
        machine=Machine(
            system='Linux',
            processor='EPYC',
            cores=8,
            usable_cores=8,
            memory=64 * GIB,
            free_memory=60 * GIB,
            shared_memory=32 * GIB,
            free_shared_memory=32 * GIB,
            open_files=65536,
            has_driver=True,
            driver='H, 580.1, 81559 MiB, 500 MiB',
        ),
        folders={'work folder': Folder('work_dirs', 100 * GIB, 200 * GIB)},
        environment={'OMP_NUM_THREADS': '4', 'PATH': '/bin'},
    )
