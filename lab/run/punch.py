"""The scenario that the lab exists for: reserve, reach through the relay, punch, and talk over what came of it.

bob    reserves a slot at the relay
alice  reaches bob through it
both   punch (DCUtR); the end is a direct connection or bob's giving up
alice  echoes a payload over the best path there is
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from lab.errors import PeerError, PeerUnsupported
from lab.lab import Lab
from lab.peers.answers import Dialled
from lab.peers.handle import Peer

ECHO_BYTES = 16 * 1024
"Far below what a relay lets through (128 KiB each way), far above the chatter of idle connections."
PUNCH_WITHIN = 60.0
"Seconds for all attempts of a hole punch together."
SETTLE_WITHIN = 15.0
"Seconds after the punch in which both sides and the relay are to know."
KEEP_WITHIN = 3.0
"Seconds after which a relayed connection that is still there is taken to be kept."


@dataclass
class Progress:
    """What has been reached so far; what a failed scenario leaves here is still worth reporting."""

    seconds: dict[str, float] = field(default_factory=dict)
    "length of each step, by name"
    relayed: Dialled | None = None
    path: str | None = None
    "what the peers say of the final path; none: they could not even reach the relay"
    relayed_at: float | None = None
    "Unix seconds at which the listener had the relayed connection, from which it punches"
    attempts: int | None = None
    "the punch that succeeded, as the listener counts them; 0: it dialled plainly"
    direct_at: float | None = None
    "Unix seconds at which the dialer had the direct one"
    echo: tuple[float, float] | None = None
    "Unix seconds between which the echo ran"


async def punch(lab: Lab, dialer: Peer, listener: Peer, relay: Peer, progress: Progress) -> None:
    """Run the scenario; raises `PeerError` where a peer fails it."""
    async with _timed(lab, progress, f"{listener.name} reserves a slot", "reserve"):
        await listener.reserve(relay)
    async with _timed(lab, progress, f"{dialer.name} reaches {listener.name} through the relay", "relayed"):
        progress.relayed = await dialer.dial(listener.through(relay))
    async with _timed(lab, progress, "both punch", "punch"):
        await _await_punch(dialer, listener, relay, progress)
    async with _timed(lab, progress, f"{relay.name} falls silent", "settle"):
        await _rest(lab, relay)
    async with _timed(lab, progress, f"{dialer.name} echoes over the final path", "echo"):
        began = time.time()
        echoed = await dialer.echo(listener, ECHO_BYTES)
        progress.echo = (began, time.time())
    progress.path = echoed.path


async def _rest(lab: Lab, relay: Peer) -> None:
    """Wait until the relay's byte count can only move because of the echo, unless it is one that never rests."""
    try:
        await lab.quiet(relay)
    except PeerError:
        if not relay.running:
            raise


async def find_no_path(lab: Lab, dialer: Peer, listener: Peer, relay: Peer, progress: Progress) -> None:
    """Run the scenario where it must fail at its beginning; all of it is the time in which the wire must be silent."""
    began = time.time()
    try:
        await punch(lab, dialer, listener, relay, progress)
    except PeerUnsupported:
        raise
    except PeerError:
        progress.path, progress.echo = "none", (began, time.time())


async def _await_punch(dialer: Peer, listener: Peer, relay: Peer, progress: Progress) -> None:
    """Wait for the direct connection on both sides, or until the side that punches has given up."""
    relayed = await listener.saw("connected", within=SETTLE_WITHIN, where=lambda **f: _is(f, dialer, "relayed"))
    progress.relayed_at = relayed.at
    end = await listener.saw("punch", within=PUNCH_WITHIN, where=_ended)
    if end.get("stage") == "gave-up":
        return
    direct = await dialer.saw("connected", within=SETTLE_WITHIN, where=lambda **f: _is(f, listener, "direct"))
    progress.direct_at = direct.at
    progress.attempts = _whole(end.get("attempt"))
    gave_up = await asyncio.gather(_gives_up(dialer, listener), _gives_up(listener, dialer))
    if all(gave_up) and any(event.name == "circuit" for event in relay.events):
        await relay.saw("circuit", within=SETTLE_WITHIN, where=lambda stage="", **_: stage == "closed")


async def _gives_up(peer: Peer, other: Peer) -> bool:
    """Wait until a peer has given up the relayed connection; False if it keeps it, as go-libp2p does."""
    try:
        await peer.saw("disconnected", within=KEEP_WITHIN, where=lambda **f: _is(f, other, "relayed"))
    except PeerError:
        if not peer.running:
            raise
        return False
    return True


def _whole(value: object) -> int | None:
    """What a peer says, if it is a number that can be counted by."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _ended(stage: str = "", **_: object) -> bool:
    return stage in ("succeeded", "gave-up")


def _is(fields: object, peer: Peer, path: str) -> bool:
    return isinstance(fields, dict) and fields.get("peer") == peer.peer_id and fields.get("path") == path


@asynccontextmanager
async def _timed(lab: Lab, progress: Progress, title: str, key: str) -> AsyncIterator[None]:
    """A step of the lab whose length goes into the progress as well."""
    began = time.monotonic()
    try:
        async with lab.step(title):
            yield
    finally:
        progress.seconds[key] = time.monotonic() - began
