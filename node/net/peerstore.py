"""The memory of other peers on disk: what `node.logic.addressbook` knows, kept over restarts and `kill -9`.

One sqlite file in the folder of the node's state, in WAL mode: a transaction is either whole in the file or not in it,
whenever the process ends. What changed is written in one transaction every few seconds, in a thread, and at the end; a
node that is killed forgets no more than the last of these intervals.

Times in the file are Unix seconds, since no other clock survives a restart. An address by which a connection stood is
kept for a month beyond its time to live, as history: `stable` tells bootstrapping who was there again and again.

Facts: https://www.sqlite.org/wal.html
"""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from node.errors import ConfigError, DecodeError
from node.logic.addressbook import AddressBook, Remembered
from node.names.multiaddr import Multiaddr
from node.names.peerid import PeerId

_T = TypeVar("_T")
_P = ParamSpec("_P")

logger = logging.getLogger(__name__)

FILE = "peers.sqlite"
"""Its name in the folder of the state."""
FORMAT = 1
"""sqlite's `user_version`; a file of another format is refused."""
PEERS = 4096
"""Peers in the file; those heard of longest ago go first."""
HISTORY = 30 * 24 * 3600.0
"""Seconds for which an address that was connected once is remembered."""
FLUSH_EVERY = 3.0
"""Seconds between two transactions, at most."""
BUSY = 5.0
"""Seconds to wait for somebody else who has the file open."""

_SCHEMA = """
CREATE TABLE peer (
    id BLOB PRIMARY KEY, agent TEXT NOT NULL, protocols TEXT NOT NULL, seq INTEGER NOT NULL,
    seen REAL NOT NULL, connected REAL, connections INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE address (
    peer BLOB NOT NULL REFERENCES peer ON DELETE CASCADE, addr BLOB NOT NULL,
    expires REAL NOT NULL, certified INTEGER NOT NULL, connected REAL,
    PRIMARY KEY (peer, addr)
) WITHOUT ROWID;
CREATE INDEX peer_seen ON peer (seen);
"""


@dataclass(frozen=True, slots=True)
class Stable:
    """A peer of earlier days: where it was reached, when last (Unix seconds), and in how many connections."""

    peer: PeerId
    addrs: tuple[Multiaddr, ...]
    connected: float
    connections: int


class Peerstore:
    """The file beside one address book."""

    def __init__(
        self, folder: Path, book: AddressBook, now: Callable[[], float], unix: Callable[[], float] = time.time
    ) -> None:
        self._path = folder / FILE
        self._book = book
        self._now = now
        self._unix = unix
        self._connections: dict[PeerId, tuple[Multiaddr | None, int]] = {}
        "what was connected since the last transaction: the address that we dialled, and how often; bounded by the book"
        self._thread = ThreadPoolExecutor(1, "peerstore")  # one: what the file is asked for happens in turn
        self._writer: asyncio.Task[None] | None = None
        self._database: sqlite3.Connection

    async def start(self) -> None:
        """Open the file, or make it, and tell the book what it holds; ConfigError if it cannot be used."""
        try:
            self._database = await self._run(_open, self._path)
            rows = await self._run(_load, self._database, self._unix())
        except sqlite3.Error as error:
            raise ConfigError(f"{self._path}: {error}; move it away to begin without what is known") from error
        except OSError as error:
            raise ConfigError(f"{self._path}: {error.strerror}") from error
        shift = self._now() - self._unix()
        for peer, remembered in rows:
            self._book.remember(peer, remembered.shifted(shift))
        self._writer = asyncio.create_task(self._write_now_and_then(), name="peerstore")

    async def close(self) -> None:
        """Write what has changed and close the file."""
        if self._writer is None:
            return
        self._writer.cancel()
        await asyncio.gather(self._writer, return_exceptions=True)
        await self.flush()
        await self._run(self._database.close)
        self._thread.shutdown()

    def connected(self, peer: PeerId, dialled: Multiaddr | None) -> None:
        """Note a direct connection; `dialled` is the address that led to it, None if the peer dialled us."""
        _, times = self._connections.get(peer, (None, 0))
        if times or len(self._connections) < PEERS:
            self._connections[peer] = (dialled, times + 1)

    async def flush(self) -> None:
        """Write what has changed since the last time."""
        shift = self._unix() - self._now()
        changed = [(peer, known.shifted(shift)) for peer, known in self._book.changes(self._now())]
        connections, self._connections = self._connections, {}
        if not changed and not connections:
            return
        try:
            await self._run(_store, self._database, changed, connections, self._unix())
        except sqlite3.Error as error:  # a full disk: the node lives on, and forgets
            logger.warning("%s: not written: %s", self._path, error)

    async def stable(self, most: int) -> list[Stable]:
        """The peers that were connected most often within HISTORY and can be dialled, the most stable first."""
        return await self._run(_stable, self._database, self._unix(), most)

    async def _run(self, work: Callable[_P, _T], *arguments: _P.args, **keywords: _P.kwargs) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(work, *arguments, **keywords))

    async def _write_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_EVERY)
            await self.flush()


def _open(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=BUSY, isolation_level=None, check_same_thread=False)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")  # with WAL: a power cut may lose the end, never the whole
        database.execute("PRAGMA foreign_keys = ON")
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version == 0:
            database.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {FORMAT}; COMMIT;")
        elif version != FORMAT:
            raise sqlite3.DatabaseError(f"format {version}, this version reads {FORMAT}")
    except BaseException:
        database.close()
        raise
    return database


def _load(database: sqlite3.Connection, unix: float) -> list[tuple[PeerId, Remembered]]:
    """All peers with what is still believed of them, the one heard of longest ago first."""
    addresses: dict[bytes, list[tuple[bytes, float, bool]]] = {}
    for peer, *rest in database.execute(
        "SELECT peer, addr, expires, certified FROM address WHERE expires > ?", (unix,)
    ).fetchall():
        addresses.setdefault(peer, []).append((rest[0], rest[1], bool(rest[2])))
    found = []
    for id, agent, protocols, seq in database.execute(
        "SELECT id, agent, protocols, seq FROM peer ORDER BY seen"
    ).fetchall():
        try:
            known = [
                (Multiaddr.from_bytes(addr), expires, certified) for addr, expires, certified in addresses.get(id, ())
            ]
            expiry = {addr: expires for addr, expires, _ in known}
            certified = frozenset(addr for addr, _, certified in known if certified)
            remembered = Remembered(expiry, certified, seq, frozenset(json.loads(protocols)), agent)
            found.append((PeerId(id), remembered))
        except (DecodeError, ValueError) as error:  # written by a version that knew more
            logger.info("a remembered peer is left out: %s", error)
    return found


def _store(
    database: sqlite3.Connection,
    changed: Iterable[tuple[PeerId, Remembered]],
    connections: dict[PeerId, tuple[Multiaddr | None, int]],
    unix: float,
) -> None:
    database.execute("BEGIN IMMEDIATE")
    try:
        for peer, known in changed:
            _store_peer(database, peer.to_bytes(), known, unix)
        for peer, (addr, times) in connections.items():
            _store_connection(database, peer.to_bytes(), addr, times, unix)
        _trim(database, unix)
        database.execute("COMMIT")
    except BaseException:
        database.execute("ROLLBACK")
        raise


def _store_peer(database: sqlite3.Connection, id: bytes, known: Remembered, unix: float) -> None:
    database.execute(
        "INSERT INTO peer VALUES (?, ?, ?, ?, ?, NULL, 0) ON CONFLICT (id) DO UPDATE SET"
        " agent = excluded.agent, protocols = excluded.protocols, seq = max(seq, excluded.seq), seen = excluded.seen",
        (id, known.agent, json.dumps(sorted(known.protocols)), known.seq, unix),
    )
    # What the book has forgotten is not believed any more, but history of a connection outlives it.
    database.execute("UPDATE address SET expires = 0, certified = 0 WHERE peer = ?", (id,))
    database.executemany(
        "INSERT INTO address VALUES (?, ?, ?, ?, NULL) ON CONFLICT (peer, addr) DO UPDATE SET"
        " expires = excluded.expires, certified = excluded.certified",
        [(id, addr.to_bytes(), expires, addr in known.certified) for addr, expires in known.expiry.items()],
    )


def _store_connection(database: sqlite3.Connection, id: bytes, addr: Multiaddr | None, times: int, unix: float) -> None:
    database.execute(
        "INSERT INTO peer VALUES (?, '', '[]', -1, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET"
        " seen = excluded.seen, connected = excluded.connected, connections = connections + excluded.connections",
        (id, unix, unix, times),
    )
    if addr is not None:
        database.execute(
            "INSERT INTO address VALUES (?, ?, 0, 0, ?) ON CONFLICT (peer, addr) DO UPDATE SET"
            " connected = excluded.connected",
            (id, addr.to_bytes(), unix),
        )


def _trim(database: sqlite3.Connection, unix: float) -> None:
    history = unix - HISTORY
    database.execute(
        "DELETE FROM address WHERE expires <= ? AND (connected IS NULL OR connected <= ?)", (unix, history)
    )
    database.execute(
        "DELETE FROM peer WHERE id IN (SELECT id FROM peer ORDER BY seen DESC LIMIT -1 OFFSET ?)", (PEERS,)
    )


def _stable(database: sqlite3.Connection, unix: float, most: int) -> list[Stable]:
    since = unix - HISTORY
    peers = database.execute(
        "SELECT id, connected, connections FROM peer WHERE connected > ?"
        " AND EXISTS (SELECT 1 FROM address WHERE peer = id AND address.connected > ?)"
        " ORDER BY connections DESC, connected DESC LIMIT ?",
        (since, since, most),
    ).fetchall()
    found = []
    for id, connected, connections in peers:
        rows = database.execute(
            "SELECT addr FROM address WHERE peer = ? AND connected > ? ORDER BY connected DESC", (id, since)
        ).fetchall()
        try:
            addrs = tuple(Multiaddr.from_bytes(addr) for (addr,) in rows)
            found.append(Stable(PeerId(id), addrs, connected, connections))
        except DecodeError as error:  # written by a version that knew more protocols
            logger.info("a remembered peer is left out: %s", error)
    return found
