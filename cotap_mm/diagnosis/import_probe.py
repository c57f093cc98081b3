"""Import libraries one after the other, and record facts about them.

:mod:`.imports` runs this file as a script in a process of its own, since a damaged library can
end or block the process that imports it. It therefore imports nothing but the standard library.

    python import_probe.py RESULTS NAME...

RESULTS gets one line of JSON before and one after each import.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
import warnings


def torch_facts(torch) -> dict:  # type: ignore[no-untyped-def]
    """Build, GPUs and communication libraries."""
    facts = dict(
        version=str(torch.__version__),
        cuda=torch.version.cuda,
        hip=getattr(torch.version, 'hip', None),
        threads=torch.get_num_threads(),
    )
    if hasattr(torch.backends, 'cpu'):
        facts['cpu'] = torch.backends.cpu.get_cpu_capability()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        facts['available'] = torch.cuda.is_available()
    facts['warning'] = ' '.join(' '.join(str(each.message).split()) for each in caught)
    facts['gpus'] = [gpu_facts(torch, i) for i in range(torch.cuda.device_count())]
    if facts['available']:
        facts['bf16'] = torch.cuda.is_bf16_supported()
        facts['cudnn'] = torch.backends.cudnn.version()
    distributed = torch.distributed.is_available()
    facts['gloo'] = distributed and torch.distributed.is_gloo_available()
    facts['nccl'] = ''
    if distributed and torch.distributed.is_nccl_available():
        version = torch.cuda.nccl.version()
        facts['nccl'] = '.'.join(map(str, version)) if isinstance(version, tuple) else str(version)
    return facts


def gpu_facts(torch, index: int) -> dict:  # type: ignore[no-untyped-def]
    """Name and memory of a GPU, and the error of a small computation on it."""
    gpu = dict(name='', memory=0, free=0, capability='', error='')
    try:
        properties = torch.cuda.get_device_properties(index)
        gpu.update(name=properties.name, memory=properties.total_memory)
        gpu['capability'] = f'{properties.major}.{properties.minor}'
        total = float((torch.ones(8, device=f'cuda:{index}') * 2).sum())
        gpu['free'] = torch.cuda.mem_get_info(index)[0]
        if total != 16:
            gpu['error'] = f'computes 8 x 2 = {total}'
    except Exception as error:
        gpu['error'] = one_line(error)
    return gpu


def operator_facts(operators) -> dict:  # type: ignore[no-untyped-def]
    """Whether MMCV's operators are compiled, and for which CUDA."""
    extension = sys.modules.get('mmcv._ext')
    path = str(getattr(extension, '__file__', '') or '')
    compiled = not path.endswith('.py')
    cuda = str(extension.get_compiling_cuda_version()) if compiled and extension else ''
    return dict(compiled=compiled, cuda=cuda)


FACTS = {'torch': torch_facts, 'mmcv.ops': operator_facts}


def one_line(error: BaseException) -> str:
    """Type and message of an exception in one line."""
    return f'{type(error).__name__}: {" ".join(str(error).split())[:600]}'


def main() -> None:
    """Import the libraries that the command line names."""
    with open(sys.argv[1], 'a', encoding='utf-8') as file:

        def record(**facts: object) -> None:
            file.write(json.dumps(facts) + '\n')
            file.flush()

        for name in sys.argv[2:]:
            record(name=name, status='started')
            start = time.perf_counter()
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter('ignore')
                    module = importlib.import_module(name)
            except BaseException as error:  # also SystemExit
                record(name=name, status='failed', error=one_line(error))
                continue
            seconds = time.perf_counter() - start
            try:
                facts = FACTS[name](module) if name in FACTS else {}
            except Exception as error:  # the import itself was fine
                facts = dict(facts_error=one_line(error))
            record(name=name, status='ok', seconds=round(seconds, 1), facts=facts)


if __name__ == '__main__':
    main()
