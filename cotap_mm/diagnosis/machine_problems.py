"""GPUs that are not used or do not work, small memories, full disks."""

from __future__ import annotations

from collections.abc import Iterator

from .facts import Facts, Problem
from .hardware import GIB
from .version_problems import REINSTALL, matching_torchvision

_SMALL_SHARED_MEMORY = GIB
_SMALL_DISK = 5 * GIB
_FEW_FILES = 1024


def machine_problems(facts: Facts) -> Iterator[Problem]:
    """Find problems of the GPUs, the memory and the disks.

    Args:
        facts (Facts): Facts about the installation.

    Yields:
        Problem: With the command or action that repairs it.
    """
    yield from _gpus(facts)
    yield from _machine(facts)


def _gpus(facts: Facts) -> Iterator[Problem]:
    imported = facts.imports.get('torch')
    if imported is None or imported.status != 'ok' or not facts.machine.has_driver:
        return
    version = str(facts.torch('version')).split('+')[0]
    hidden = facts.environment.get('CUDA_VISIBLE_DEVICES')
    if not facts.torch('cuda'):
        if not facts.torch('hip'):
            yield Problem(
                'this machine has an NVIDIA driver, but torch was built without CUDA and uses '
                'only the CPU',
                REINSTALL.format(version, matching_torchvision(version))
                + '; where the default index has only CPU builds, add --index-url '
                'https://download.pytorch.org/whl/cu126',
                is_broken=False,
            )
    elif hidden is not None and hidden.strip() in ('', '-1'):
        yield Problem(
            f'CUDA_VISIBLE_DEVICES={hidden!r} hides all GPUs',
            'unset CUDA_VISIBLE_DEVICES',
            is_broken=False,
        )
    elif not facts.torch('available'):
        why = facts.torch('warning') or facts.machine.driver or 'no reason given'
        yield Problem(
            f'torch finds no GPU although the machine has an NVIDIA driver: {why}',
            f'install a driver for CUDA {facts.torch("cuda")}, or a torch built for the CUDA of '
            'the driver, which nvidia-smi prints; in a container, start it with --gpus all',
        )
    gpus = facts.torch('gpus')
    for index, gpu in enumerate(gpus if isinstance(gpus, list) else []):
        if gpu['error']:
            yield Problem(
                f'GPU {index} ({gpu["name"]}, compute capability {gpu["capability"]}) fails in a '
                f'small computation: {gpu["error"]}',
                'nvidia-smi shows its state; if the capability is not supported, install a torch '
                'built for it',
            )
        elif gpu['free'] < gpu['memory'] / 2:
            yield Problem(
                f'other processes use {(gpu["memory"] - gpu["free"]) / GIB:.0f} of '
                f'{gpu["memory"] / GIB:.0f} GB on GPU {index}',
                'nvidia-smi lists them; CUDA_VISIBLE_DEVICES selects another GPU',
                is_broken=False,
            )
    if isinstance(gpus, list) and len(gpus) > 1 and not facts.torch('nccl'):
        yield Problem(
            f'torch was built without NCCL, so a training cannot use the {len(gpus)} GPUs together',
            REINSTALL.format(version, matching_torchvision(version)),
        )


def _machine(facts: Facts) -> Iterator[Problem]:
    machine = facts.machine
    if 0 <= machine.shared_memory < _SMALL_SHARED_MEMORY:
        yield Problem(
            f'/dev/shm has {machine.shared_memory / 2**20:.0f} MB; loader workers pass batches '
            'through it, and die when it is full',
            'docker run --shm-size=8g ..., or --cfg-options train_dataloader.num_workers=0',
            is_broken=False,
        )
    if 0 < machine.open_files < _FEW_FILES:
        yield Problem(
            f'a process may open only {machine.open_files} files; data loaders may need more',
            f'ulimit -n {4 * _FEW_FILES}',
            is_broken=False,
        )
    for purpose, folder in facts.folders.items():
        if folder.error:
            yield Problem(
                f'{folder.path} ({purpose}) is not writable: {folder.error}',
                'change its permissions, or choose another folder'
                + (' with --work-dir' if purpose == 'work folder' else ''),
            )
        elif folder.total and folder.free < _SMALL_DISK:
            yield Problem(
                f'{folder.path} ({purpose}) has {folder.free / GIB:.1f} GB of free space; a '
                'training of a ViT-S keeps about 5 GB of checkpoints',
                'delete files, or choose another folder',
                is_broken=False,
            )
