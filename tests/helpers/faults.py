"""Random damage to files, for tests that try many kinds."""

from __future__ import annotations

import random
from contextlib import contextmanager

TRIES = 2000

DAMAGES = ('cut', 'flip', 'flip many', 'zeros', 'insert', 'drop', 'double', 'header', 'noise')


def damaged(content: bytes, kind: str, draw: random.Random) -> bytes:
    """Damage the content of a file; some kinds may leave it unchanged."""
    data, size = bytearray(content), len(content)
    start = draw.randrange(size)
    stop = min(size, start + draw.randrange(1, 200))
    if kind == 'cut':
        return content[: draw.choice([0, 1, 2, 10, start])]
    if kind in ('flip', 'flip many'):
        for _ in range(1 if kind == 'flip' else 40):
            data[draw.randrange(size)] ^= 1 << draw.randrange(8)
        return bytes(data)
    if kind == 'zeros':
        data[start:stop] = bytes(stop - start)
        return bytes(data)
    if kind == 'insert':
        return content[:start] + draw.randbytes(stop - start) + content[start:]
    if kind == 'drop':
        return content[:start] + content[stop:]
    if kind == 'double':
        return content + content[start:]
    if kind == 'header':
        index = draw.randrange(min(size, 60))
        data[index : index + 4] = draw.choice([b'\xff' * 4, bytes(4), draw.randbytes(4)])
        return bytes(data)
    return draw.randbytes(size)


@contextmanager
def time_limit(seconds):
    """Raise an error if the context takes too long."""
    import signal

    def late(*_):
        raise AssertionError(f'not finished within {seconds} s')

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
