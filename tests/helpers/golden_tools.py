"""Read reference vectors and compare with them."""

from __future__ import annotations

import numpy as np
import torch


def load_vectors(path):
    """Load all arrays of a file: numbers as tensors, text as NumPy arrays."""
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    return {
        name: torch.from_numpy(np.array(array)) if array.dtype.kind in 'fiub' else array
        for name, array in arrays.items()
    }


class Errors:
    """Compares arrays and records the largest relative error."""

    def __init__(self, path):
        self.path = path
        self.worst, self.where, self.compared = 0.0, 'all exact', 0
        self.failures = []

    def check(self, name, got, wanted, tolerance):
        """Require largest difference / largest expected value <= ``tolerance``."""
        got, wanted = (torch.as_tensor(x).detach().double() for x in (got, wanted))
        if got.shape != wanted.shape:
            self.failures.append(f'{name}: shape {tuple(got.shape)}, wanted {tuple(wanted.shape)}')
            return
        scale = float(wanted.abs().max()) if wanted.numel() else 0.0
        error = float((got - wanted).abs().max()) if wanted.numel() else 0.0
        self._note(name, error / scale if scale > 0 else error, tolerance)

    def _note(self, name, error, tolerance):
        self.compared += 1
        if not error <= tolerance:  # NaN fails as well
            self.failures.append(f'{name}: relative error {error:.3g} > {tolerance:g}')
        if not error <= self.worst:
            self.worst, self.where = error, name

    def check_norms(self, name, norms, z, tolerance):
        """Check gradient norms by released parameter name; -1 in the file means no gradient."""
        wanted = dict(zip(z['param_names'].tolist(), z[name].tolist()))
        compared = 0
        for key, norm in norms.items():
            self.check(f'{name}.{key}', norm, max(wanted[key], 0.0), tolerance)
            compared += 1
        missed = {key for key, norm in wanted.items() if norm > 0} - set(norms)
        if missed:
            self.failures.append(f'{name}: no gradient for {sorted(missed)[:3]}')
        assert compared, 'no gradient norm was compared'

    def check_weights(self, prefix, weights, z, tolerance_key, tolerance):
        """Check final weights, up to ``tolerance`` or the rounding stated by the file."""
        yardstick = dict(zip(z['param_names'].tolist(), z[tolerance_key].tolist()))
        for name, value in weights.items():
            wanted = z[f'{prefix}.{name}'].double()
            error = float((value.detach().double() - wanted).abs().max())
            scale = float(wanted.abs().max()) or 1.0
            if name.endswith('qkv.bias'):
                # AdamW amplifies rounding errors of the zero gradient of the key bias.
                error = max(error - 3 * yardstick[name], 0.0)
            self._note(f'{prefix}.{name}', error / scale, tolerance)

    def report(self):
        """Print the largest error and fail if any comparison failed."""
        print(f'\n{self.path.name}: largest relative error {self.worst:.2e} ({self.where})')
        assert self.compared, 'nothing was compared'
        assert not self.failures, '\n'.join(self.failures[:20])
