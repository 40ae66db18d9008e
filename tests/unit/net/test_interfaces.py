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
                sock.bind((str(ip), 0))


def test_link_local_ipv6_addresses_carry_the_zone_they_need() -> None:
    link_local = [ip for ip in interface_ips() if isinstance(ip, ipaddress.IPv6Address) and ip.is_link_local]
    if not link_local:
        pytest.skip("no link-local IPv6 address on this machine")
    assert {ip.scope_id for ip in link_local} <= {name for _, name in socket.if_nameindex()}
