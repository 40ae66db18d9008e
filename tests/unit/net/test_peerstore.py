"""What is known of other peers outlives the node, however it ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from node.errors import ConfigError
from node.logic.addressbook import AddressBook, Ttl
from node.names.envelope import PeerRecord
from node.names.keys import PrivateKey
from node.names.multiaddr import Multiaddr
from node.names.peerid import PeerId
from node.net import peerstore
from node.net.peerstore import FILE, HISTORY, Peerstore

ADDR = Multiaddr("/ip4/11.0.0.1/tcp/4001")
OTHER = Multiaddr("/ip4/11.0.0.2/udp/4001/quic-v1")
ROOT = Path(__file__).resolve().parents[3]


class Clock:
    """A monotonic and a Unix clock, set apart, that move only when told."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        return 50.0 + self.seconds

    def unix(self) -> float:
        return 1_700_000_000.0 + self.seconds


def a_peer() -> PeerId:
    return PrivateKey.generate().peer_id()


@contextlib.asynccontextmanager
async def opened(folder: Path, clock: Clock) -> AsyncIterator[tuple[AddressBook, Peerstore]]:
    book = AddressBook()
    # A restart: the monotonic clock begins elsewhere, the Unix clock goes on.
    begin = clock.seconds * 3
    store = Peerstore(folder, book, lambda: clock.now() - begin, clock.unix)
    await store.start()
    try:
        yield book, store
    finally:
        await store.close()


def test_what_is_known_of_a_peer_is_known_after_a_restart(tmp_path: Path) -> None:
    async def main() -> None:
        clock, peer = Clock(), a_peer()
        async with opened(tmp_path, clock) as (book, _):
            book.add(peer, [ADDR], Ttl.TOLD, clock.now())
            book.add(peer, [OTHER], Ttl.CLAIMED, clock.now())
            book.describe(peer, ["/a/1"], "agent")
        clock.seconds += Ttl.CLAIMED.value + 1
        async with opened(tmp_path, clock) as (book, _):
            now = clock.now() - clock.seconds * 3
            assert book.addrs(peer, now) == [ADDR]
            assert book.protocols(peer) == {"/a/1"}
            assert book.agent(peer) == "agent"
            assert book.addrs(peer, now + Ttl.TOLD.value) == []

    asyncio.run(main())


def test_a_signed_record_must_be_newer_than_the_one_before_the_restart(tmp_path: Path) -> None:
    async def main() -> None:
        clock, peer = Clock(), a_peer()
        async with opened(tmp_path, clock) as (book, _):
            assert book.consume_record(PeerRecord(peer, 7, (ADDR,)), clock.now())
        async with opened(tmp_path, clock) as (book, _):
            assert not book.consume_record(PeerRecord(peer, 7, (OTHER,)), clock.now())
            assert book.consume_record(PeerRecord(peer, 8, (OTHER,)), clock.now())
            assert book.addrs(peer, clock.now()) == [OTHER], "a record replaces those before it, by whichever node"

    asyncio.run(main())


def test_peers_that_were_there_often_are_the_stable_ones(tmp_path: Path) -> None:
    async def main() -> None:
        clock = Clock()
        seldom, often, inbound = a_peer(), a_peer(), a_peer()
        async with opened(tmp_path, clock) as (_, store):
            for _ in range(3):
                store.connected(often, ADDR)
                await store.flush()
            store.connected(seldom, OTHER)
            store.connected(inbound, None)
        clock.seconds += Ttl.TOLD.value * 2
        async with opened(tmp_path, clock) as (book, store):
            assert book.addrs(often, clock.now()) == [], "its time to live is over"
            stable = await store.stable(10)
            assert [(one.peer, one.addrs, one.connections) for one in stable] == [
                (often, (ADDR,), 3),
                (seldom, (OTHER,), 1),
            ]
            assert [one.peer for one in await store.stable(1)] == [often]
            clock.seconds += HISTORY
            assert await store.stable(10) == []

    asyncio.run(main())


def test_the_file_keeps_only_so_many_peers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peerstore, "PEERS", 3)

    async def main() -> None:
        clock = Clock()
        peers = [a_peer() for _ in range(5)]
        async with opened(tmp_path, clock) as (book, store):
            for peer in peers:
                clock.seconds += 1
                book.add(peer, [ADDR], Ttl.TOLD, clock.now())
                await store.flush()
        async with opened(tmp_path, clock) as (book, _):
            now = clock.now() - clock.seconds * 3
            assert [peer for peer in peers if book.addrs(peer, now)] == peers[2:]

    asyncio.run(main())


@pytest.mark.parametrize("content", [b"not a database, but longer than sqlite's header of a hundred bytes" * 3, b""])
def test_a_file_that_is_none_is_refused_by_name_and_an_empty_one_is_filled(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)

    async def main() -> None:
        async with opened(tmp_path, Clock()):
            assert not content

    if content:
        with pytest.raises(ConfigError, match=f"{FILE}: file is not a database; move it away"):
            asyncio.run(main())
    else:
        asyncio.run(main())


def test_a_file_of_another_format_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / FILE) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(ConfigError, match="format 99, this version reads 1"):
        asyncio.run(Peerstore(tmp_path, AddressBook(), time.monotonic).start())


WRITER = """
import asyncio, itertools, sys, time
from pathlib import Path
from node.logic.addressbook import AddressBook, Ttl
from node.names.keys import PrivateKey
from node.names.multiaddr import Multiaddr
from node.net.peerstore import Peerstore

async def main():
    book = AddressBook()
    store = Peerstore(Path(sys.argv[1]), book, time.monotonic)
    await store.start()
    for number in itertools.count():
        peers = [PrivateKey.generate().peer_id() for _ in range(8)]
        for peer in peers:
            book.add(peer, [Multiaddr(f"/ip4/11.0.0.1/tcp/{number % 65535 + 1}")], Ttl.TOLD, time.monotonic())
            store.connected(peer, Multiaddr("/ip4/11.0.0.1/tcp/4001"))
        await store.flush()
        print(*peers, flush=True)

asyncio.run(main())
"""


def test_what_was_written_survives_a_kill_in_the_middle_of_writing(tmp_path: Path) -> None:
    told: list[str] = []
    for round in range(5):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT)
        assert process.stdout is not None
        told += [process.stdout.readline().decode() for _ in range(3 + round)]
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
    database = sqlite3.connect(tmp_path / FILE)
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()

    async def main() -> None:
        book = AddressBook()
        store = Peerstore(tmp_path, book, time.monotonic)
        await store.start()
        try:
            for line in told:
                assert all(book.addrs(PeerId.parse(word), time.monotonic()) for word in line.split())
        finally:
            await store.close()

    asyncio.run(main())
