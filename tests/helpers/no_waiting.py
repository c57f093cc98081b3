"""Modes in which an operation that would make the host wait for a GPU is an error."""

from __future__ import annotations

from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten


class NoWaiting(TorchDispatchMode):
    """Raises where a GPU would make the host wait: reads of values, data-dependent shapes."""

    waits = (
        '_local_scalar_dense',
        'nonzero',
        'masked_select',
        'aten.equal',
        'unique',
        'repeat_interleave.Tensor',
    )

    is_paused = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if self.is_paused:
            return func(*args, **(kwargs or {}))
        name = str(func)
        by_mask = name.startswith(('aten.index.', 'aten.index_put')) and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if by_mask or any(wait in name for wait in self.waits):
            raise AssertionError(f'{name} waits for the device')
        return func(*args, **(kwargs or {}))


class OnAnotherDevice(NoWaiting):
    """Also raises where a GPU would wait for data from the host, on PyTorch's ``meta`` device.

    Tensors on ``meta`` have shapes but no data. Like those of a GPU, they do not mix with other
    devices, but a list of numbers is copied to ``meta`` without a trace. So every tensor must be
    known: it either existed before or was computed from known tensors.
    """

    def __init__(self, *there):
        super().__init__()
        self.known = {
            self.storage(each): each for each in there
        }  # kept alive, so that no storage is reused

    @staticmethod
    def storage(tensor):
        return tensor.untyped_storage()._cdata

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        tensors = [
            each for each in tree_flatten((args, kwargs))[0] if isinstance(each, torch.Tensor)
        ]
        for each in tensors:
            if each.device.type == 'meta' and self.storage(each) not in self.known:
                raise AssertionError(f'{func} waits for numbers from Python')
        is_copy = str(func).startswith(('aten._to_copy', 'aten.copy_'))
        if not is_copy and len({each.device.type for each in tensors if each.ndim}) > 1:
            raise AssertionError(f'{func} mixes devices')
        is_non_blocking = (kwargs or {}).get('non_blocking') or any(arg is True for arg in args[2:])
        places = {each.device for each in tensors} | ({(kwargs or {}).get('device')} - {None})
        if is_copy and not is_non_blocking and len(places) > 1:
            raise AssertionError(f'{func} waits for a copy to another device')
        made = super().__torch_dispatch__(func, types, args, kwargs)
        results = [each for each in tree_flatten(made)[0] if isinstance(each, torch.Tensor)]
        self.known.update((self.storage(each), each) for each in results)
        return made


class WorkOnMeta(OnAnotherDevice):
    """Collects copies to the device, and what it computes; does not watch work on the CPU."""

    def __init__(self, *there):
        super().__init__(*there)
        self.copies, self.kernels = [], Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = [each for each in tree_flatten((args, kwargs))[0] if torch.is_tensor(each)]
        self.is_paused = all(each.device.type == 'cpu' for each in given)
        made = super().__torch_dispatch__(func, types, args, kwargs)
        results = [each for each in tree_flatten(made)[0] if torch.is_tensor(each)]
        if given and {each.device.type for each in given + results} == {'cpu', 'meta'}:
            self.copies += results
        old = {self.storage(each) for each in given}
        is_view = not func._schema.is_mutable and any(self.storage(x) in old for x in results)
        name = func.overloadpacket._qualified_op_name
        on_meta = bool(results) and results[0].device.type == 'meta'
        if on_meta and not is_view and not name.endswith('empty'):
            self.kernels[name] += 1
        return made
