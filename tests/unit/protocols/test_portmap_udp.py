"""A router that begins anew and says so in the other protocol: miniupnpd announces by PCP whatever it is asked in."""

from __future__ import annotations

import asyncio
import os
import socket
from ipaddress import ip_address

import pytest

from node.errors import DecodeError
from node.protocols.portmap_udp import Exchange, NatPmpRouter
from tests.support.hosts import run

PLACE = f"127.52.{os.getpid() % 250 + 1}.1"
BEGUN_ANEW = bytes([2, 128]) + bytes(22)
"PCP's announcement, with epoch 0."


@pytest.mark.parametrize("announced", [True, False])
def test_an_epoch_a_second_lower_is_believed_of_a_router_that_has_just_announced_itself(announced: bool) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        anew: list[float] = []
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gateway:
            gateway.setblocking(False)
            gateway.bind((PLACE, 5351))
            exchange = Exchange(ip_address(PLACE))
            try:
                router = NatPmpRouter(exchange, lambda: anew.append(loop.time()), loop.time)
                for epoch in (1, 0):
                    probe = asyncio.ensure_future(router.probe())
                    _, client = await loop.sock_recvfrom(gateway, 16)
                    await loop.sock_sendto(gateway, bytes([0, 128, 0, 0, 0, 0, 0, epoch, 11, 0, 0, 1]), client)
                    await probe
                    if announced and epoch:
                        with pytest.raises(DecodeError):
                            router.announced(BEGUN_ANEW)
            finally:
                exchange.close()
        assert bool(anew) is announced

    run(main)
