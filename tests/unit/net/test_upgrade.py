"""Upgrading connections: roles, agreements, and every way it can fail."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from node.errors import (
    ConnectionClosed,
    DeadlineExceeded,
    NegotiationError,
    NodeError,
    PeerIdMismatch,
    RemoteProtocolError,
    SecurityError,
)
from node.logic.protection import DEFAULT, Protection, Security
from node.names.keys import KeyType, PrivateKey
from node.net.stream import RawConnection
from node.net.upgrade import Muxed, Role, UpgradeConfig, upgrade
from tests.support.connections import ALICE, BOB, End, read_all, tcp_pair, upgraded

Outcome = Muxed | BaseException


async def attempt(
    one: RawConnection, other: RawConnection, first: UpgradeConfig, second: UpgradeConfig, expected: PrivateKey = BOB
) -> tuple[Outcome, Outcome]:
    return await asyncio.gather(
        upgrade(one, key=ALICE, role=Role.INITIATOR, expected=expected.peer_id(), config=first),
        upgrade(other, key=BOB, role=Role.RESPONDER, config=second),
        return_exceptions=True,
    )


@pytest.mark.parametrize("dialler_initiates", [True, False])
def test_the_role_does_not_follow_from_who_connected(dialler_initiates: bool) -> None:
    async def main() -> None:
        async with tcp_pair() as (dialled, accepted):
            one, other = (dialled, accepted) if dialler_initiates else (accepted, dialled)
            alice, bob = await upgraded(one, other)
            assert (alice.muxed.remote_peer, bob.muxed.remote_peer) == (BOB.peer_id(), ALICE.peer_id())
            assert (await alice.muxed.open_stream()).id == 1
            assert (await bob.muxed.open_stream()).id == 2

    asyncio.run(main())


@pytest.mark.parametrize(("ours", "theirs"), list(itertools.product([True, False], repeat=2)))
def test_the_muxer_comes_from_the_handshake_if_both_know_how_else_from_multistream(ours: bool, theirs: bool) -> None:
    async def main() -> None:
        async with tcp_pair() as (dialled, accepted):
            configs = [UpgradeConfig(early_muxer=early) for early in (ours, theirs)]
            alice, bob = await upgraded(dialled, accepted, ours=configs[0], theirs=configs[1])
            for end in (alice, bob):
                assert end.muxed.early_muxer is (ours and theirs)
                assert (end.muxed.security, end.muxed.muxer) == ("/noise", "/yamux/1.0.0")
            stream = await alice.muxed.open_stream()
            await stream.write(b"hello")
            assert await (await bob.incoming.get()).read() == b"hello"

    asyncio.run(main())


@pytest.mark.parametrize("kind", list(KeyType))
def test_any_kind_of_identity_can_be_met(kind: KeyType) -> None:
    async def main() -> None:
        async with tcp_pair() as (dialled, accepted):
            key = PrivateKey.generate(kind)
            alice, bob = await asyncio.gather(
                upgrade(dialled, key=key, role=Role.INITIATOR), upgrade(accepted, key=BOB, role=Role.RESPONDER)
            )
            assert bob.remote_key == key.public
            assert alice.remote_key == BOB.public

    asyncio.run(main())


def test_data_right_behind_the_handshake_is_not_lost() -> None:
    async def main() -> None:
        async with tcp_pair() as (dialled, accepted):
            alice, bob = await asyncio.gather(
                upgrade(dialled, key=ALICE, role=Role.INITIATOR), upgrade(accepted, key=BOB, role=Role.RESPONDER)
            )
            ends = End(alice), End(bob)
            ends[0].start()
            stream = await alice.open_stream()
            await stream.write(b"early bird")
            await asyncio.sleep(0)
            ends[1].start()
            assert await (await ends[1].incoming.get()).read() == b"early bird"

    asyncio.run(main())


def test_meeting_another_peer_than_expected_ends_both_sides() -> None:
    async def main() -> None:
        async with tcp_pair() as (dialled, accepted):
            ours, theirs = await attempt(dialled, accepted, UpgradeConfig(), UpgradeConfig(), expected=ALICE)
            assert isinstance(ours, PeerIdMismatch)
            assert isinstance(theirs, ConnectionClosed)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (UpgradeConfig(security=(Security.PLAINTEXT,)), UpgradeConfig()),
        (UpgradeConfig(muxers=("/mplex/6.7.0",)), UpgradeConfig()),
        (UpgradeConfig(muxers=("/mplex/6.7.0",), early_muxer=False), UpgradeConfig()),
    ],
    ids=["security", "muxer", "muxer by multistream"],
)
def test_nothing_in_common_ends_both_sides(first: UpgradeConfig, second: UpgradeConfig) -> None:
    async def main() -> None:
        async with tcp_pair() as (dialled, accepted):
            ours, theirs = await attempt(dialled, accepted, first, second)
            assert isinstance(ours, NegotiationError)
            assert isinstance(theirs, ConnectionClosed)

    asyncio.run(main())


def test_two_initiators_notice_each_other() -> None:
    async def main() -> None:
        async with tcp_pair() as (dialled, accepted):
            outcomes = await asyncio.gather(
                *(upgrade(raw, key=ALICE, role=Role.INITIATOR) for raw in (dialled, accepted)), return_exceptions=True
            )
            assert all(isinstance(outcome, NodeError) for outcome in outcomes)

    asyncio.run(main())


def test_two_responders_end_at_the_deadline() -> None:
    async def main() -> None:
        async with tcp_pair() as (dialled, accepted):
            config = UpgradeConfig(timeout=0.05)
            outcomes = await asyncio.gather(
                *(upgrade(raw, key=ALICE, role=Role.RESPONDER, config=config) for raw in (dialled, accepted)),
                return_exceptions=True,
            )
            assert any(isinstance(outcome, DeadlineExceeded) for outcome in outcomes)
            assert all(isinstance(outcome, NodeError) for outcome in outcomes)

    asyncio.run(main())


HEADER = b"\x13/multistream/1.0.0\n"


@pytest.mark.parametrize(
    ("wire", "error"),
    [
        (b"GET / HTTP/1.1\r\n" * 5, RemoteProtocolError),
        (HEADER + b"\x07/noise\n\xff\xff", RemoteProtocolError),
        (HEADER + b"\x07/noise\n\x00\x20" + bytes(32), SecurityError),
        (HEADER + b"\x07/noise\n\x00\x00", RemoteProtocolError),
        (HEADER + b"\x07/noise\n", DeadlineExceeded),
        (HEADER[:7], DeadlineExceeded),
        (b"", DeadlineExceeded),
    ],
    ids=["http", "oversize", "zero share", "empty message", "silent in noise", "silent in multistream", "silent"],
)
def test_a_hostile_dialler_ends_in_a_typed_error(wire: bytes, error: type[NodeError]) -> None:
    async def main() -> None:
        async with tcp_pair() as (dialled, accepted):
            await dialled.write(wire)
            config = UpgradeConfig(timeout=0.05) if error is DeadlineExceeded else UpgradeConfig()
            with pytest.raises(error):
                await upgrade(accepted, key=BOB, role=Role.RESPONDER, config=config)
            while await dialled.read():  # what was answered, then the end
                pass

    asyncio.run(main())


def test_a_cancelled_upgrade_closes_the_connection() -> None:
    async def main() -> None:
        async with tcp_pair() as (dialled, accepted):
            upgrading = asyncio.create_task(upgrade(accepted, key=BOB, role=Role.RESPONDER))
            await asyncio.sleep(0)
            upgrading.cancel()
            assert await dialled.read() == b""

    asyncio.run(main())


@pytest.mark.parametrize("security", list(Security))
def test_every_security_carries_streams(security: Security) -> None:
    async def main() -> None:
        async with tcp_pair() as (dialled, accepted):
            config = UpgradeConfig(security=(security,))
            alice, bob = await upgraded(dialled, accepted, ours=config, theirs=config)
            assert {alice.muxed.security, bob.muxed.security} == {str(security)}
            assert alice.muxed.early_muxer is (security is not Security.PLAINTEXT)
            stream = await alice.muxed.open_stream()
            await stream.write(bytes(200_000))
            await stream.close_write()
            assert await read_all(await bob.incoming.get()) == bytes(200_000)

    asyncio.run(main())


@pytest.mark.parametrize("security", list(Security))
def test_with_every_security_another_peer_is_refused_and_told_by_the_end(security: Security) -> None:
    async def main() -> None:
        async with tcp_pair() as (dialled, accepted):
            config = UpgradeConfig(security=(security,))
            ours, theirs = await attempt(dialled, accepted, config, config, expected=ALICE)
            assert isinstance(ours, PeerIdMismatch)
            assert isinstance(theirs, (ConnectionClosed, SecurityError))

    asyncio.run(main())


def test_the_initiator_learns_by_its_first_read_that_a_tls_responder_refused_it() -> None:
    async def main() -> None:
        async with tcp_pair() as (dialled, accepted):
            config = UpgradeConfig(security=(Security.TLS,))
            ours, theirs = await asyncio.gather(
                upgrade(dialled, key=ALICE, role=Role.INITIATOR, config=config),
                upgrade(accepted, key=BOB, role=Role.RESPONDER, expected=BOB.peer_id(), config=config),
                return_exceptions=True,
            )
            assert isinstance(theirs, PeerIdMismatch)
            assert isinstance(ours, Muxed)  # TLS is done on this side before the other has seen our certificate
            end = End(ours)
            end.start()
            assert isinstance(await end.closed, (SecurityError, ConnectionClosed))

    asyncio.run(main())


@pytest.mark.parametrize(("one", "other"), list(itertools.permutations(Protection, 2)))
def test_nodes_of_different_states_of_protection_do_not_come_together(one: Protection, other: Protection) -> None:
    async def main() -> None:
        async with tcp_pair() as (dialled, accepted):
            first, second = UpgradeConfig(security=one.securities), UpgradeConfig(security=other.securities)
            outcomes = await attempt(dialled, accepted, first, second)
            assert all(isinstance(outcome, NodeError) for outcome in outcomes)

    asyncio.run(main())


def test_a_private_network_holds_those_who_have_its_key() -> None:
    async def main() -> None:
        async with tcp_pair() as (dialled, accepted):
            config = UpgradeConfig(psk=bytes(32))
            alice, bob = await upgraded(dialled, accepted, ours=config, theirs=config)
            stream = await alice.muxed.open_stream()
            await stream.write(bytes(200_000))
            await stream.close_write()
            assert await read_all(await bob.incoming.get()) == bytes(200_000)
            await alice.muxed.close()
            assert await bob.closed is None

    asyncio.run(main())


@pytest.mark.parametrize("keys", [(bytes(32), None), (None, bytes(32)), (bytes(32), bytes([1] * 32))])
def test_who_has_another_key_or_none_is_not_understood(keys: tuple[bytes | None, bytes | None]) -> None:
    async def main() -> None:
        async with tcp_pair() as (dialled, accepted):
            first, second = (UpgradeConfig(psk=key, timeout=0.5) for key in keys)
            outcomes = await attempt(dialled, accepted, first, second)
            assert all(isinstance(outcome, NodeError) for outcome in outcomes)

    asyncio.run(main())


def test_the_key_of_a_private_network_is_not_shown() -> None:
    assert "psk" not in repr(UpgradeConfig(psk=bytes(32)))


def test_encrypted_is_what_a_node_does_unless_told_otherwise() -> None:
    assert UpgradeConfig().security == DEFAULT == Protection.ENCRYPTED.securities == (Security.NOISE, Security.TLS)
