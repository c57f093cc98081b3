"""First-in, first-out memory of past features."""
import torch
from torch import Tensor, nn


class FeatureQueue(nn.Module):
    """A ring buffer of the newest rows.

    Everything is in buffers, so a checkpoint carries it. A state of another size
    (a run on another number of ranks) is taken over newest rows first.

    Args:
        size (int): Rows it can hold, >= 1.
        shape (tuple[int, ...]): Shape of one row.

    Raises:
        ValueError: If ``size`` is not positive.
    """

    def __init__(self, size: int, shape: 'tuple[int, ...]') -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f'size must be >= 1, got {size}')
        self.size = size
        self.register_buffer('features', torch.zeros(size, *shape))
        self.register_buffer('num_filled', torch.zeros((), dtype=torch.long))
        self.register_buffer('cursor', torch.zeros((), dtype=torch.long))

    def __len__(self) -> int:
        return int(self.num_filled)

    @property
    def is_full(self) -> bool:
        """Whether the next push drops old rows."""
        return len(self) == self.size

    @torch.no_grad()
    def push(self, rows: Tensor) -> None:
        """Add rows; the first row counts as the newest.

        Args:
            rows (Tensor): Shape (R, *shape); only the first ``size`` rows are kept.

        Raises:
            ValueError: If a row has another shape.
        """
        if rows.shape[1:] != self.features.shape[1:]:
            raise ValueError(f'rows must have shape (R, {tuple(self.features.shape[1:])}), got '
                             f'{tuple(rows.shape)}')
        rows = rows[:self.size].flip(0).to(self.features.dtype)  # oldest first
        places = (self.cursor + torch.arange(len(rows), device=rows.device)) % self.size
        self.features[places] = rows
        self.cursor.copy_((self.cursor + len(rows)) % self.size)
        self.num_filled.add_(len(rows)).clamp_(max=self.size)

    def contents(self) -> Tensor:
        """The filled rows in storage order, shape (len(self), *shape)."""
        return self.features[:len(self)]

    def newest_first(self) -> Tensor:
        """The filled rows, newest first (a copy)."""
        filled = len(self)
        order = (self.cursor - 1 - torch.arange(filled, device=self.features.device)) % self.size
        return self.features[order]

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        stored = state_dict.get(prefix + 'features')
        names = [prefix + name for name in ('features', 'num_filled', 'cursor')]
        fits = stored is not None and stored.shape[1:] == self.features.shape[1:]
        if fits and len(stored) != self.size and all(name in state_dict for name in names):
            other = FeatureQueue(len(stored), tuple(stored.shape[1:]))
            other.load_state_dict({name[len(prefix):]: state_dict[name] for name in names})
            self.num_filled.zero_()
            self.cursor.zero_()
            self.push(other.newest_first().to(self.features.device))
            state_dict = dict(state_dict, **{name: getattr(self, name[len(prefix):]).clone()
                                             for name in names})
        super()._load_from_state_dict(state_dict, prefix, *args)
