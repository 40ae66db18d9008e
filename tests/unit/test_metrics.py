"""Counts in Prometheus' text format, read by Prometheus' own parser."""

from __future__ import annotations

import asyncio
import socket
import urllib.request
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from ipaddress import ip_address

import pytest
from prometheus_client.parser import text_string_to_metric_families

from node.errors import ConfigError
from node.events import Direction, Path, PunchStage, PunchStep, StreamOpened
from node.host import Host, HostConfig
from node.metrics import PREFIX, PROTOCOLS
from node.names.multiaddr import Multiaddr
from node.wire.stun import Endpoint

Hosts = Callable[..., AbstractAsyncContextManager[tuple[Host, Host]]]
LOOPBACK = ip_address("127.0.0.1")


def samples(text: str) -> dict[tuple[str, tuple[str, ...]], float]:
    return {
        (sample.name.removeprefix(f"{PREFIX}_"), tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def addr_of(host: Host) -> Multiaddr:
    return host.addrs()[0].with_peer(host.peer_id)


def test_connections_streams_and_dials_are_counted(hosts: Hosts) -> None:
    async def main() -> None:
        async with hosts() as (alice, bob):
            connection = await alice.connect(addr_of(bob))
            await alice.ping.ping(connection)
            counted = samples(alice.metrics.text())
            assert counted["connections_total", ("outbound", "direct", "tcp")] == 1
            assert counted["open_connections", ("outbound", "direct", "tcp")] == 1
            assert counted["streams_total", ("outbound", "/ipfs/ping/1.0.0")] == 1
            assert counted["dials_total", ("connected",)] == 1
            assert counted["known_peers", ()] == 1
            await connection.close()
            counted = samples(alice.metrics.text())
            assert counted["disconnections_total", ("direct",)] == 1
            assert ("open_connections", ("outbound", "direct", "tcp")) not in counted

    asyncio.run(main())


def test_outcomes_of_punches_are_counted_and_steps_on_the_way_are_not(hosts: Hosts) -> None:
    async def main() -> None:
        async with hosts() as (alice, bob):
            for step in PunchStep:
                alice.emit(PunchStage(step, bob.peer_id, 1))
            counted = samples(alice.metrics.text())
            outcomes = {labels[0]: value for (name, labels), value in counted.items() if name == "punches_total"}
            assert outcomes == {"succeeded": 1, "failed": 1, "gave_up": 1}

    asyncio.run(main())


def test_protocols_beyond_the_bound_are_counted_together(hosts: Hosts) -> None:
    async def main() -> None:
        async with hosts() as (alice, bob):
            for number in range(PROTOCOLS + 10):
                alice.emit(StreamOpened(f'/"p"\n{number}', bob.peer_id, Path.DIRECT, Direction.OUTBOUND))
            streams = {key: value for key, value in samples(alice.metrics.text()).items() if key[0] == "streams_total"}
            assert len(streams) == PROTOCOLS + 1
            assert streams["streams_total", ("outbound", "other")] == 10

    asyncio.run(main())


def test_the_same_is_served_by_http_while_the_node_lives(loopback: Callable[..., HostConfig]) -> None:
    async def main() -> None:
        async with Host(loopback(metrics_listen=Endpoint(LOOPBACK, 0))) as host:
            url = f"http://127.0.0.1:{host.metrics.port}/metrics"
            text = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=10).read().decode())
            assert samples(text) == samples(host.metrics.text())
        with pytest.raises(OSError, match="refused"):
            await asyncio.to_thread(urllib.request.urlopen, url, timeout=10)

    asyncio.run(main())


def test_a_port_that_is_taken_is_named(loopback: Callable[..., HostConfig]) -> None:
    async def main(port: int) -> None:
        async with Host(loopback(metrics_listen=Endpoint(LOOPBACK, port))):
            raise AssertionError("it started")

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--metrics-listen: 127.0.0.1:{port}: Address already in use"):
            asyncio.run(main(port))
