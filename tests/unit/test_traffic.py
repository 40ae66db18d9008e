"""Rates of a host: who sends faster waits, others do not, and nothing is lost."""

import pytest

from node.errors import DeadlineExceeded
from node.events import LatencyCrossed
from node.host import Host, HostConfig
from node.logic.traffic import IN, OUT, PIECE, Rates
from node.protocols.echo import PROTOCOL
from tests.support.hosts import LOOPBACK, addr_of, run, watch

MIB = 1 << 20
PLAIN = HostConfig(listen=(LOOPBACK,), dcutr=False)
SLOW = 4096


@pytest.mark.parametrize("flow", [IN, OUT])
def test_a_peer_beyond_its_rate_waits_and_others_are_served(flow: int) -> None:
    rates = Rates(peer=(SLOW, None) if flow == IN else (None, SLOW))

    async def main() -> None:
        async with (
            Host(PLAIN) as alice,
            Host(PLAIN) as carol,
            Host(HostConfig(listen=(LOOPBACK,), rates=rates)) as bob,
        ):
            with pytest.raises(DeadlineExceeded):
                await alice.echo.echo(await alice.connect(addr_of(bob)), 4 * MIB, timeout=1.0)
            assert 0 < bob.swarm.traffic.of_peer(alice.peer_id)[flow] < 4 * PIECE
            assert (await carol.echo.echo(await carol.connect(addr_of(bob)), 10)).bytes == 10

    run(main)


def test_what_waits_for_its_rate_comes_whole() -> None:
    async def main() -> None:
        rates = Rates(total=(MIB, MIB))
        async with Host(PLAIN) as alice, Host(HostConfig(listen=(LOOPBACK,), rates=rates)) as bob:
            connection = await alice.connect(addr_of(bob))
            assert (await alice.echo.echo(connection, 2 * MIB)).bytes == 2 * MIB
            assert bob.swarm.traffic.by_protocol()[PROTOCOL] == (2 * MIB, 2 * MIB)

    run(main)


def test_a_slow_peer_is_told_of() -> None:
    async def main() -> None:
        config = HostConfig(listen=(LOOPBACK,), latency_threshold=1e-9)
        async with Host(PLAIN) as alice, Host(config) as bob:
            seen = watch(bob)
            rtt = await bob.ping.ping(await bob.connect(addr_of(alice)))
            assert await seen.wait(LatencyCrossed) == LatencyCrossed(alice.peer_id, rtt, slow=True)

    run(main)
