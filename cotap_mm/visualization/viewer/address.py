"""Check the address and port of the viewer's page."""

from __future__ import annotations

import socket
from typing import Any


def check_port(host: str, port: int) -> int:
    """Check that an address can be bound, before anything is computed.

    Args:
        host (str): Address or name.
        port (int): Port; 0 chooses a free one.

    Returns:
        int: The port.

    Raises:
        ValueError: If the name cannot be resolved, or the address or port cannot be used.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise ValueError(
            f'--host {host} cannot be resolved ({error}); use an address of this '
            'machine, 127.0.0.1 or 0.0.0.0'
        ) from error
    try:
        return _bind(family, address)
    except OSError as error:
        reason = error.strerror or error
    other = next(
        (
            number
            for number in range(max(port, 1023) + 1, min(port + 200, 65536))
            if _is_free(family, (address[0], number, *address[2:]))
        ),
        0,
    )
    raise ValueError(
        f'cannot serve on {host}:{port} ({reason}); choose another with --port'
        + (f', {other} is free' if other else ' or another --host')
    )


def _bind(family: int, address: tuple[Any, ...]) -> int:
    """Bind a port briefly and return its number."""
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
        return probe.getsockname()[1]


def _is_free(family: int, address: tuple[Any, ...]) -> bool:
    try:
        return bool(_bind(family, address))
    except OSError:
        return False
