"""Circuit relay v2 on real hosts: reserving, dialling through, limits, refusals, and bad input on both protocols."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from node.errors import (
    ConnectionClosed,
    DialError,
    LimitExceeded,
    NodeError,
    PeerIdMismatch,
    RelayError,
    RemoteProtocolError,
    StreamReset,
)
from node.events import Circuit, CircuitStep, Path, ReservationLost, Reserved
from node.host import Host, HostConfig
from node.logic.relay import RelayLimits
from node.names.keys import PrivateKey
from node.names.multiaddr import Multiaddr
from node.net.connection import Connection, Stream
from node.net.negotiate import respond
from node.net.stream import read_exactly, read_frame, write_frame
from node.protocols.echo import PROTOCOL as ECHO
from node.protocols.relay_client import Held, RelayClient
from node.protocols.relay_server import RelayServer, Splice
from node.wire.relay import (
    HOP_PROTOCOL,
    MAX_MESSAGE,
    STOP_PROTOCOL,
    HopMessage,
    HopType,
    Limit,
    RelayPeer,
    Reservation,
    Status,
    StopMessage,
    StopType,
    Voucher,
)
from tests.support.hostile import speak, stranger
from tests.support.hosts import LOOPBACK, addr_of, run, watch


@contextlib.asynccontextmanager
async def host(*, relay_client: bool = True) -> AsyncIterator[Host]:
    config = HostConfig(listen=(LOOPBACK,), relay_client=relay_client, dcutr=False)
    async with Host(config) as node:
        yield node


@contextlib.asynccontextmanager
async def relay(limits: RelayLimits | None = None) -> AsyncIterator[tuple[Host, RelayServer]]:
    async with host() as node:
        server = RelayServer(node, limits)
        await server.start()
        yield node, server
        await server.close()


def client_of(node: Host) -> RelayClient:
    assert node.relay_client is not None
    return node.relay_client


async def reserve(node: Host, at: Host) -> Held:
    return await client_of(node).reserve(addr_of(at))


def through(at: Host, target: Host) -> Multiaddr:
    return addr_of(at) / f"/p2p-circuit/p2p/{target.peer_id}"


async def echo(connection: Connection, payload: bytes) -> bytes:
    stream = await connection.new_stream([ECHO], limited=True)

    async def send() -> None:
        await stream.write(payload)
        await stream.close_write()

    async with asyncio.TaskGroup() as group:
        group.create_task(send())
        reading = group.create_task(read_exactly(stream, len(payload)))
    return reading.result()


async def ask(at: Connection, message: bytes) -> HopMessage:
    stream = await at.new_stream([HOP_PROTOCOL], limited=True)
    await write_frame(stream, message)
    answer = HopMessage.from_bytes(await read_frame(stream, MAX_MESSAGE))
    await stream.close()
    return answer


def serve_hop(node: Host, answer: Callable[[HopMessage], HopMessage]) -> None:
    """Make a host a relay that answers every request as told."""

    async def handler(stream: Stream) -> None:
        request = HopMessage.from_bytes(await read_frame(stream, MAX_MESSAGE))
        await write_frame(stream, answer(request).to_bytes())

    node.handle(HOP_PROTOCOL, handler)


# ── reserving ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_reservation_comes_with_a_voucher_a_limit_and_addresses_to_advertise() -> None:
    async def main() -> None:
        async with relay() as (r, _), host() as b:
            seen = watch(b)
            held = await reserve(b, r)
            assert held.voucher == Voucher(r.peer_id, b.peer_id, int(held.expire))
            assert held.limit == Limit(duration=120, data=131072)
            assert held.addrs == (addr_of(r) / "/p2p-circuit",)
            assert set(held.addrs) <= set(b.addrs())
            assert await seen.wait(Reserved) == Reserved(r.peer_id, held.expire, held.addrs)

    run(main)


def test_a_reservation_is_renewed_before_it_expires() -> None:
    async def main() -> None:
        async with relay(RelayLimits(ttl=6.0)) as (r, _), host() as b:  # renewed after half, told in whole seconds
            seen = watch(b)
            held = await reserve(b, r)
            await seen.wait(Reserved, lambda event: event.expire > held.expire)
            assert set(held.addrs) <= set(b.addrs())
            assert not any(isinstance(event, ReservationLost) for event in seen.events)

    run(main)


def test_a_slot_that_is_not_renewed_is_lost_when_it_expires() -> None:
    async def main() -> None:
        async with relay(RelayLimits(ttl=2.0)) as (r, server), host() as b:
            seen = watch(b)
            held = await reserve(b, r)
            await server.close()
            lost = await seen.wait(ReservationLost)
            assert lost.relay == r.peer_id
            assert "not renewed" in lost.why
            assert not set(held.addrs) & set(b.addrs())
            await server.start()

    run(main)


def test_a_slot_is_lost_on_both_sides_when_the_connection_ends() -> None:
    async def main() -> None:
        async with relay() as (r, server), host() as b:
            seen, ended = watch(b), asyncio.Event()
            r.swarm.on_disconnected(lambda connection, why: ended.set())
            await reserve(b, r)
            await b.swarm.disconnect(r.peer_id)
            assert (await seen.wait(ReservationLost)).relay == r.peer_id
            await ended.wait()
            assert server.slots.peers(r.now()) == []
            assert client_of(b).held == ()
            assert len(b.addrs()) == 1

    run(main)


def test_a_lost_slot_can_be_reserved_again() -> None:
    async def main() -> None:
        async with relay() as (r, _), host() as b, host() as a:
            await reserve(b, r)
            await b.swarm.disconnect(r.peer_id)
            await reserve(b, r)
            assert (await a.connect(through(r, b))).path is Path.RELAYED

    run(main)


def test_a_relay_that_was_away_is_asked_for_a_slot_as_soon_as_somebody_wants_one() -> None:
    async def main() -> None:
        async with host() as node:
            async with relay() as (at, _):
                where, key = addr_of(at), at.key
            with pytest.raises(DialError):
                await node.connect(where)
            with pytest.raises(DialError, match="left alone"):
                await node.connect(where)
            async with Host(HostConfig(key=key, listen=(where.without("p2p"),), dcutr=False)) as back:
                await RelayServer(back).start()
                assert (await client_of(node).reserve(where)).relay == back.peer_id

    run(main)


def test_a_full_relay_says_so() -> None:
    async def main() -> None:
        async with relay(RelayLimits(slots=1)) as (r, _), host() as b, host() as c:
            await reserve(b, r)
            with pytest.raises(RelayError) as refused:
                await reserve(c, r)
            assert refused.value.status == "RESERVATION_REFUSED"

    run(main)


def test_a_relay_without_a_voucher_or_addresses_is_good_enough() -> None:
    async def main() -> None:
        async with host() as r, host() as b:
            status = HopMessage(HopType.STATUS, reservation=Reservation(expire=2**40), status=Status.OK)
            serve_hop(r, lambda request: status)
            held = await reserve(b, r)
            assert (held.voucher, held.limit) == (None, None)
            assert held.addrs == (addr_of(r) / "/p2p-circuit",)

    run(main)


@pytest.mark.parametrize("fault", ["expired", "no reservation", "voucher", "voucher for another", "not a status"])
def test_a_reservation_that_cannot_be_true_is_refused_with_a_typed_error(fault: str) -> None:
    async def main() -> None:
        async with host() as r, host() as b:
            for_another = Voucher(r.peer_id, r.peer_id, 2**40).seal(r.key)
            answers = {
                "expired": HopMessage(HopType.STATUS, reservation=Reservation(expire=1), status=Status.OK),
                "no reservation": HopMessage(HopType.STATUS, status=Status.OK),
                "voucher": HopMessage(
                    HopType.STATUS, reservation=Reservation(expire=2**40, voucher=b"\x01\x02"), status=Status.OK
                ),
                "voucher for another": HopMessage(
                    HopType.STATUS, reservation=Reservation(expire=2**40, voucher=for_another), status=Status.OK
                ),
                "not a status": HopMessage(HopType.RESERVE),
            }
            serve_hop(r, lambda request: answers[fault])
            with pytest.raises(NodeError):
                await reserve(b, r)
            assert client_of(b).held == ()
            assert len(b.addrs()) == 1

    run(main)


# ── circuits ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_peer_behind_a_relay_is_reached_and_both_know_the_path() -> None:
    async def main() -> None:
        async with relay() as (r, _), host() as b, host() as a:
            await reserve(b, r)
            connection = await a.connect(through(r, b))
            assert (connection.peer, connection.path, connection.limited) == (b.peer_id, Path.RELAYED, True)
            assert connection.remote == through(r, b)
            assert connection.transport == "relay"
            payload = bytes(range(256)) * 64
            assert await echo(connection, payload) == payload
            (inbound,) = b.swarm.connections(a.peer_id)
            assert (inbound.path, inbound.remote) == (Path.RELAYED, addr_of(r) / "/p2p-circuit")

    run(main)


def test_a_limited_connection_carries_only_what_opted_in() -> None:
    async def main() -> None:
        async with relay() as (r, _), host() as b, host() as a:
            await reserve(b, r)
            connection = await a.connect(through(r, b))
            with pytest.raises(LimitExceeded):
                await connection.new_stream([ECHO])

    run(main)


def test_without_limits_a_circuit_is_not_limited() -> None:
    async def main() -> None:
        async with relay(RelayLimits(duration=0, data=0)) as (r, _), host() as b, host() as a:
            assert (await reserve(b, r)).limit is None
            connection = await a.connect(through(r, b))
            assert not connection.limited
            payload = bytes(400_000)
            assert await echo(connection, payload) == payload

    run(main)


def test_a_circuit_is_reset_when_one_direction_has_used_up_its_bytes() -> None:
    async def main() -> None:
        async with relay(RelayLimits(data=20_000)) as (r, _), host() as b, host() as a:
            seen = watch(r)
            await reserve(b, r)
            connection = await a.connect(through(r, b))
            with pytest.raises(ExceptionGroup) as failed:
                await echo(connection, bytes(40_000))
            assert failed.group_contains((ConnectionClosed, StreamReset))
            closed = await seen.wait(Circuit, lambda event: event.stage is CircuitStep.CLOSED)
            assert closed.bytes_up == 20_000
            assert closed.bytes_down < 20_000
            assert closed.why == "limit of 20000 bytes reached"
            again = await a.connect(through(r, b))
            assert await echo(again, b"still there") == b"still there"

    run(main)


def test_a_circuit_is_reset_when_its_time_is_up() -> None:
    async def main() -> None:
        async with relay(RelayLimits(duration=3)) as (r, _), host() as b, host() as a:
            seen, ended = watch(r), asyncio.Event()
            await reserve(b, r)
            a.swarm.on_disconnected(lambda connection, why: ended.set() if connection.path is Path.RELAYED else None)
            await a.connect(through(r, b))
            await ended.wait()
            closed = await seen.wait(Circuit, lambda event: event.stage is CircuitStep.CLOSED)
            assert closed.why == "limit of 3 s reached"

    run(main)


def test_the_relay_tells_who_was_connected_and_how_many_bytes_went_each_way() -> None:
    async def main() -> None:
        async with relay() as (r, server), host() as b, host() as a:
            seen = watch(r)
            await reserve(b, r)
            connection = await a.connect(through(r, b))
            await echo(connection, bytes(5000))
            opened = await seen.wait(Circuit)
            assert opened == Circuit(CircuitStep.OPENED, a.peer_id, b.peer_id)
            assert server.slots.circuits == 1
            await connection.close()
            closed = await seen.wait(Circuit, lambda event: event.stage is CircuitStep.CLOSED)
            assert (closed.source, closed.target) == (a.peer_id, b.peer_id)
            assert min(closed.bytes_up, closed.bytes_down) > 5000
            assert server.slots.circuits == 0

    run(main)


def test_who_has_no_reservation_is_not_reached() -> None:
    async def main() -> None:
        async with relay() as (r, _), host() as b, host() as a:
            await b.connect(addr_of(r))
            with pytest.raises(RelayError) as refused:
                await a.connect(through(r, b))
            assert refused.value.status == "NO_RESERVATION"

    run(main)


def test_a_peer_has_no_more_circuits_than_the_relay_allows() -> None:
    async def main() -> None:
        async with relay(RelayLimits(circuits_per_peer=1)) as (r, _), host() as b, host() as a, host() as c:
            await reserve(b, r)
            await a.connect(through(r, b))
            with pytest.raises(RelayError) as refused:
                await c.connect(through(r, b))
            assert refused.value.status == "RESOURCE_LIMIT_EXCEEDED"

    run(main)


def test_no_chain_of_relays_is_built() -> None:
    async def main() -> None:
        async with relay() as (r, server), relay() as (hidden, _), host() as a:
            await reserve(hidden, r)
            connection = await a.connect(through(r, hidden))
            assert (await ask(connection, HopMessage(HopType.RESERVE).to_bytes())).status is Status.PERMISSION_DENIED
            request = HopMessage(HopType.CONNECT, peer=RelayPeer(r.peer_id))
            assert (await ask(connection, request.to_bytes())).status is Status.PERMISSION_DENIED
            with pytest.raises(NodeError):
                await client_of(a).reserve(through(r, hidden))
            assert server.slots.circuits == 1

    run(main)


def test_a_relay_does_not_loop_back_to_itself_or_to_who_asks() -> None:
    async def main() -> None:
        async with relay() as (r, _), host() as a:
            await reserve(a, r)
            connection = await a.connect(addr_of(r))
            to_relay = HopMessage(HopType.CONNECT, peer=RelayPeer(r.peer_id))
            assert (await ask(connection, to_relay.to_bytes())).status is Status.NO_RESERVATION
            to_self = HopMessage(HopType.CONNECT, peer=RelayPeer(a.peer_id))
            assert (await ask(connection, to_self.to_bytes())).status is Status.PERMISSION_DENIED

    run(main)


def test_a_target_that_comes_again_before_it_has_answered_is_asked_by_the_newer_connection() -> None:
    """It has changed its network: by the older one it hears of nothing any more."""

    async def main() -> None:
        key = PrivateKey.generate()
        async with relay() as (r, _), host() as a, stranger(r, key) as deaf:
            hop = await speak(deaf, HOP_PROTOCOL)
            await write_frame(hop, HopMessage(HopType.RESERVE).to_bytes())
            assert HopMessage.from_bytes(await read_frame(hop, MAX_MESSAGE)).status is Status.OK
            config = HostConfig(listen=(LOOPBACK,), relay_client=True, dcutr=False, key=key)
            async with Host(config) as b:
                dialling = asyncio.create_task(a.connect(through(r, b)))
                asked = False
                while not asked:  # identify comes as well
                    with contextlib.suppress(NodeError):
                        await respond(await deaf.incoming.get(), STOP_PROTOCOL.__eq__)
                        asked = True  # and it is not answered
                await reserve(b, r)
                connection = await dialling
                assert await echo(connection, b"x" * 1000) == b"x" * 1000

    run(main)


@pytest.mark.parametrize("hops", ["twice through it", "through ourselves", "through the peer itself"])
def test_a_path_that_is_not_one_through_another_relay_is_not_dialled(hops: str) -> None:
    async def main() -> None:
        async with relay() as (r, _), host() as a, host() as b:
            await reserve(b, r)
            paths = {
                "twice through it": addr_of(r) / f"/p2p-circuit/p2p/{r.peer_id}/p2p-circuit/p2p/{b.peer_id}",
                "through ourselves": through(a, b),
                "through the peer itself": through(b, b),
            }
            with pytest.raises(RelayError) as refused:
                await a.connect(paths[hops])
            assert refused.value.status == "PERMISSION_DENIED"

    run(main)


@contextlib.asynccontextmanager
async def lying_relay(target: Callable[[], Host], announced: Callable[[], Host]) -> AsyncIterator[Host]:
    """A relay that connects whoever asks with `target` and says there that it is `announced`."""
    async with host() as node:

        async def handler(stream: Stream) -> None:
            request = HopMessage.from_bytes(await read_frame(stream, MAX_MESSAGE))
            reservation = Reservation(expire=2**40) if request.type is HopType.RESERVE else None
            onward = None
            if request.type is HopType.CONNECT:
                (connection,) = node.swarm.connections(target().peer_id)
                onward = await connection.new_stream([STOP_PROTOCOL])
                lie = StopMessage(StopType.CONNECT, peer=RelayPeer(announced().peer_id))
                await write_frame(onward, lie.to_bytes())
                assert StopMessage.from_bytes(await read_frame(onward, MAX_MESSAGE)).status is Status.OK
            await write_frame(stream, HopMessage(HopType.STATUS, None, reservation, None, Status.OK).to_bytes())
            if onward is not None:
                await Splice(stream, onward, None).run()

        node.handle(HOP_PROTOCOL, handler)
        yield node


def test_a_relay_that_brings_us_to_somebody_else_is_found_out() -> None:
    async def main() -> None:
        async with host() as a, host() as b, host() as c, lying_relay(lambda: c, lambda: a) as r:
            await reserve(c, r)
            with pytest.raises(PeerIdMismatch):
                await a.connect(through(r, b))

    run(main)


def test_a_relay_that_announces_somebody_else_is_found_out() -> None:
    async def main() -> None:
        async with host() as a, host() as b, host() as c, lying_relay(lambda: b, lambda: c) as r:
            await reserve(b, r)
            why: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            b.swarm.on_disconnected(lambda connection, reason: why.set_result(reason))
            with contextlib.suppress(NodeError):
                await a.connect(through(r, b))
            assert await why == "the relay named somebody else"
            assert b.swarm.connections(a.peer_id) == []

    run(main)


# ── bad input ────────────────────────────────────────────────────────────────────────────────────────────────────────

MALFORMED = [b"\xff\xff\xff", b"\x08\x63", HopMessage(HopType.CONNECT).to_bytes(), b"\x08\x01\x12\x02\x0a\x00"]


@pytest.mark.parametrize("message", MALFORMED, ids=["garbage", "unknown type", "no peer", "empty peer id"])
def test_a_malformed_request_is_called_so_and_the_relay_goes_on(message: bytes) -> None:
    async def main() -> None:
        async with relay() as (r, _), host() as a:
            connection = await a.connect(addr_of(r))
            assert (await ask(connection, message)).status is Status.MALFORMED_MESSAGE
            assert (await ask(connection, HopMessage(HopType.RESERVE).to_bytes())).status is Status.OK

    run(main)


def test_a_status_is_not_a_request() -> None:
    async def main() -> None:
        async with relay() as (r, _), host() as a:
            connection = await a.connect(addr_of(r))
            status = HopMessage(HopType.STATUS, status=Status.OK)
            assert (await ask(connection, status.to_bytes())).status is Status.UNEXPECTED_MESSAGE

    run(main)


def test_an_oversize_message_ends_the_stream_and_nothing_else() -> None:
    async def main() -> None:
        async with relay() as (r, _), host() as a:
            connection = await a.connect(addr_of(r))
            assert (await ask(connection, bytes(MAX_MESSAGE + 1))).status is Status.MALFORMED_MESSAGE
            assert (await ask(connection, HopMessage(HopType.RESERVE).to_bytes())).status is Status.OK

    run(main)


@pytest.mark.parametrize(
    ("message", "status"),
    [
        (StopMessage(StopType.CONNECT), Status.MALFORMED_MESSAGE),
        (StopMessage(StopType.STATUS, status=Status.OK), Status.UNEXPECTED_MESSAGE),
    ],
)
def test_a_bad_stop_request_is_refused_by_name(message: StopMessage, status: Status) -> None:
    async def main() -> None:
        async with relay() as (r, _), host() as b:
            await reserve(b, r)
            assert await stop(r, b, message.to_bytes()) is status

    run(main)


def test_a_circuit_from_whom_we_have_no_slot_with_is_refused() -> None:
    async def main() -> None:
        async with relay() as (r, _), host() as b, host() as a:
            await b.connect(addr_of(r))
            request = StopMessage(StopType.CONNECT, peer=RelayPeer(a.peer_id))
            assert await stop(r, b, request.to_bytes()) is Status.PERMISSION_DENIED

    run(main)


async def stop(at: Host, target: Host, message: bytes) -> Status | None:
    (connection,) = at.swarm.connections(target.peer_id)
    stream = await connection.new_stream([STOP_PROTOCOL])
    await write_frame(stream, message)
    answer = StopMessage.from_bytes(await read_frame(stream, MAX_MESSAGE))
    assert answer.type is StopType.STATUS
    return answer.status


def test_what_follows_the_status_on_the_stream_belongs_to_the_connection_over_it() -> None:
    async def main() -> None:
        async with host() as r, host() as b, host() as a:

            async def handler(stream: Stream) -> None:
                await read_frame(stream, MAX_MESSAGE)
                status = HopMessage(HopType.STATUS, status=Status.OK).to_bytes()
                refusal = b"\x13/multistream/1.0.0\n" + 2 * b"\x03na\n"  # to Noise and to TLS
                await stream.write(bytes([len(status)]) + status + refusal)
                await stream.read()

            r.handle(HOP_PROTOCOL, handler)
            with pytest.raises(NodeError, match="supports none of"):
                await a.connect(through(r, b))

    run(main)


def test_reserving_without_end_takes_one_slot() -> None:
    async def main() -> None:
        async with relay() as (r, server), host() as b:
            connection = await b.connect(addr_of(r))
            for _ in range(100):
                assert (await ask(connection, HopMessage(HopType.RESERVE).to_bytes())).status is Status.OK
            assert server.slots.peers(r.now()) == [b.peer_id]

    run(main)


def test_a_target_that_refuses_or_answers_nonsense_is_a_failed_connection() -> None:
    async def main() -> None:
        async with relay() as (r, server), host(relay_client=False) as b, host() as a:

            async def refuse(stream: Stream) -> None:
                await read_frame(stream, MAX_MESSAGE)
                await write_frame(stream, StopMessage(StopType.CONNECT).to_bytes())

            b.handle(STOP_PROTOCOL, refuse)
            connection = await b.connect(addr_of(r))
            assert (await ask(connection, HopMessage(HopType.RESERVE).to_bytes())).status is Status.OK
            with pytest.raises(RelayError) as refused:
                await a.connect(through(r, b))
            assert refused.value.status == "CONNECTION_FAILED"
            assert server.slots.circuits == 0

    run(main)


def test_an_answer_of_the_relay_that_cannot_be_read_is_an_error_of_the_dial() -> None:
    async def main() -> None:
        async with host() as r, host() as b, host() as a:
            serve_hop(r, lambda request: HopMessage(HopType.RESERVE))
            with pytest.raises(NodeError):
                await a.connect(through(r, b))
            with pytest.raises(RemoteProtocolError):
                await reserve(a, r)

    run(main)
