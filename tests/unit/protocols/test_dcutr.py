"""Hole punching between real hosts: a relayed connection becomes direct, with the roles that the exchange gives."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import pytest

from node.errors import ConnectionClosed, StreamReset
from node.events import Connected, Direction, Disconnected, Path, PunchStage, PunchStep
from node.host import Host, HostConfig
from node.logic.dcutr import PunchPolicy
from node.logic.relay import RelayLimits
from node.names.multiaddr import Multiaddr
from node.net.connection import Stream
from node.net.stream import read_frame, write_frame
from node.net.upgrade import Role
from node.protocols.dcutr import RETIRING, Dcutr
from node.protocols.ping import PROTOCOL as PING
from node.protocols.relay_server import RelayServer
from node.wire.dcutr import MAX_MESSAGE, PROTOCOL, HolePunch, HolePunchType
from node.wire.framing import encode_frame
from node.wire.identify import PUSH_PROTOCOL
from node.wire.identify import Identify as Message
from tests.support.hosts import LOOPBACK, Seen, addr_of, run

POLICY = PunchPolicy(direct_dial=0.0, grace=0.05, allow_private=True)
IMPATIENT = replace(POLICY, patience=0.0)
CONNECT, SYNC = HolePunchType.CONNECT, HolePunchType.SYNC


@dataclass(frozen=True)
class Three:
    """A relay, B with a slot at it, and A who is to dial B."""

    relay: Host
    a: Host
    b: Host
    a_seen: Seen
    b_seen: Seen

    async def meet(self) -> None:
        assert self.b.relay_client is not None
        await self.b.relay_client.reserve(addr_of(self.relay))
        connection = await self.a.connect(addr_of(self.relay) / f"/p2p-circuit/p2p/{self.b.peer_id}")
        assert connection.path is Path.RELAYED
        await self.b_seen.wait(Connected, lambda event: event.peer == self.a.peer_id)

    def paths(self) -> tuple[set[Path], set[Path]]:
        of_a = {connection.path for connection in self.a.swarm.connections(self.b.peer_id)}
        of_b = {connection.path for connection in self.b.swarm.connections(self.a.peer_id)}
        return of_a, of_b


async def relayed_gone(net: Three) -> None:
    for seen in (net.a_seen, net.b_seen):
        await seen.wait(Disconnected, lambda event: event.path is Path.RELAYED)


@contextlib.asynccontextmanager
async def host(policy: PunchPolicy | None, seen: Seen, listen: tuple[Multiaddr, ...]) -> AsyncIterator[Host]:
    async with Host(HostConfig(listen=listen, dcutr=False)) as node:
        node.subscribe(seen.add)
        if policy is None:
            yield node
            return
        dcutr = Dcutr(node, policy)
        await dcutr.start()
        yield node
        await dcutr.close()


@contextlib.asynccontextmanager
async def three(
    *,
    a: PunchPolicy | None = POLICY,
    b: PunchPolicy | None = POLICY,
    limits: RelayLimits | None = None,
    a_listens: bool = True,
) -> AsyncIterator[Three]:
    a_seen, b_seen = Seen(), Seen()
    async with (
        Host(HostConfig(listen=(LOOPBACK,), dcutr=False)) as relay,
        host(a, a_seen, (LOOPBACK,) if a_listens else ()) as node_a,
        host(b, b_seen, (LOOPBACK,)) as node_b,
    ):
        await RelayServer(relay, limits).start()
        yield Three(relay, node_a, node_b, a_seen, b_seen)


def test_a_relayed_connection_becomes_direct_with_the_dialler_as_initiator() -> None:
    async def main() -> None:
        async with three() as net:
            await net.meet()
            of_a = await net.a_seen.punch(PunchStep.SUCCEEDED)
            of_b = await net.b_seen.punch(PunchStep.SUCCEEDED)
            assert (of_a.role, of_b.role, of_a.attempt, of_b.attempt) == ("initiator", "responder", 1, 1)
            direct_a, direct_b = net.a.swarm.best(net.b.peer_id), net.b.swarm.best(net.a.peer_id)
            assert direct_a is not None
            assert direct_b is not None
            assert (direct_a.path, direct_a.direction) == (Path.DIRECT, Direction.OUTBOUND)
            assert (direct_b.path, direct_b.direction) == (Path.DIRECT, Direction.INBOUND)
            assert await net.a.ping.ping(direct_a) > 0
            assert await net.b.ping.ping(direct_b) > 0

    run(main)


def test_pings_that_a_peer_has_under_way_do_not_keep_the_relayed_connection() -> None:
    async def main() -> None:
        unhurried = replace(POLICY, grace=1.0)
        async with three(a=unhurried, b=unhurried) as net:
            await net.meet()
            (relayed,) = (each for each in net.a.swarm.connections(net.b.peer_id) if each.path is Path.RELAYED)
            pings = await relayed.new_stream([PING], limited=True)
            await net.b_seen.punch(PunchStep.SUCCEEDED)
            assert not relayed.is_closed
            async with asyncio.timeout(RETIRING / 2):  # and not when its streams' time is over
                await relayed_gone(net)
            with pytest.raises(ConnectionClosed):
                await pings.read()

    run(main)


def test_both_sides_tell_every_stage_in_order() -> None:
    async def main() -> None:
        async with three() as net:
            await net.meet()
            await net.a_seen.punch(PunchStep.SUCCEEDED)
            await net.b_seen.punch(PunchStep.SUCCEEDED)
            assert [event.stage.value for event in net.b_seen.punches()] == [
                "started",
                "connect-sent",
                "connect-received",
                "sync-sent",
                "dialling",
                "succeeded",
            ]
            assert [event.stage.value for event in net.a_seen.punches()] == [
                "started",
                "connect-received",
                "connect-sent",
                "sync-received",
                "dialling",
                "succeeded",
            ]
            (dialling,) = (event for event in net.a_seen.punches() if event.stage is PunchStep.DIALLING)
            assert dialling.addrs == tuple(net.b.listen_addrs())

    run(main)


def test_the_relayed_connection_is_closed_after_a_success_and_the_direct_one_stays() -> None:
    async def main() -> None:
        async with three() as net:
            await net.meet()
            await relayed_gone(net)
            assert net.paths() == ({Path.DIRECT}, {Path.DIRECT})
            stream = await net.a.new_stream(net.b.peer_id, ["/echo/1.0.0"])
            await stream.write(b"over the hole")
            await stream.close_write()
            assert await stream.read() == b"over the hole"

    run(main)


def test_a_stream_on_the_relayed_connection_may_end_before_it_is_closed() -> None:
    async def main() -> None:
        hasty = PunchPolicy(direct_dial=0.0, grace=0.0, allow_private=True)
        async with three(a=hasty, b=hasty) as net:
            await net.meet()
            (relayed,) = net.a.swarm.connections(net.b.peer_id)
            stream = await relayed.new_stream(["/echo/1.0.0"], limited=True)
            await net.a_seen.punch(PunchStep.SUCCEEDED)
            await net.b_seen.punch(PunchStep.SUCCEEDED)
            for _ in range(20):
                await stream.write(b"still")
                assert await stream.read() == b"still"
            assert not relayed.is_closed
            await stream.close()
            await relayed_gone(net)

    run(main)


def test_a_reachable_peer_is_dialled_plainly_without_an_exchange() -> None:
    async def main() -> None:
        policy = PunchPolicy(grace=0.05, allow_private=True)
        async with three(a=policy, b=policy) as net:
            await net.meet()
            await net.b_seen.punch(PunchStep.SUCCEEDED)
            assert [event.stage.value for event in net.b_seen.punches()] == ["started", "direct-dial", "succeeded"]
            await relayed_gone(net)
            assert net.paths() == ({Path.DIRECT}, {Path.DIRECT})
            assert net.a_seen.punches() == []

    run(main)


def test_a_punch_over_an_unlimited_relay_works_the_same() -> None:
    async def main() -> None:
        async with three(limits=RelayLimits(duration=0, data=0)) as net:
            await net.meet()
            await relayed_gone(net)
            assert net.paths() == ({Path.DIRECT}, {Path.DIRECT})

    run(main)


def test_without_a_public_address_the_connection_stays_relayed() -> None:
    async def main() -> None:
        public_only = PunchPolicy(direct_dial=0.0)
        async with three(a=public_only, b=public_only) as net:
            await net.meet()
            gave_up = await net.b_seen.punch(PunchStep.GAVE_UP)
            assert gave_up.why == "no public address of ours has been observed"
            assert net.paths() == ({Path.RELAYED}, {Path.RELAYED})

    run(main)


def test_a_peer_without_hole_punching_stays_relayed() -> None:
    async def main() -> None:
        async with three(a=None, b=IMPATIENT) as net:
            await net.meet()
            gave_up = await net.b_seen.punch(PunchStep.GAVE_UP)
            assert "supports none" in (gave_up.why or "")
            assert net.paths() == ({Path.RELAYED}, {Path.RELAYED})

    run(main)


def test_a_peer_that_serves_the_protocol_a_little_later_is_waited_for() -> None:
    async def main() -> None:
        async with three(a=None) as net:
            await net.meet()
            assert "supports none" in ((await net.b_seen.punch(PunchStep.UNSERVED)).why or "")
            async with punching(net.a):
                assert (await net.b_seen.punch(PunchStep.SUCCEEDED)).attempt == 1
                await relayed_gone(net)
            assert [event.stage for event in net.b_seen.punches()].count(PunchStep.STARTED) == 1

    run(main)


def test_a_peer_that_serves_the_protocol_only_after_we_gave_up_is_punched_with_then() -> None:
    async def main() -> None:
        async with three(a=None, b=IMPATIENT) as net:
            await net.meet()
            await net.b_seen.punch(PunchStep.GAVE_UP)
            async with punching(net.a):
                await net.b_seen.punch(PunchStep.SUCCEEDED)
                await relayed_gone(net)
            assert [event.stage for event in net.b_seen.punches()].count(PunchStep.STARTED) == 2

    run(main)


def test_a_peer_that_only_says_that_it_serves_the_protocol_is_believed_three_times() -> None:
    async def main() -> None:
        async with three(a=None, b=IMPATIENT) as net:
            await net.meet()
            await net.b_seen.punch(PunchStep.GAVE_UP)
            (relayed,) = net.a.swarm.connections(net.b.peer_id)
            identify = Message(protocols=(PROTOCOL,)).to_bytes()
            for count in range(1, 6):
                tells = await relayed.new_stream([PUSH_PROTOCOL], limited=True)
                await tells.write(encode_frame(identify))
                await tells.close_write()
                assert await tells.read() == b""
                await count_of(net.b_seen, PunchStep.GAVE_UP, min(count + 1, 3))
            assert [event.stage for event in net.b_seen.punches()].count(PunchStep.STARTED) == 3

    run(main)


async def count_of(seen: Seen, stage: PunchStep, count: int) -> None:
    await seen.wait(PunchStage, lambda _: [event.stage for event in seen.punches()].count(stage) >= count)


@contextlib.asynccontextmanager
async def punching(node: Host) -> AsyncIterator[None]:
    dcutr = Dcutr(node, POLICY)
    await dcutr.start()
    yield
    await dcutr.close()


def test_a_peer_that_does_not_listen_cannot_offer_an_address_and_stays_relayed() -> None:
    async def main() -> None:
        async with three(a_listens=False) as net:
            await net.meet()
            await net.b_seen.punch(PunchStep.GAVE_UP)
            assert (await net.a_seen.punch(PunchStep.FAILED)).why == "no public address of ours has been observed"

    run(main)


def test_a_punch_that_fails_is_tried_three_times_and_given_up() -> None:
    async def main() -> None:
        patient = PunchPolicy(direct_dial=0.0, punch=1.0, allow_private=True)
        async with three(a=None, b=patient) as net, refusing_port() as dead_end:

            async def answer(stream: Stream) -> None:
                assert HolePunch.from_bytes(await read_frame(stream, MAX_MESSAGE)).type is CONNECT
                await write_frame(stream, HolePunch(CONNECT, (dead_end,)).to_bytes())
                assert HolePunch.from_bytes(await read_frame(stream, MAX_MESSAGE)).type is SYNC

            net.a.handle(PROTOCOL, answer, limited=True)
            await net.meet()
            gave_up = await net.b_seen.punch(PunchStep.GAVE_UP)
            assert gave_up.attempt == 3
            failed = [event for event in net.b_seen.punches() if event.stage is PunchStep.FAILED]
            assert [event.attempt for event in failed] == [1, 2, 3]
            assert all(str(dead_end) in (event.why or "") for event in failed)
            assert net.paths() == ({Path.RELAYED}, {Path.RELAYED})

    run(main)


@contextlib.asynccontextmanager
async def refusing_port() -> AsyncIterator[Multiaddr]:
    """An address of loopback that is bound, so that nobody else gets it, and not listened on."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield Multiaddr.tcp("127.0.0.1", bound.getsockname()[1])


NONSENSE = {
    "garbage": b"\xff\xff\xff",
    "unknown type": b"\x08\x07",
    "SYNC first": HolePunch(SYNC).to_bytes(),
    "oversize": bytes(MAX_MESSAGE + 1),
}


@pytest.mark.parametrize("kind", NONSENSE)
def test_nonsense_for_an_answer_ends_the_work_and_not_the_connection(kind: str) -> None:
    async def main() -> None:
        async with three(a=None) as net:

            async def answer(stream: Stream) -> None:
                await read_frame(stream, MAX_MESSAGE)
                await write_frame(stream, NONSENSE[kind])
                await stream.read()

            net.a.handle(PROTOCOL, answer, limited=True)
            await net.meet()
            assert (await net.b_seen.punch(PunchStep.GAVE_UP)).attempt == 1
            (connection,) = net.b.swarm.connections(net.a.peer_id)
            assert await net.b.ping.ping(connection) > 0

    run(main)


def test_a_peer_that_knows_no_address_of_its_own_is_asked_three_times() -> None:
    async def main() -> None:
        policy = PunchPolicy(direct_dial=0.0, pause=0.05, allow_private=True)
        async with three(a=None, b=policy) as net:
            told: list[HolePunchType] = []

            async def answer(stream: Stream) -> None:
                await read_frame(stream, MAX_MESSAGE)
                await write_frame(stream, HolePunch(CONNECT).to_bytes())
                told.append(HolePunch.from_bytes(await read_frame(stream, MAX_MESSAGE)).type)

            net.a.handle(PROTOCOL, answer, limited=True)
            await net.meet()
            assert (await net.b_seen.punch(PunchStep.GAVE_UP)).attempt == policy.attempts
            assert told == [SYNC] * (policy.attempts - 1)

    run(main)


def test_a_peer_that_knows_no_address_of_its_own_may_dial_ours_on_sync() -> None:
    async def main() -> None:
        async with three(a=None, b=replace(POLICY, pause=0.5)) as net:

            async def answer(stream: Stream) -> None:
                theirs = HolePunch.from_bytes(await read_frame(stream, MAX_MESSAGE)).addrs
                await write_frame(stream, HolePunch(CONNECT).to_bytes())
                await read_frame(stream, MAX_MESSAGE)
                await net.a.swarm.dial(net.b.peer_id, theirs, force_direct=True)

            net.a.handle(PROTOCOL, answer, limited=True)
            await net.meet()
            await net.b_seen.punch(PunchStep.SUCCEEDED)
            await relayed_gone(net)

    run(main)


@pytest.mark.parametrize("kind", NONSENSE)
def test_nonsense_for_a_request_resets_the_stream_and_the_next_is_served(kind: str) -> None:
    async def main() -> None:
        async with three(b=None) as net:
            await net.meet()
            (connection,) = net.b.swarm.connections(net.a.peer_id)
            stream = await connection.new_stream([PROTOCOL], limited=True)
            await write_frame(stream, NONSENSE[kind])
            with pytest.raises(StreamReset):
                await stream.read()
            assert (await net.a_seen.punch(PunchStep.FAILED)).attempt == 1
            again = await connection.new_stream([PROTOCOL], limited=True)
            assert (await begin(again, net.b.listen_addrs())).addrs == tuple(net.a.listen_addrs())
            again.reset()

    run(main)


def test_who_offers_no_address_is_told_ours_and_dialled_nowhere() -> None:
    async def main() -> None:
        async with three(b=None) as net:
            await net.meet()
            (connection,) = net.b.swarm.connections(net.a.peer_id)
            stream = await connection.new_stream([PROTOCOL], limited=True)
            assert (await begin(stream, [])).addrs == tuple(net.a.listen_addrs())
            await write_frame(stream, HolePunch(SYNC).to_bytes())
            assert await stream.read() == b""  # closed, not reset
            assert "offers no address" in str((await net.a_seen.punch(PunchStep.FAILED)).why)
            assert not [each for each in net.a_seen.punches() if each.stage is PunchStep.DIALLING]

    run(main)


def test_the_side_that_dialled_must_not_begin_and_a_direct_connection_needs_no_hole() -> None:
    async def main() -> None:
        async with three(a=None) as net:
            await net.meet()
            (relayed,) = net.a.swarm.connections(net.b.peer_id)
            (direct,) = net.relay.swarm.connections(net.b.peer_id)
            for connection in (relayed, direct):
                with pytest.raises(StreamReset):
                    await begin(await connection.new_stream([PROTOCOL], limited=True), net.a.listen_addrs())
            assert await net.a.ping.ping(relayed) > 0

    run(main)


async def begin(stream: Stream, addrs: list[Multiaddr]) -> HolePunch:
    await write_frame(stream, HolePunch(CONNECT, tuple(addrs)).to_bytes())
    return HolePunch.from_bytes(await read_frame(stream, MAX_MESSAGE))


def test_a_connection_that_outruns_sync_gets_the_role_of_the_punch() -> None:
    async def main() -> None:
        async with three(b=None) as net:
            await net.meet()
            (connection,) = net.b.swarm.connections(net.a.peer_id)
            stream = await connection.new_stream([PROTOCOL], limited=True)
            answer = await begin(stream, net.b.listen_addrs())
            deadline = asyncio.get_running_loop().time() + 5.0
            direct = await net.b.swarm.dial_punch(net.a.peer_id, answer.addrs, Role.RESPONDER, deadline)
            assert direct.direction is Direction.INBOUND
            await write_frame(stream, HolePunch(SYNC).to_bytes())
            assert (await net.a_seen.punch(PunchStep.SUCCEEDED)).attempt == 1

    run(main)


def test_an_exchange_begun_anew_ends_the_punch_that_still_runs() -> None:
    async def main() -> None:
        async with three(a=PunchPolicy(punch=20.0, allow_private=True), b=None) as net, refusing_port() as dead_end:
            await net.meet()
            (connection,) = net.b.swarm.connections(net.a.peer_id)
            for attempt in (1, 2):
                stream = await connection.new_stream([PROTOCOL], limited=True)
                await begin(stream, [dead_end])
                await write_frame(stream, HolePunch(SYNC).to_bytes())
                await net.a_seen.wait(
                    PunchStage,
                    lambda event, n=attempt: event.stage is PunchStep.DIALLING and event.attempt == n,  # type: ignore[misc]
                )
            failed = await net.a_seen.punch(PunchStep.FAILED)
            assert (failed.attempt, failed.why) == (1, "the peer began the next exchange")

    run(main)
