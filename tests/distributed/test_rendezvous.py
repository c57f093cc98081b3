"""Selection of the network interface for gloo."""

from __future__ import annotations

import os
import socket
import sys

import pytest

from cotap_mm.distributed import rendezvous

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith('linux'), reason='uses an ioctl of Linux'
)
ADDRESSES = dict(lo='127.0.0.1', docker0='172.17.0.1', eth1='192.0.2.7')


@pytest.fixture
def chosen(monkeypatch):
    """Interface chosen on a machine with three, by its address towards the master."""
    monkeypatch.setenv('MASTER_ADDR', 'node0')
    monkeypatch.delenv('GLOO_SOCKET_IFNAME', raising=False)
    monkeypatch.setattr(rendezvous, 'interface_addresses', lambda: ADDRESSES)

    def choose(address):
        monkeypatch.setattr(
            rendezvous, 'own_address_towards', lambda host: address if host == 'node0' else None
        )
        rendezvous.set_gloo_interface()
        return os.environ.get('GLOO_SOCKET_IFNAME')

    yield choose
    os.environ.pop('GLOO_SOCKET_IFNAME', None)


@pytest.mark.parametrize(
    'address, name',
    [
        ('192.0.2.7', 'eth1'),
        ('127.0.0.1', None),
        ('127.0.1.1', None),
        (None, None),
        ('198.51.100.1', None),
    ],
)
def test_selects_the_interface_towards_the_master(chosen, address, name):
    assert chosen(address) == name


def test_the_choice_of_the_user_is_kept(chosen, monkeypatch):
    monkeypatch.setenv('GLOO_SOCKET_IFNAME', 'docker0')
    assert chosen('192.0.2.7') == 'docker0'


def test_interfaces_of_this_machine():
    assert rendezvous.interface_addresses()['lo'] == '127.0.0.1'
    assert rendezvous.own_address_towards('localhost').startswith('127.')
    assert set(rendezvous.interface_addresses()) <= {name for _, name in socket.if_nameindex()}
