"""How neighbors are searched, as one object for the command line, Python and configs."""

from __future__ import annotations

from dataclasses import dataclass

from cotap_mm.command_line.choices import FEATURE_DTYPES, SEARCHES

#: Images up to which the exact search takes hours, and features in float32 a few GB.
MANY = 1_000_000


@dataclass(frozen=True)
class SearchOptions:
    """Options of the neighbor search; in a config, ``neighbor_search = dict(search='ivf')``.

    Args:
        search (str): ``'exact'``, or ``'ivf'``: approximate, through an inverted file of faiss,
            for more than about a million images. Defaults to ``'exact'``.
        nprobe (int): Cells of the inverted file that are searched for each image; more take
            longer and miss fewer neighbors. Defaults to 32.
        feature_dtype (str): Type of the features on disk, ``'float16'``, ``'bfloat16'``,
            ``'float32'``, or ``'auto'``: float32 up to a million images, float16 beyond. Products
            are always computed in float32. Defaults to ``'auto'``.

    Raises:
        ValueError: If an option is out of range.
    """

    search: str = 'exact'
    nprobe: int = 32
    feature_dtype: str = 'auto'

    def __post_init__(self) -> None:
        for name, value, choices in (
            ('search', self.search, SEARCHES),
            ('feature_dtype', self.feature_dtype, FEATURE_DTYPES),
        ):
            if value not in choices:
                raise ValueError(f'{name} must be one of {", ".join(choices)}, got {value!r}')
        if type(self.nprobe) is not int or self.nprobe < 1:
            raise ValueError(f'nprobe must be an integer >= 1, got {self.nprobe!r}')

    def dtype_for(self, count: int) -> str:
        """Type of the features of ``count`` images on disk."""
        if self.feature_dtype != 'auto':
            return self.feature_dtype
        return 'float16' if count > MANY else 'float32'
