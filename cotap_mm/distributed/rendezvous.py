"""Connect the processes of one run."""

from __future__ import annotations

import datetime
import os
import socket
import struct
from typing import Any, Optional

import torch.distributed as dist

from .failures import LostRank, report_unresponsive_ranks, start_watch
from .timeouts import within

_VARIABLE = 'GLOO_SOCKET_IFNAME'
_SIOCGIFADDR = 0x8915  # ioctl of Linux: IPv4 address of an interface


def rendezvous_store(timeout: float) -> dict[str, Any]:
    """Connect to the store in which the processes of ``torchrun`` exchange their addresses.

    With a fixed port, restarts by ``torchrun`` share one store. PyTorch (2.11) could then read
    addresses of processes that have died, and the new ones would wait for them; so each restart
    has a prefix of its own.

    From here on the ranks watch each other, see :mod:`cotap_mm.distributed.failures`.

    Args:
        timeout (float): Seconds to wait for the store.

    Returns:
        dict: ``store``, ``rank`` and ``world_size`` for ``init_process_group``.

    Raises:
        LostRank: If the store, or some of the other processes, cannot be reached in that time.
    """
    try:
        store, rank, size = within(
            timeout + 5,
            lambda: next(dist.rendezvous('env://', timeout=datetime.timedelta(seconds=timeout))),
        )
    except (RuntimeError, TimeoutError) as error:
        own, count = os.environ.get('RANK', '?'), os.environ.get('WORLD_SIZE', '?')
        address = f'{os.environ.get("MASTER_ADDR")}:{os.environ.get("MASTER_PORT")}'
        reason = str(error).strip().split('\n')[0][:200]
        raise LostRank(
            f'rank {own}: the {count} processes of this run did not connect to {address} '
            f'within {timeout:.0f} s; one of them, or the process there, died, was '
            'stopped, or is unreachable. See their own output, then start again '
            f'({reason})'
        ) from error
    start_watch(rank, size, timeout)
    attempt = os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')
    return dict(
        store=dist.PrefixStore(f'cotap_mm/attempt_{attempt}', store), rank=rank, world_size=size
    )


def join_group(backend: str, timeout: float) -> None:
    """Initialize the process group of the processes that ``torchrun`` started.

    Args:
        backend (str): ``'gloo'`` or ``'nccl'``.
        timeout (float): Seconds to wait for the others, here and in each collective.

    Raises:
        LostRank: If a process does not connect in time.
    """
    group = rendezvous_store(timeout)
    with report_unresponsive_ranks(watch=start_watch(group['rank'], group['world_size'], timeout)):
        dist.init_process_group(backend, timeout=datetime.timedelta(seconds=timeout), **group)


def set_gloo_interface() -> None:
    """Let gloo listen on the interface towards ``MASTER_ADDR``, unless the user has set one.

    By default gloo listens on the address of the host name, which is often a loopback address
    (as in Debian's ``/etc/hosts``) that other machines cannot reach. Nothing changes on a
    single machine, on other systems than Linux, and with IPv6.
    """
    if os.environ.get(_VARIABLE):
        return
    address = own_address_towards(os.environ.get('MASTER_ADDR', ''))
    if address is None or address.startswith('127.'):
        return
    for name, other in interface_addresses().items():
        if other == address:
            os.environ[_VARIABLE] = name


def own_address_towards(host: str) -> Optional[str]:
    """IPv4 address of this machine on the route to another one; nothing is sent.

    Args:
        host (str): Host name or address.

    Returns:
        str, optional: None if the host is unknown or cannot be reached.
    """
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))  # only chooses a route
            return probe.getsockname()[0]
    except OSError:
        return None


def interface_addresses() -> dict[str, str]:
    """IPv4 addresses by interface name; empty on other systems than Linux."""
    try:
        import fcntl
    except ImportError:
        return {}
    addresses = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack('256s', name.encode()))
            except OSError:  # no IPv4 address
                continue
            addresses[name] = socket.inet_ntoa(answer[20:24])
    return addresses
