"""A host keeps out whom its rules deny, and protocols from whom they do not name."""

import pytest

from node.errors import ConnectionClosed, Gated, NegotiationError
from node.host import Host, HostConfig
from node.protocols.echo import PROTOCOL
from tests.support.hosts import LOOPBACK, addr_of, run

PLAIN = HostConfig(listen=(LOOPBACK,), dcutr=False)


def test_a_peer_that_is_denied_neither_gets_in_nor_is_dialled() -> None:
    async def main() -> None:
        async with (
            Host(PLAIN) as mallory,
            Host(PLAIN) as alice,
            Host(HostConfig(listen=(LOOPBACK,), deny=(str(mallory.peer_id),))) as bob,
        ):
            with pytest.raises(Gated, match=str(mallory.peer_id)):
                await bob.connect(addr_of(mallory))
            connection = await mallory.connect(addr_of(bob))
            with pytest.raises(ConnectionClosed):
                await mallory.echo.echo(connection, 10)
            assert (await alice.echo.echo(await alice.connect(addr_of(bob)), 10)).bytes == 10
            assert bob.swarm.connections(mallory.peer_id) == []

    run(main)


def test_a_protocol_does_not_exist_for_whom_it_is_not_meant() -> None:
    async def main() -> None:
        async with Host(PLAIN) as alice, Host(PLAIN) as mallory:
            rules = HostConfig(listen=(LOOPBACK,), authorised=(f"{PROTOCOL}={alice.peer_id}",))
            async with Host(rules) as bob:
                assert (await alice.echo.echo(await alice.connect(addr_of(bob)), 10)).bytes == 10
                connection = await mallory.connect(addr_of(bob))
                with pytest.raises(NegotiationError):
                    await mallory.echo.echo(connection, 10)
                assert PROTOCOL not in await connection.list_protocols()
                assert await mallory.ping.ping(connection) > 0

    run(main)
