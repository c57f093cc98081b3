"""How neighbors are searched, as one object for the command line, Python and configs."""

from __future__ import annotations

from dataclasses import dataclass

from cotap_mm.command_line.choices import FEATURE_DTYPES, SEARCHES
from cotap_mm.rules import check_rules, one_of, whole

_RULES = dict(search=one_of(*SEARCHES), nprobe=whole(1), feature_dtype=one_of(*FEATURE_DTYPES))
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
        check_rules(vars(self), _RULES)

    def dtype_for(self, count: int) -> str:
        """Type of the features of ``count`` images on disk."""
        if self.feature_dtype != 'auto':
            return self.feature_dtype
        return 'float16' if count > MANY else 'float32'
