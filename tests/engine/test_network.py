"""Which interface gloo is told to use."""

from __future__ import annotations

import os
import socket
import sys

import pytest

from cotap_mm.distributed import rendezvous as network

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith('linux'), reason='Linux tells its interfaces this way'
)
ADDRESSES = dict(lo='127.0.0.1', docker0='172.17.0.1', eth1='192.0.2.7')


@pytest.fixture
def chosen(monkeypatch):
    """What is chosen on a machine of three interfaces with this address towards the master."""
    monkeypatch.setenv('MASTER_ADDR', 'node0')
    monkeypatch.delenv('GLOO_SOCKET_IFNAME', raising=False)
    monkeypatch.setattr(network, 'interface_addresses', lambda: ADDRESSES)

    def choose(address):
        monkeypatch.setattr(
            network, 'own_address_towards', lambda host: address if host == 'node0' else None
        )
        network.set_gloo_interface()
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
def test_the_interface_towards_the_master(chosen, address, name):
    assert chosen(address) == name


def test_what_the_user_says_stays(chosen, monkeypatch):
    monkeypatch.setenv('GLOO_SOCKET_IFNAME', 'docker0')
    assert chosen('192.0.2.7') == 'docker0'


def test_this_machine():
    assert network.interface_addresses()['lo'] == '127.0.0.1'
    assert network.own_address_towards('localhost').startswith('127.')
    assert set(network.interface_addresses()) <= {name for _, name in socket.if_nameindex()}
