"""How the processes of one run find each other."""

from __future__ import annotations

import datetime
import os
import socket
import struct
from typing import Any, Optional

import torch.distributed as dist

from .failures import LostRank, start_watch, within
from .lost_ranks import report_unresponsive_ranks

_VARIABLE = 'GLOO_SOCKET_IFNAME'
_SIOCGIFADDR = 0x8915  # of Linux: the IPv4 address of an interface


def rendezvous_store(timeout: float) -> dict[str, Any]:
    """The store in which processes that ``torchrun`` has started leave their addresses.

    With a fixed port its restarts share one store. PyTorch (2.11) would read there, by
    chance, addresses of processes that have died, and the new ones would wait for them.

    From here on the ranks watch each other, see :class:`cotap_mm.distributed.failures.RankWatch`.

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
        place = f'{os.environ.get("MASTER_ADDR")}:{os.environ.get("MASTER_PORT")}'
        reason = str(error).strip().split('\n')[0][:200]
        raise LostRank(
            f'rank {own}: the {count} processes of this run have not met at {place} '
            f'within {timeout:.0f} s; one of them, or the process there, died, was '
            'stopped, or cannot be reached. Their own output says more '
            f'({reason})'
        ) from error
    start_watch(rank, size, timeout)
    attempt = os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')
    return dict(
        store=dist.PrefixStore(f'cotap_mm/attempt_{attempt}', store), rank=rank, world_size=size
    )


def join_group(backend: str, timeout: float) -> None:
    """Connect processes that ``torchrun`` has started, as one group.

    Args:
        backend (str): ``'gloo'`` or ``'nccl'``.
        timeout (float): Seconds to wait for the others, here and in each collective.

    Raises:
        LostRank: If a process does not come.
    """
    place = rendezvous_store(timeout)
    with report_unresponsive_ranks(watch=start_watch(place['rank'], place['world_size'], timeout)):
        dist.init_process_group(backend, timeout=datetime.timedelta(seconds=timeout), **place)


def set_gloo_interface() -> None:
    """Let gloo listen on the interface towards ``MASTER_ADDR``, unless it has been told one.

    By itself it listens on the address of the machine's own name, which is often a
    loopback address (as in Debian's ``/etc/hosts``); other machines cannot reach that.
    On one machine, elsewhere than on Linux, and with IPv6 all stays as it is.
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
    """The IPv4 address that this machine has for another one; nothing is sent.

    Args:
        host (str): Name or address.

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
    """IPv4 addresses by the names of this machine's interfaces; empty elsewhere than on Linux."""
    try:
        import fcntl
    except ImportError:
        return {}
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack('256s', name.encode()))
            except OSError:  # it has none
                continue
            found[name] = socket.inet_ntoa(answer[20:24])
    return found
