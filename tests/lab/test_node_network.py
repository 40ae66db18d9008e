"""What a node asks of the kernel about its network, in namespaces where it is known."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import subprocess
from collections.abc import Callable

from node.net.interfaces import Gateway, default_gateway, interfaces
from node.net.rtnetlink import Changes

Inside = Callable[[Callable[[], None]], None]


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def test_the_default_gateway_is_the_next_hop_of_the_route_with_the_smallest_metric(inside: Inside) -> None:
    def check() -> None:
        assert default_gateway() is None
        ip("link", "set", "lo", "up")
        for number in (1, 2):
            ip("link", "add", f"d{number}", "type", "veth", "peer", "name", f"e{number}")
            ip("link", "set", f"e{number}", "up")
            ip("addr", "add", f"10.0.{number}.2/24", "dev", f"d{number}")
            ip("link", "set", f"d{number}", "up")
            ip("route", "add", "default", "via", f"10.0.{number}.1", "metric", str(300 - number))
        ip("route", "add", "10.9.0.0/16", "via", "10.0.1.9")
        index = socket.if_nametoindex("d2")
        assert default_gateway() == Gateway(index, ipaddress.ip_address("10.0.2.1"))
        assert default_gateway(6) is None
        ip("-6", "route", "add", "default", "via", "fe80::1", "dev", "d1")
        assert default_gateway(6) == Gateway(socket.if_nametoindex("d1"), ipaddress.IPv6Address("fe80::1%d1"))
        assert index in {each.index for each in interfaces() if str(each.ip) == "10.0.2.2"}

    inside(check)


def test_a_change_is_told_once_when_it_has_settled(inside: Inside) -> None:
    async def watch() -> None:
        told = 0
        news = asyncio.Event()

        def changed() -> None:
            nonlocal told
            told += 1
            news.set()

        changes = Changes(changed, settled=0.05)
        changes.start()
        ip("link", "add", "d1", "type", "veth", "peer", "name", "e1")
        ip("addr", "add", "10.0.1.2/24", "dev", "d1")
        ip("link", "set", "d1", "up")
        async with asyncio.timeout(10):
            await news.wait()
        assert told == 1
        changes.close()
        changes.close()

    inside(lambda: asyncio.run(watch()))
