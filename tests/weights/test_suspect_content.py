"""Small files that expand to huge tensors, and files with inconsistent tensors."""

from __future__ import annotations

import functools
import io
import json
import multiprocessing
import pickle
import resource
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch

import cotap_mm
from cotap_mm.compat.workarounds import version_numbers
from cotap_mm.export import convert
from cotap_mm.export.publish import publish
from cotap_mm.models import DINOViT
from cotap_mm.weights import load_pretrained
from cotap_mm.weights.reading import read_checkpoint
from tests.helpers.faults import time_limit
from tests.helpers.foreign_weights import small_vit, timm_names

HUGE = 10**9
ALLOWED = 250 << 20  # bytes by which the process may grow while it rejects all files


def saved(content, **options):
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


class Call:
    """Represents a function call in a pickle."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def replaced(name, value):
    return {**timm_names(), name: value}


def deep_list(depth):
    """``dict(x=[[[...]]])`` as opcodes of pickle, since Python itself cannot write it."""
    code = b'\x80\x02}X\x01\x00\x00\x00x' + b']' * depth + b'a' * (depth - 1) + b's.'
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved({}))) as old, zipfile.ZipFile(buffer, 'w') as new:
        for part in old.infolist():
            new.writestr(
                part.filename, code if part.filename.endswith('data.pkl') else old.read(part)
            )
    return buffer.getvalue()


def contains_itself(key):
    content = dict(timm_names())
    content[key] = content
    return content


def doubled_lists():
    """Nest 40 lists that have 2^40 entries if shared lists are counted repeatedly."""
    nested = [torch.zeros(1)]
    for _ in range(40):
        nested = [nested, nested]
    return dict(lists=nested)


def tied_blocks():
    params, shared = timm_names(width=256), timm_names(width=256)
    for index in range(300):
        for name, value in shared.items():
            if name.startswith('blocks.0.'):
                params[name.replace('blocks.0', f'blocks.{index}')] = value
    return params


def deflated(content):
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as old,
        zipfile.ZipFile(buffer, 'w', zipfile.ZIP_DEFLATED) as new,
    ):
        for part in old.infolist():
            new.writestr(part.filename, old.read(part))
    return buffer.getvalue()


def bomb_of_zeros():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('archive/data.pkl', pickle.dumps({}))
        with archive.open('archive/data/0', 'w') as part:
            for _ in range(64):
                part.write(bytes(1 << 20))
    return buffer.getvalue()


def header_of_safetensors(header):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, 'little') + text + bytes(64)


ZERO = torch.zeros(1)
ARRAY = getattr(np, '_core', None) or np.core
#: name -> function that creates the content of a file that must be rejected.
HOSTILE = {
    'stride 0': lambda: saved(replaced('cls_token', ZERO.expand(1, 1, HUGE))),
    'stride 0, wide patches': lambda: saved(
        replaced('patch_embed.proj.weight', ZERO.view(1, 1, 1, 1).expand(HUGE, 3, 8, 8))
    ),
    'overlapping views': lambda: saved(
        replaced('pos_embed', torch.zeros(9).as_strided((1, HUGE // 16, 16), (0, 0, 0)))
    ),
    'one storage for 300 blocks': lambda: saved(tied_blocks()),
    'deflated': lambda: deflated(saved(dict(x=torch.zeros(1 << 22)))),
    'zeros without end': bomb_of_zeros,
    'array without data': lambda: saved(
        dict(x=Call(ARRAY.multiarray._reconstruct, np.ndarray, (HUGE,), 'd'))
    ),
    'array of objects': lambda: saved(dict(x=np.array([[], {}], dtype=object))),
    'array of texts': lambda: saved(dict(x=np.array(['a' * 1000] * 3))),
    'huge dtype': lambda: saved(dict(x=Call(np.dtype, f'S{HUGE}'))),
    'sparse': lambda: saved(replaced('cls_token', torch.zeros(1, 1, 16).to_sparse())),
    'sparse rows': lambda: saved(dict(x=torch.zeros(4, 16).to_sparse_csr())),
    'huge sparse': lambda: saved(
        replaced(
            'pos_embed',
            torch.sparse_coo_tensor(
                torch.zeros(3, 1, dtype=torch.long), torch.ones(1), (1, HUGE, HUGE)
            ),
        )
    ),
    'meta': lambda: saved(replaced('cls_token', torch.zeros(1, 1, HUGE, device='meta'))),
    'quantized': lambda: saved(
        replaced('cls_token', torch.quantize_per_tensor(torch.zeros(1, 1, 16), 1.0, 0, torch.qint8))
    ),
    'nested': lambda: saved(
        replaced('cls_token', torch.nested.nested_tensor([torch.zeros(1, 16), torch.zeros(2, 16)]))
    ),
    'complex': lambda: saved(replaced('cls_token', torch.zeros(1, 1, 16, dtype=torch.complex64))),
    'integers': lambda: saved(replaced('norm.weight', torch.zeros(16, dtype=torch.int8))),
    'booleans': lambda: saved(replaced('blocks.0.norm1.weight', torch.ones(16).bool())),
    'no channels': lambda: saved(replaced('patch_embed.proj.weight', torch.zeros(16, 0, 8, 8))),
    'no width': lambda: saved(replaced('patch_embed.proj.weight', torch.zeros(0, 3, 8, 8))),
    'patches of 0 pixels': lambda: saved(
        replaced('patch_embed.proj.weight', torch.zeros(16, 3, 0, 0))
    ),
    'oblong patches': lambda: saved(replaced('patch_embed.proj.weight', torch.zeros(16, 3, 8, 4))),
    'flat patches': lambda: saved(replaced('patch_embed.proj.weight', torch.zeros(16, 192))),
    'scalar patches': lambda: saved(replaced('patch_embed.proj.weight', torch.zeros(()))),
    'scalar positions': lambda: saved(replaced('pos_embed', torch.zeros(()))),
    'no positions': lambda: saved(replaced('pos_embed', torch.zeros(1, 0, 16))),
    'flat positions': lambda: saved(replaced('pos_embed', torch.zeros(17, 16))),
    'other width': lambda: saved(replaced('cls_token', torch.zeros(1, 1, 24))),
    'flat MLP': lambda: saved(replaced('blocks.0.mlp.fc1.weight', torch.zeros(32))),
    'empty MLP': lambda: saved(
        {
            **replaced('blocks.0.mlp.fc1.weight', torch.zeros(0, 16)),
            'blocks.0.mlp.fc2.weight': torch.zeros(16, 0),
        }
    ),
    'blocks with a gap': lambda: saved(
        {
            name.replace('blocks.1', 'blocks.999999999'): value
            for name, value in timm_names().items()
        }
    ),
    'no blocks': lambda: saved(timm_names(depth=0)),
    'patch embedding alone, wide': lambda: saved(
        {
            'patch_embed.proj.weight': torch.zeros(20000, 1, 1, 1),
            'cls_token': torch.zeros(1, 1, 20000),
            'pos_embed': torch.zeros(1, 2, 20000),
        }
    ),
    'contains itself': lambda: saved(dict(state_dict=(lambda d: d.update(state_dict=d) or d)({}))),
    'a list': lambda: saved([timm_names()]),
    'a deep list': lambda: deep_list(100_000),
    'names that are numbers': lambda: saved(dict(enumerate(timm_names().values()))),
    'many empty lists': lambda: saved(dict(x=[[]] * 2_100_000)),
    'nothing': lambda: saved({}),
    'a web page': lambda: b'<!doctype html><html>404 Not Found</html>',
    'flattened by FSDP': lambda: saved(
        {'_fsdp_wrapped_module._flat_param': torch.zeros(9), **timm_names()}
    ),
    'twice, with and without wrappers': lambda: saved(
        {**timm_names(), '_orig_mod.cls_token': torch.ones(1, 1, 16)}
    ),
    'heads in words.pth': lambda: saved(
        dict(state_dict=timm_names(), meta=dict(architecture=dict(arch=dict(num_heads='x'))))
    ),
    'heads that do not divide': lambda: saved(
        dict(state_dict=timm_names(), meta=dict(architecture=dict(arch=dict(num_heads=3))))
    ),
    'negative heads': lambda: saved(
        dict(state_dict=timm_names(), meta=dict(architecture=dict(arch=dict(num_heads=-2))))
    ),
    'meta of odd literals': lambda: saved(
        dict(state_dict=timm_names(), meta=dict(cfg='model={[1]:2}'))
    ),
    'meta without end': lambda: saved(
        dict(state_dict=timm_names(), meta=dict(cfg='model=' + '[' * 5000))
    ),
    'meta with null bytes': lambda: saved(dict(state_dict=timm_names(), meta=dict(cfg='model=\0'))),
    'meta that is a list': lambda: saved(dict(state_dict=timm_names(), meta=[1])),
    'image size of 0': lambda: saved(
        dict(state_dict=timm_names(), meta=dict(architecture=dict(img_size=0)))
    ),
    'deep.safetensors': lambda: header_of_safetensors(b'{"a":' * 100_000),
    'deep metadata.safetensors': lambda: header_of_safetensors(
        {'__metadata__': {'architecture': '[' * 100_000}}
    ),
    'header without end.safetensors': lambda: (1 << 62).to_bytes(8, 'little') + b'{}',
    'beyond the end.safetensors': lambda: header_of_safetensors(
        {'cls_token': dict(dtype='F32', shape=[1, 1, HUGE], data_offsets=[0, 4 * HUGE])}
    ),
    'other length.safetensors': lambda: header_of_safetensors(
        {'cls_token': dict(dtype='F32', shape=[1, 1, 16], data_offsets=[0, 8])}
    ),
    'overlapping.safetensors': lambda: header_of_safetensors(
        {name: dict(dtype='F32', shape=[16], data_offsets=[0, 64]) for name in 'ab'}
    ),
}


def try_all(folder, result):
    """Pass each file to all users of checkpoints; send what was not rejected properly."""
    wrong = []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    users = [
        lambda path: cotap_mm.load(path),
        lambda path: load_pretrained(small_vit(DINOViT), path),
        lambda path: convert(path, folder / 'out.pth', 'timm', True),
    ]
    for path in sorted(folder.iterdir()):
        for number, use in enumerate(users):
            try:
                with time_limit(60):
                    use(path)
                # Existing networks do not need what is needed to build one.
                if number == 0:
                    wrong.append(f'{path.name}: was read')
            except (ValueError, FileNotFoundError) as error:
                if (
                    type(error) not in (ValueError, FileNotFoundError)
                    or not 10 < len(str(error)) < 2000
                ):
                    wrong.append(f'{path.name}: {type(error).__name__} {error}')
            except BaseException as error:
                wrong.append(f'{path.name}: {type(error).__name__}: {str(error)[:200]}')
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    result.send((wrong, peak * 1024))


@pytest.mark.slow
def test_all_are_rejected_in_bounded_memory(tmp_path, capsys):
    for name, make in HOSTILE.items():
        (tmp_path / (name if '.' in name else f'{name}.pth')).write_bytes(make())
    # Fork, since RUSAGE_SELF of a child starts at its current memory: the peak is due to reading.
    context = multiprocessing.get_context('fork')
    receiver, sender = context.Pipe(duplex=False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    child = context.Process(target=try_all, args=(tmp_path, sender))
    child.start()
    sender.close()  # otherwise a failing child would not be noticed
    wrong, peak = receiver.recv()
    child.join()
    torch.set_num_threads(threads)
    with capsys.disabled():
        print(f'\n{len(HOSTILE)} hostile checkpoints; memory grew by {peak / 2**20:.0f} MB')
    assert not wrong, '\n'.join(wrong)
    assert peak < ALLOWED


def test_publishing_rejects_them_too(tmp_path):
    (tmp_path / 'a.pth').write_bytes(
        saved(dict(state_dict=replaced('cls_token', ZERO.expand(1, 1, HUGE)), meta={}))
    )
    with pytest.raises(ValueError, match='a.pth is damaged .*cls_token.*has shape.*4 bytes'):
        publish(tmp_path / 'a.pth', tmp_path / 'b.pth', 'MIT')


@pytest.mark.parametrize(
    'kind',
    [
        'shared storage',
        'contains itself',
        'lists',
        'half',
        'bfloat16',
        'float64',
        'float8',
        'ordered',
        'arrays',
        'legacy',
    ],
)
def test_unusual_but_valid(tmp_path, kind):
    if kind == 'float8' and version_numbers(torch.__version__) < (2, 2):
        pytest.skip('torch 2.1 cannot save float8')
    params, options = timm_names(), {}
    if kind == 'shared storage':  # views of one tensor, as after flattening by an optimizer
        flat = torch.cat([value.flatten() for value in params.values()])
        parts = flat.split([value.numel() for value in params.values()])
        content = {
            name: part.view(value.shape) for (name, value), part in zip(params.items(), parts)
        }
    elif kind == 'contains itself':
        content = contains_itself('again')
    elif kind == 'lists':
        content = dict(state_dict=params, **doubled_lists())
    elif kind in ('half', 'bfloat16', 'float64', 'float8'):
        dtype = getattr(torch, 'float8_e4m3fn' if kind == 'float8' else kind)
        content = {name: value.to(dtype) for name, value in params.items()}
    elif kind == 'arrays':
        content = {name: value.numpy() for name, value in params.items()}
    else:
        content = OrderedDict(params)
        options = dict(_use_new_zipfile_serialization=kind != 'legacy')
    (tmp_path / 'a.pth').write_bytes(saved(content, **options))
    model = small_vit(DINOViT)
    assert not load_pretrained(model, tmp_path / 'a.pth').missing
    wanted = params['blocks.1.mlp.fc1.weight']
    tolerance = dict(half=1e-3, bfloat16=1e-2, float8=0.1).get(kind, 0)
    assert torch.allclose(model.layers[1].ffn.layers[0][0].weight, wanted, rtol=0, atol=tolerance)


@functools.lru_cache
def _large():
    return saved(timm_names(width=768, depth=3))


def test_memory_is_a_small_multiple_of_the_file(tmp_path, capsys):
    """Reading a file takes at most four times its size plus a constant."""
    path = tmp_path / 'large.pth'
    path.write_bytes(_large())
    context = multiprocessing.get_context('fork')
    receiver, sender = context.Pipe(duplex=False)

    def read():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        kept = read_checkpoint(path)
        sender.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
        assert kept

    child = context.Process(target=read)
    child.start()
    sender.close()
    grown = receiver.recv()
    child.join()
    with capsys.disabled():
        print(f'\na file of {len(_large()) / 2**20:.0f} MB took {grown / 2**20:.0f} MB')
    assert grown < 4 * len(_large()) + (50 << 20)
