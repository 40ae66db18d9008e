"""STUN on real sockets: a server with two addresses of the loopback, and clients that ask it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address

import pytest

from node.errors import ConfigError, DialError
from node.events import NatLearnt
from node.host import Host, HostConfig
from node.logic.nat import Filtering, Mapping
from node.net.datagrams import DatagramPort
from node.protocols.stun import StunService, measure
from node.wire.stun import Endpoint
from tests.support.hosts import run, watch

HERE, THERE = ip_address("127.0.0.1"), ip_address("127.0.0.2")


def free_port() -> int:
    port = DatagramPort(Endpoint(HERE, 0), lambda data, source: None)
    number = port.local.port
    port.close()
    return number


@asynccontextmanager
async def server(*, alternate: bool = True) -> AsyncIterator[Endpoint]:
    primary = Endpoint(HERE, free_port())
    service = StunService(primary, Endpoint(THERE, free_port()) if alternate else None, time.monotonic)
    await service.start()
    yield primary
    await service.close()


def test_without_a_nat_the_mapping_is_none_and_everybody_is_let_in() -> None:
    async def main() -> None:
        async with server() as primary:
            kind = await measure(primary, time.monotonic)
            assert (kind.mapping, kind.filtering, kind.name) == (Mapping.NONE, Filtering.ENDPOINT_INDEPENDENT, "none")

    run(main)


def test_a_server_with_one_address_is_not_enough() -> None:
    async def main() -> None:
        async with server(alternate=False) as primary:
            with pytest.raises(DialError, match="no other address and port"):
                await measure(primary, time.monotonic)

    run(main)


def test_a_server_that_is_not_there_is_said_to_be_silent() -> None:
    async def main() -> None:
        with pytest.raises(DialError, match="no answer from 127"):
            await measure(Endpoint(HERE, free_port()), time.monotonic)

    run(main)


def test_a_port_that_is_taken_is_named() -> None:
    async def main() -> None:
        async with server() as primary:
            with pytest.raises(ConfigError, match=f"cannot listen on udp {primary}"):
                await StunService(primary, None, time.monotonic).start()

    run(main)


def test_a_host_measures_by_itself_with_the_first_server_that_answers() -> None:
    async def main() -> None:
        async with server(alternate=False) as useless, server() as primary:
            host = Host(HostConfig(dcutr=False, stun=(useless, primary)))
            seen = watch(host)
            async with host:
                learnt = await seen.wait(NatLearnt)
                assert host.oneself is not None
                assert host.oneself.kind() == learnt.kind
                assert learnt.kind.name == "none"

    run(main)
