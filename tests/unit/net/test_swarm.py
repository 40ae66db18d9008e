"""Swarms on loopback: dialling, accepting, punching, and what they refuse."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest

from node.errors import (
    ConfigError,
    ConnectionClosed,
    DeadlineExceeded,
    DialBackoff,
    DialError,
    Gated,
    LimitExceeded,
    NodeError,
    PeerIdMismatch,
)
from node.logic.gating import Gater
from node.logic.limits import PEER, PER_IP4, Limits
from node.logic.resources import Resources
from node.names.keys import PrivateKey
from node.names.multiaddr import Multiaddr
from node.net.connection import Connection, Direction, Path, Stream
from node.net.handlers import Handlers
from node.net.swarm import Swarm, TransportDial
from node.net.tcp import TcpTransport
from node.net.upgrade import Role, UpgradeConfig

DEADLINE = 10.0
ANY_PORT = Multiaddr("/ip4/127.0.0.1/tcp/0")
ANY_UDP_PORT = Multiaddr("/ip4/127.0.0.1/udp/0/quic-v1")
ECHO = "/echo"


class Clock:
    """A clock that stands still until it is told to jump."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def _echo(stream: Stream) -> None:
    while data := await stream.read():
        await stream.write(data)


@contextlib.asynccontextmanager
async def swarm(
    deny: tuple[str, ...] = (),
    clock: Callable[[], float] = time.monotonic,
    listen: bool = True,
    addrs: tuple[Multiaddr, ...] = (ANY_PORT,),
    limits: Limits | None = None,
    psk: bytes | None = None,
) -> AsyncIterator[Swarm]:
    handlers = Handlers()
    handlers.add(ECHO, _echo, limited=False)
    key, config = PrivateKey.generate(), UpgradeConfig(psk=psk)
    one = Swarm(key, handlers, upgrade_config=config, gater=Gater(deny), clock=clock, resources=Resources(limits))
    try:
        for addr in addrs if listen else ():
            await one.listen(addr)
        yield one
    finally:
        await one.close()


async def echoes(connection: Connection) -> bool:
    stream = await connection.new_stream([ECHO], limited=True)
    await stream.write(b"hello")
    await stream.close_write()
    return await stream.read() == b"hello"


@contextlib.contextmanager
def refusing_port() -> Iterator[Multiaddr]:
    """An address that is bound, so that nobody else gets it, and not listened on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield Multiaddr.tcp("127.0.0.1", sock.getsockname()[1])


async def until(condition: Callable[[], bool], subscribe: Callable[[Callable[..., None]], object]) -> None:
    """Wait until `condition` holds, looking again whenever the swarm calls back."""
    news = asyncio.Event()
    subscribe(lambda *_: news.set())
    async with asyncio.timeout(DEADLINE):
        while not condition():
            news.clear()
            await news.wait()


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(DEADLINE * 2):
            await main()

    asyncio.run(bounded())


def test_a_dial_yields_a_connection_that_both_sides_know() -> None:
    async def main() -> None:
        async with swarm() as alice, swarm() as bob:
            connection = await alice.dial(bob.peer_id, bob.listen_addrs())
            await until(lambda: bool(bob.connections(alice.peer_id)), bob.on_connected)
            (other,) = bob.connections(alice.peer_id)
            assert (connection.direction, other.direction) == (Direction.OUTBOUND, Direction.INBOUND)
            assert (connection.local, connection.remote) == (other.remote, other.local)
            assert (connection.security, connection.muxer) == ("/noise", "/yamux/1.0.0")
            assert await echoes(connection)
            assert await echoes(other)

    run(main)


def test_a_dial_leaves_from_the_listen_port() -> None:
    async def main() -> None:
        async with swarm() as alice, swarm() as bob:
            connection = await alice.dial(bob.peer_id, bob.listen_addrs())
            assert connection.local == alice.listen_addrs()[0]

    run(main)


def test_an_open_connection_is_returned_instead_of_dialling() -> None:
    async def main() -> None:
        async with swarm() as alice, swarm() as bob:
            first = await alice.dial(bob.peer_id, bob.listen_addrs())
            assert await alice.dial(bob.peer_id, []) is first

    run(main)


def test_concurrent_callers_share_one_dial() -> None:
    async def main() -> None:
        async with swarm() as alice, swarm() as bob:
            dials = (alice.dial(bob.peer_id, bob.listen_addrs()) for _ in range(20))
            connections = set(await asyncio.gather(*dials))
            assert len(connections) == len(alice.connections()) == 1

    run(main)


def test_a_caller_that_leaves_does_not_end_the_dial_of_the_others() -> None:
    async def main() -> None:
        async with swarm() as alice, swarm() as bob:
            leaving = asyncio.create_task(alice.dial(bob.peer_id, bob.listen_addrs()))
            staying = asyncio.create_task(alice.dial(bob.peer_id, bob.listen_addrs()))
            await asyncio.sleep(0)
            leaving.cancel()
            assert (await staying).peer == bob.peer_id
            assert leaving.cancelled()

    run(main)


def test_an_address_that_is_brought_into_a_dial_under_way_is_dialled_too() -> None:
    async def main() -> None:
        async with silent_listener() as silent, swarm() as alice, swarm() as bob:
            first = asyncio.create_task(alice.dial(bob.peer_id, [silent]))
            await asyncio.sleep(0)
            second = await alice.dial(bob.peer_id, bob.listen_addrs())
            assert await first is second

    run(main)


def test_peers_that_dial_each_other_at_once_both_get_a_connection() -> None:
    async def main() -> None:
        async with swarm() as alice, swarm() as bob:
            mine, theirs = await asyncio.gather(
                alice.dial(bob.peer_id, bob.listen_addrs()), bob.dial(alice.peer_id, alice.listen_addrs())
            )
            assert await echoes(mine)
            assert await echoes(theirs)

    run(main)


def test_a_dead_address_does_not_keep_a_live_one_from_winning() -> None:
    async def main() -> None:
        with refusing_port() as dead:
            async with silent_listener() as silent, swarm() as alice, swarm() as bob:
                connection = await alice.dial(bob.peer_id, [dead, silent, *bob.listen_addrs()])
                assert connection.remote == bob.listen_addrs()[0]

    run(main)


def test_somebody_else_at_the_address_is_refused() -> None:
    async def main() -> None:
        async with swarm() as alice, swarm() as bob, swarm() as carol:
            with pytest.raises(PeerIdMismatch):
                await alice.dial(carol.peer_id, bob.listen_addrs())
            assert alice.connections() == []

    run(main)


def test_dialling_ourselves_is_an_error() -> None:
    async def main() -> None:
        async with swarm() as alice, swarm() as bob:
            with pytest.raises(DialError, match="our own"):
                await alice.dial(alice.peer_id, bob.listen_addrs())

    run(main)


def test_no_address_and_no_transport_are_errors() -> None:
    async def main() -> None:
        async with swarm() as alice, swarm() as bob:
            with pytest.raises(DialError, match="no address"):
                await alice.dial(bob.peer_id, [])
            with pytest.raises(DialError, match="no transport"):
                await alice.dial(bob.peer_id, [Multiaddr("/ip4/127.0.0.1/udp/1/utp")])

    run(main)


def test_an_address_that_failed_is_left_alone_until_its_wait_is_over() -> None:
    async def main() -> None:
        clock = Clock()
        with refusing_port() as dead:
            async with swarm(clock=clock) as alice, swarm() as bob:
                with pytest.raises(DialError, match="refused"):
                    await alice.dial(bob.peer_id, [dead])
                with pytest.raises(DialBackoff, match=r"5\.0 s more"):
                    await alice.dial(bob.peer_id, [dead])
                clock.now += 5.0
                with pytest.raises(DialError, match="refused"):
                    await alice.dial(bob.peer_id, [dead])
                with pytest.raises(DialBackoff, match=r"6\.0 s more"):
                    await alice.dial(bob.peer_id, [dead])

    run(main)


def test_a_forced_dial_pays_no_heed_to_backoff() -> None:
    async def main() -> None:
        with refusing_port() as dead:
            async with swarm() as alice, swarm() as bob:
                for _ in range(3):
                    with pytest.raises(DialError, match="refused"):
                        await alice.dial(bob.peer_id, [dead], force_direct=True)

    run(main)


def test_the_failure_names_every_address_with_its_reason() -> None:
    async def main() -> None:
        with refusing_port() as one, refusing_port() as two:
            async with swarm() as alice, swarm() as bob:
                with pytest.raises(DialError) as caught:
                    await alice.dial(bob.peer_id, [one, two])
                assert str(one) in str(caught.value)
                assert str(two) in str(caught.value)

    run(main)


def test_a_denied_address_is_neither_dialled_nor_accepted() -> None:
    async def main() -> None:
        async with swarm(deny=("127.0.0.0/8",)) as alice, swarm() as bob:
            with pytest.raises(Gated, match="denied"):
                await alice.dial(bob.peer_id, bob.listen_addrs())
            with pytest.raises(NodeError):
                await bob.dial(alice.peer_id, alice.listen_addrs())
            assert alice.connections() == bob.connections() == []

    run(main)


@contextlib.asynccontextmanager
async def silent_listener() -> AsyncIterator[Multiaddr]:
    """Accepts and says nothing."""
    writers: list[asyncio.StreamWriter] = []

    def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield Multiaddr.tcp("127.0.0.1", server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for writer in writers:
            writer.close()


def test_a_peer_that_says_nothing_costs_no_more_than_the_deadline() -> None:
    async def main() -> None:
        async with silent_listener() as silent, swarm() as alice, swarm() as bob:
            with pytest.raises(DeadlineExceeded, match="no answer yet"):
                await alice.dial(bob.peer_id, [silent], timeout=0.1)

    run(main)


def test_an_inbound_connection_that_drips_is_closed_at_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.net.swarm.INBOUND_TIMEOUT", 0.2)

    async def main() -> None:
        async with swarm() as bob:
            reader, writer = await asyncio.open_connection("127.0.0.1", bob.listen_addrs()[0].port)
            writer.write(b"\x13/multi")
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()

    run(main)


@pytest.mark.parametrize(
    "junk",
    [
        b"GET / HTTP/1.1\r\n" + b"Host: 127.0.0.1\r\n" * 9,
        b"\xff" * 100,
        b"\x13/multistream/1.0.0\n\x07/noise\n" + bytes(99),
    ],
)
def test_a_strangers_nonsense_ends_its_connection_and_nothing_else(junk: bytes) -> None:
    async def main() -> None:
        async with swarm() as alice, swarm() as bob:
            reader, writer = await asyncio.open_connection("127.0.0.1", bob.listen_addrs()[0].port)
            writer.write(junk)
            with contextlib.suppress(ConnectionError):
                while await reader.read(1024):
                    pass
            writer.close()
            assert await echoes(await alice.dial(bob.peer_id, bob.listen_addrs()))

    run(main)


def test_one_address_has_a_bounded_number_of_connections_without_identity() -> None:
    async def main() -> None:
        async with swarm() as alice, swarm(limits=Limits(exempt=())) as bob:
            port = bob.listen_addrs()[0].port
            opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(PER_IP4[0].connections)]
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            for _, each in [*opened, (reader, writer)]:
                each.close()
            assert alice.connections() == []

    run(main)


def test_a_peer_cannot_have_more_connections_than_its_share() -> None:
    async def main() -> None:
        async with swarm() as alice, swarm() as bob:
            share = min(PEER.connections, PEER.files)  # each of them takes a file
            for _ in range(share):
                await another(alice, bob)
            with pytest.raises(LimitExceeded):
                await another(alice, bob)
            assert len(alice.connections(bob.peer_id)) == share
            assert await alice.disconnect(bob.peer_id) == share
            assert await echoes(await another(alice, bob))

    run(main)


async def another(alice: Swarm, bob: Swarm, path: Path = Path.DIRECT, limited: bool = False) -> Connection:
    """One more connection, whatever there is already; a relayed one is as good as any here."""
    raw = await TcpTransport().dial(bob.listen_addrs()[0])
    return await alice.add_outbound(raw, expected=bob.peer_id, path=path, limited=limited)


def test_new_streams_prefer_direct_then_unlimited_then_older_connections() -> None:
    async def main() -> None:
        async with swarm() as alice, swarm() as bob:
            limited = await another(alice, bob, Path.RELAYED, limited=True)
            assert alice.best(bob.peer_id) is limited
            relayed = await another(alice, bob, Path.RELAYED)
            assert alice.best(bob.peer_id) is relayed
            direct = await another(alice, bob)
            newer = await another(alice, bob)
            assert alice.by_preference(bob.peer_id) == [direct, newer, relayed, limited]
            await direct.close()
            assert alice.best(bob.peer_id) is newer

    run(main)


def test_a_forced_dial_replaces_a_relayed_connection_by_a_direct_one() -> None:
    async def main() -> None:
        async with swarm() as alice, swarm() as bob:
            relayed = await another(alice, bob, Path.RELAYED)
            assert await alice.dial(bob.peer_id, bob.listen_addrs()) is relayed
            direct = await alice.dial(bob.peer_id, bob.listen_addrs(), force_direct=True)
            assert direct.path is Path.DIRECT
            assert not relayed.is_closed

    run(main)


def test_who_cannot_use_a_limited_connection_gets_another() -> None:
    async def main() -> None:
        async with swarm() as alice, swarm() as bob:
            limited = await another(alice, bob, Path.RELAYED, limited=True)
            assert await alice.dial(bob.peer_id, []) is limited
            assert await alice.dial(bob.peer_id, bob.listen_addrs(), limited_ok=False) is not limited

    run(main)


def test_a_limited_connection_is_no_answer_to_who_cannot_use_one() -> None:
    async def main() -> None:
        async with swarm() as alice, swarm() as bob:

            async def dial(_: TransportDial) -> Connection:
                return await another(alice, bob, Path.RELAYED, limited=True)

            alice.add_transport(lambda addr: addr.is_relayed, dial)
            through = Multiaddr(f"/ip4/127.0.0.1/tcp/1/p2p/{alice.peer_id}/p2p-circuit")
            with pytest.raises(LimitExceeded):
                await alice.dial(bob.peer_id, [through], limited_ok=False)

    run(main)


def test_a_registered_transport_dials_the_addresses_that_it_matches() -> None:
    async def main() -> None:
        async with swarm() as alice, swarm() as bob:
            asked: list[TransportDial] = []

            async def dial(request: TransportDial) -> Connection:
                asked.append(request)
                return await another(alice, bob, Path.RELAYED)

            alice.add_transport(lambda addr: addr.is_relayed, dial)
            through = Multiaddr(f"/ip4/127.0.0.1/tcp/1/p2p/{alice.peer_id}/p2p-circuit")
            connection = await alice.dial(bob.peer_id, [through])
            assert connection.path is Path.RELAYED
            assert [(each.peer, each.addr) for each in asked] == [(bob.peer_id, through)]

    run(main)


def test_both_sides_hear_of_the_end_and_its_reason() -> None:
    async def main() -> None:
        async with swarm() as alice, swarm() as bob:
            ends: list[str] = []
            bob.on_disconnected(lambda _, why: ends.append(why))
            await alice.dial(bob.peer_id, bob.listen_addrs())
            await until(lambda: bool(bob.connections()), bob.on_connected)
            assert await alice.disconnect(bob.peer_id) == 1
            await until(lambda: bool(ends), bob.on_disconnected)
            assert ends == ["closed by the peer"]
            assert alice.connections() == bob.connections() == []

    run(main)


def test_a_closed_swarm_leaves_no_task_behind() -> None:
    async def main() -> None:
        async with silent_listener() as silent, swarm() as bob:
            async with swarm() as alice:
                await alice.dial(bob.peer_id, bob.listen_addrs())
                dial = asyncio.create_task(alice.dial(PrivateKey.generate().peer_id(), [silent]))
                await asyncio.sleep(0)
            with pytest.raises(ConnectionClosed):
                await dial
            assert alice.connections() == []
            names = {task.get_name() for task in asyncio.all_tasks() - {asyncio.current_task()}}
            assert not any(str(silent) in name for name in names)

    run(main)


def test_a_port_in_use_by_others_is_a_configuration_error() -> None:
    async def main() -> None:
        async with swarm(listen=False) as alice:
            with pytest.raises(ConfigError):
                await alice.listen(Multiaddr("/ip4/192.0.2.77/tcp/1"))

    run(main)


# ── punching ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def soon(seconds: float = 5.0) -> float:
    return asyncio.get_running_loop().time() + seconds


def test_a_punch_from_both_sides_yields_one_usable_connection_with_the_roles_given() -> None:
    async def main() -> None:
        for _ in range(5):
            async with swarm() as alice, swarm() as bob:
                mine, theirs = await asyncio.gather(
                    alice.dial_punch(bob.peer_id, bob.listen_addrs(), Role.INITIATOR, soon()),
                    bob.dial_punch(alice.peer_id, alice.listen_addrs(), Role.RESPONDER, soon()),
                )
                assert (mine.peer, theirs.peer) == (bob.peer_id, alice.peer_id)
                best = alice.best(bob.peer_id)
                assert best is not None
                assert await echoes(best)

    run(main)


def test_the_initiator_of_a_punch_takes_the_security_initiators_role_also_when_it_accepts() -> None:
    async def main() -> None:
        with refusing_port() as dead:
            async with swarm() as alice, swarm() as bob:
                mine, theirs = await asyncio.gather(
                    alice.dial_punch(bob.peer_id, [dead], Role.INITIATOR, soon()),
                    bob.dial_punch(alice.peer_id, alice.listen_addrs(), Role.RESPONDER, soon()),
                )
                assert mine.local == alice.listen_addrs()[0]
                assert mine.direction is Direction.OUTBOUND
                assert theirs.direction is Direction.INBOUND
                assert await echoes(mine)

    run(main)


def test_a_connection_that_outruns_the_signal_to_punch_is_answered_in_the_punchs_role() -> None:
    async def main() -> None:
        async with swarm() as alice, swarm() as bob:
            async with alice.expect_punch(bob.peer_id, bob.listen_addrs(), Role.INITIATOR):
                theirs = await bob.dial_punch(alice.peer_id, alice.listen_addrs(), Role.RESPONDER, soon())
                mine = await alice.dial_punch(bob.peer_id, bob.listen_addrs(), Role.INITIATOR, soon())
            assert (mine.direction, theirs.direction) == (Direction.OUTBOUND, Direction.INBOUND)
            assert await echoes(mine)

    run(main)


def test_a_punch_is_tried_again_until_the_other_side_is_there() -> None:
    async def main() -> None:
        async with swarm() as alice, swarm(listen=False) as bob:
            port, third_refusal, close = await refuse_connections(3)
            punch = asyncio.create_task(alice.dial_punch(bob.peer_id, [port], Role.INITIATOR, soon()))
            await third_refusal.wait()
            await bob.listen(port)
            close()
            assert await echoes(await punch)

    run(main)


async def refuse_connections(count: int) -> tuple[Multiaddr, asyncio.Event, Callable[[], None]]:
    """A listener that hangs up; the event is set at the given connection."""
    seen: list[None] = []
    enough = asyncio.Event()

    def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()
        seen.append(None)
        if len(seen) == count:
            enough.set()

    server = await asyncio.start_server(accept, "127.0.0.1", 0, reuse_port=True)
    return Multiaddr.tcp("127.0.0.1", server.sockets[0].getsockname()[1]), enough, server.close


def test_a_punch_ends_at_its_deadline_with_every_reason() -> None:
    async def main() -> None:
        with refusing_port() as dead:
            async with swarm() as alice, swarm() as bob:
                with pytest.raises(DialError, match=r"no hole.*refused"):
                    await alice.dial_punch(bob.peer_id, [dead], Role.INITIATOR, soon(1.0))

    run(main)


def test_a_punch_that_finds_somebody_else_is_no_success() -> None:
    async def main() -> None:
        async with swarm() as alice, swarm() as bob, swarm() as carol:
            with pytest.raises(DialError, match="no hole"):
                await alice.dial_punch(carol.peer_id, bob.listen_addrs(), Role.INITIATOR, soon(0.3))
            assert alice.connections() == []

    run(main)


def test_a_stranger_from_the_expected_address_still_gets_in_while_a_responder_punches() -> None:
    async def main() -> None:
        with refusing_port() as dead:
            async with swarm() as alice, swarm() as bob, swarm() as carol:
                punch = asyncio.create_task(alice.dial_punch(bob.peer_id, [dead], Role.RESPONDER, soon()))
                await asyncio.sleep(0)
                assert await echoes(await carol.dial(alice.peer_id, alice.listen_addrs()))
                await bob.dial(alice.peer_id, alice.listen_addrs())
                assert (await punch).peer == bob.peer_id

    run(main)


def test_only_direct_tcp_addresses_that_the_filter_allows_are_punched_to() -> None:
    async def main() -> None:
        async with swarm(deny=("127.0.0.0/8",)) as alice, swarm() as bob:
            with pytest.raises(DialError, match="no address"):
                await alice.dial_punch(bob.peer_id, bob.listen_addrs(), Role.INITIATOR, soon())

    run(main)


def test_without_a_listener_there_is_no_port_to_punch_from() -> None:
    async def main() -> None:
        async with swarm(listen=False) as alice, swarm() as bob:
            with pytest.raises(DialError, match="no listener"):
                await alice.dial_punch(bob.peer_id, bob.listen_addrs(), Role.INITIATOR, soon(0.2))

    run(main)


# ── QUIC ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_quic_addresses_are_dialled_by_quic() -> None:
    async def main() -> None:
        async with swarm(addrs=(ANY_UDP_PORT,)) as alice, swarm(addrs=(ANY_PORT, ANY_UDP_PORT)) as bob:
            connection = await alice.dial(bob.peer_id, bob.listen_addrs())
            assert (connection.transport, connection.security, connection.muxer) == ("quic", "/tls/1.0.0", "quic")
            assert connection.local == alice.listen_addrs()[0]
            await until(lambda: bool(bob.connections(alice.peer_id)), bob.on_connected)
            (other,) = bob.connections(alice.peer_id)
            assert await echoes(connection)
            assert await echoes(other)

    run(main)


@pytest.mark.parametrize("addrs", [(ANY_UDP_PORT,), (ANY_PORT, ANY_UDP_PORT)], ids=["quic", "both"])
@pytest.mark.parametrize("later", ["alice", "bob"])
def test_a_hole_is_punched_by_dialling_and_knocking(addrs: tuple[Multiaddr, ...], later: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with swarm(addrs=addrs) as alice, swarm(addrs=addrs) as bob:
            until_then = loop.time() + DEADLINE

            async def punch(one: Swarm, other: Swarm, role: Role) -> Connection:
                return await one.dial_punch(other.peer_id, other.listen_addrs(), role, until_then)

            sides = [punch(alice, bob, Role.INITIATOR), punch(bob, alice, Role.RESPONDER)]
            mine, theirs = await asyncio.gather(*(sides if later == "bob" else reversed(sides)))
            assert await echoes(mine)
            assert await echoes(theirs)
            assert {mine.direction, theirs.direction} == {Direction.INBOUND, Direction.OUTBOUND}

    run(main)


def test_a_quic_connection_that_arrives_while_both_sides_dial_will_do() -> None:
    """As go has it on its last attempt."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with swarm(addrs=(ANY_UDP_PORT,)) as alice, swarm(addrs=(ANY_UDP_PORT,)) as bob:
            until_then = loop.time() + DEADLINE
            dead = Multiaddr("/ip4/127.0.0.1/udp/9/quic-v1")
            expecting = asyncio.create_task(alice.dial_punch(bob.peer_id, [dead], Role.INITIATOR, until_then))
            await asyncio.sleep(0)
            await bob.dial(alice.peer_id, alice.listen_addrs())
            connection = await expecting
            assert connection.direction is Direction.INBOUND
            assert await echoes(connection)

    run(main)


def test_a_responder_at_another_port_than_it_was_told_is_found_by_its_knocks() -> None:
    """As behind a NAT that maps by destination: what bob offered is an address where nobody is."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with swarm(addrs=(ANY_UDP_PORT,)) as alice, swarm(addrs=(ANY_UDP_PORT,)) as bob:
            until_then = loop.time() + DEADLINE
            stale = Multiaddr("/ip4/127.0.0.1/udp/9/quic-v1")
            mine, theirs = await asyncio.gather(
                alice.dial_punch(bob.peer_id, [stale], Role.INITIATOR, until_then),
                bob.dial_punch(alice.peer_id, alice.listen_addrs(), Role.RESPONDER, until_then),
            )
            assert mine.remote == bob.listen_addrs()[0]
            assert await echoes(theirs)

    run(main)


def test_a_responder_whose_knocks_nobody_follows_dials() -> None:
    """As behind a NAT that maps by destination, with a peer that only dials the address it was told."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with swarm(addrs=(ANY_UDP_PORT,)) as alice, swarm(addrs=(ANY_UDP_PORT,)) as bob:
            until_then = loop.time() + DEADLINE
            theirs = await bob.dial_punch(alice.peer_id, alice.listen_addrs(), Role.RESPONDER, until_then)
            assert theirs.direction is Direction.OUTBOUND
            assert await echoes(theirs)

    run(main)


@pytest.mark.parametrize("psk", [None, bytes(range(32))], ids=["open", "private"])
def test_a_responder_that_reaches_a_plain_listener_begins(psk: bytes | None) -> None:
    """As where the peer lets in every port of our address: its listener knows of no punch, and responds too."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with swarm(psk=psk) as alice, swarm(psk=psk) as bob:
            until_then = loop.time() + DEADLINE
            theirs = await bob.dial_punch(alice.peer_id, alice.listen_addrs(), Role.RESPONDER, until_then)
            assert theirs.direction is Direction.OUTBOUND
            assert await echoes(theirs)

    run(main)


@pytest.mark.parametrize("psk", [None, bytes(range(32))], ids=["open", "private"])
def test_an_initiator_that_a_plain_dial_reaches_responds(psk: bytes | None) -> None:
    """As where the peer dials from any port and begins: js."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with swarm(psk=psk) as alice, swarm(psk=psk) as bob:
            dead = Multiaddr("/ip4/127.0.0.1/tcp/9")
            expecting = asyncio.create_task(
                alice.dial_punch(bob.peer_id, [dead], Role.INITIATOR, loop.time() + DEADLINE)
            )
            await asyncio.sleep(0)
            theirs = await bob.dial(alice.peer_id, alice.listen_addrs())
            connection = await expecting
            assert connection.direction is Direction.INBOUND
            assert await echoes(connection)
            assert await echoes(theirs)

    run(main)


def test_an_initiator_begins_where_a_stranger_proposes_nothing() -> None:
    """As behind a NAT that maps by destination: bob comes from another port than alice was told, and waits."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with swarm() as alice, swarm() as bob:
            until_then = loop.time() + DEADLINE
            dead = Multiaddr("/ip4/127.0.0.1/tcp/9")
            mine, theirs = await asyncio.gather(
                alice.dial_punch(bob.peer_id, [dead], Role.INITIATOR, until_then),
                bob.dial_punch(alice.peer_id, alice.listen_addrs(), Role.RESPONDER, until_then),
            )
            assert (mine.direction, theirs.direction) == (Direction.OUTBOUND, Direction.INBOUND)
            assert await echoes(mine)
            assert await echoes(theirs)

    run(main)


def test_a_host_that_is_denied_is_not_even_knocked_at() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with swarm(addrs=(ANY_UDP_PORT,), deny=("127.0.0.0/8",)) as alice, swarm(addrs=(ANY_UDP_PORT,)) as bob:
            with pytest.raises(DialError, match="no address to punch to"):
                await alice.dial_punch(bob.peer_id, bob.listen_addrs(), Role.RESPONDER, loop.time() + 1)

    run(main)
