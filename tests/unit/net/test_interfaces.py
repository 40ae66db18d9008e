"""What the kernel says of its own addresses."""

from __future__ import annotations

import ipaddress
import socket

import pytest

from node.net.interfaces import interface_ips


def test_loopback_is_among_the_machines_addresses() -> None:
    assert ipaddress.ip_address("127.0.0.1") in interface_ips()


def test_every_ipv4_address_listed_can_be_bound() -> None:
    for ip in interface_ips():
        if ip.version == 4:
            with socket.socket() as sock:
                try:
                    sock.bind((str(ip), 0))
                except OSError:  # of a container beside us, perhaps, that has ended meanwhile
                    assert ip not in interface_ips()


def test_link_local_ipv6_addresses_carry_the_zone_they_need() -> None:
    names = {name for _, name in socket.if_nameindex()}
    link_local = [ip for ip in interface_ips() if isinstance(ip, ipaddress.IPv6Address) and ip.is_link_local]
    names |= {name for _, name in socket.if_nameindex()}  # containers beside us may come and go meanwhile
    if not link_local:
        pytest.skip("no link-local IPv6 address on this machine")
    assert {ip.scope_id for ip in link_local} <= names
