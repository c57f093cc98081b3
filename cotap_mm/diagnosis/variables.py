"""Environment variables that matter, without secrets, and wrong values of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

#: Variables that cotap_mm reads, with what they do.
OWN = {
    'COTAP_TRACEBACK': 'errors keep their traceback',
    'COTAP_CHECKPOINT': 'weights of downstream configs',
    'COTAP_DIST_TIMEOUT': 'seconds to wait for other ranks',
    'COTAP_HASH_IMAGES': 'detect changed images by content',
    'COTAP_INDEX': 'keep the lists of large folders',
    'COTAP_MAX_IMAGE_BYTES': 'largest image file',
    'COTAP_MAX_IMAGE_PIXELS': 'largest image',
    'COTAP_IMAGE_CACHE': 'folder that keeps images of an object store',
    'COTAP_IMAGE_CACHE_GB': 'its largest size',
    'COTAP_RESUME_COMMAND': 'command that messages name; set by cotap train --gpus',
    # Those of the tests.
    'COTAP_SHARED_DIR': 'data of the tests',
    'COTAP_FAULTS': 'number of faults in the tests',
    'COTAP_KILLS': 'number of kills in the tests',
    'COTAP_SOAK_STEPS': 'length of a test',
}
_NUMBERS = (
    'COTAP_MAX_IMAGE_BYTES',
    'COTAP_MAX_IMAGE_PIXELS',
    'COTAP_DIST_TIMEOUT',
    'COTAP_IMAGE_CACHE_GB',
)
_SHOWN = re.compile(
    'COTAP_|CUDA_|NVIDIA_|NCCL_|GLOO_|TORCH|PYTORCH_|OMP_|MKL_|OPENBLAS_|KMP_|MALLOC_|'
    'HF_|LMDB_|MPLCONFIGDIR$|XDG_CACHE_HOME$|TMPDIR$|PYTHON|VIRTUAL_ENV$|CONDA_|'
    '(RANK|WORLD_SIZE|LOCAL_RANK|LOCAL_WORLD_SIZE|MASTER_ADDR|MASTER_PORT|NNODES|NODE_RANK)$|'
    'SLURM_(JOB_ID|NTASKS|PROCID|LOCALID|NNODES|GPUS_ON_NODE|CPUS_PER_TASK|RESTART_COUNT)$|'
    '(LC_ALL|LANG|LD_LIBRARY_PATH|LD_PRELOAD)$'
)
_SECRET = re.compile('TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|AUTH|_KEY$', re.IGNORECASE)
_LAUNCHED = ('RANK', 'WORLD_SIZE')


def shown_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Select the environment variables that can change how cotap_mm behaves.

    Args:
        environment (mapping): All variables.

    Returns:
        dict[str, str]: Name -> value, sorted by name. The value of a variable whose name looks
        like that of a secret is replaced.
    """
    return {
        name: '(set, not shown)' if _SECRET.search(name) else value
        for name, value in sorted(environment.items())
        if _SHOWN.match(name)
    }


def variable_problems(environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Find environment variables with values that have no effect or a wrong one.

    Args:
        environment (mapping): All variables.

    Yields:
        tuple[str, str]: Sentence and remedy.
    """
    for name in sorted(environment):
        if name.startswith('COTAP_') and name not in OWN:
            yield (
                f'the environment variable {name} is set, which cotap_mm does not read; it reads '
                f'{", ".join(list(OWN)[:6])}',
                f'unset {name}, or correct its name',
            )
    for name in _NUMBERS:
        if name in environment and not re.fullmatch(r'\d+(\.\d+)?', environment[name].strip()):
            yield f'{name} must be a number, got {environment[name]!r}', f'unset {name}'
    threads = environment.get('OMP_NUM_THREADS', '').split(',')[0].strip()
    if threads and not (threads.isdigit() and int(threads) > 0):
        yield (
            f'OMP_NUM_THREADS must be a whole number >= 1, got {threads!r}',
            'unset OMP_NUM_THREADS',
        )
    if all(name in environment for name in _LAUNCHED) and 'TORCHELASTIC_RUN_ID' not in environment:
        yield (
            f'RANK={environment["RANK"]} and WORLD_SIZE={environment["WORLD_SIZE"]} are set: '
            'without a launcher, a training waits for the other ranks',
            'unset RANK WORLD_SIZE LOCAL_RANK MASTER_ADDR MASTER_PORT',
        )
