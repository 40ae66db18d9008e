"""Dial sync: one dial of a peer at a time, shared by all who want a connection to it.

    caller ─┐                          ┌─ address 1 ─► dial ─► upgrade ─┐
    caller ─┼─► the peer's dial ─ plan ┼─ address 2 ─► dial ─► upgrade ─┼─► the first wins, the others are cancelled
    caller ─┘   (Dialling)             └─ name ─► resolve ─► addresses ─┘

A caller brings its addresses into the dial under way and leaves when its own deadline has passed; the dial ends with
the last caller. Addresses that failed are left alone for a while (`Backoff`), except by a dial that is forced to be
direct: hole punching, mDNS and who wants a slot at a relay know better when to try again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from node.errors import (
    ConnectionClosed,
    DeadlineExceeded,
    DialBackoff,
    DialError,
    Gated,
    NodeError,
    PeerIdMismatch,
    RelayError,
)
from node.logic.backoff import Backoff
from node.logic.dialling import Dialling
from node.net.tasks import Tasks

if TYPE_CHECKING:
    from node.logic.dialling import Failure
    from node.logic.gating import Gater
    from node.names.multiaddr import Multiaddr
    from node.names.peerid import PeerId
    from node.net.connection import Connection
    from node.net.resolve import Resolver

logger = logging.getLogger(__name__)

DIALS = 160
"""Addresses being dialled at a time, of all peers together, as in go."""
PEERS = 256
"""Peers being dialled at a time."""

DialAddress = Callable[["PeerId", "Multiaddr"], Awaitable["Connection"]]


class _Dial:
    """One dial of one peer and how many wait for it."""

    def __init__(self, task_of: Callable[[_Dial], asyncio.Task[Connection]]) -> None:
        self.plan = Dialling()
        self.news = asyncio.Event()
        self.waiting = 0
        self.task = task_of(self)


class Dialler:
    """All dials under way."""

    def __init__(self, dial_address: DialAddress, gater: Gater, clock: Callable[[], float], resolver: Resolver) -> None:
        self._dial_address = dial_address
        self._resolver = resolver
        self._gater = gater
        self._clock = clock
        self._backoff = Backoff()
        self._dials: dict[tuple[PeerId, bool], _Dial] = {}
        self._slots = asyncio.Semaphore(DIALS)
        self.outcomes: Counter[str] = Counter()
        """How many addresses were connected, failed, gated or backed_off."""

    async def dial(self, peer: PeerId, addrs: Sequence[Multiaddr], *, timeout: float, forced: bool) -> Connection:
        """Join or begin the dial of `peer`; raises what `Swarm.dial` promises."""
        if not addrs:
            raise DialError(f"no address of {peer} is known")
        dial = self._join(peer, forced)
        dial.plan.add(addrs, self._clock())
        dial.news.set()
        dial.waiting += 1
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.shield(dial.task)
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is None or current.cancelling():
                raise
            raise ConnectionClosed("the node is closing") from None  # it was the dial that was cancelled, not we
        except TimeoutError:
            raise DeadlineExceeded(f"no connection to {peer} in {timeout:g} s{_reasons(dial.plan)}") from None
        finally:
            dial.waiting -= 1
            if not dial.waiting:
                dial.task.cancel()

    def _join(self, peer: PeerId, forced: bool) -> _Dial:
        dial = self._dials.get((peer, forced))
        if dial is not None and not dial.task.cancelling():
            return dial
        if len(self._dials) >= PEERS:
            raise DialError(f"{PEERS} peers are being dialled already")
        dial = _Dial(lambda new: asyncio.create_task(self._run(peer, forced, new), name=f"dial of {peer}"))
        self._dials[peer, forced] = dial
        return dial

    async def _run(self, peer: PeerId, forced: bool, dial: _Dial) -> Connection:
        attempts: dict[asyncio.Task[Connection], Multiaddr] = {}
        resolutions = Tasks()  # as many as callers brought names
        try:
            while True:
                if names := dial.plan.names():
                    resolutions.spawn(self._resolve(peer, dial, names), f"resolution for {peer}")
                self._start_due(peer, forced, dial, attempts)
                if dial.plan.is_exhausted:
                    raise _failure(peer, dial.plan.failures)
                for task in await self._first_news(dial, attempts):
                    addr = attempts.pop(task)
                    if (error := task.exception()) is None:
                        return task.result()
                    self._note(peer, addr, error, dial)
        finally:
            if self._dials.get((peer, forced)) is dial:
                del self._dials[peer, forced]
            for task in attempts:
                task.cancel()
            await resolutions.close()
            await asyncio.gather(*attempts, return_exceptions=True)

    async def _resolve(self, peer: PeerId, dial: _Dial, names: Sequence[Multiaddr]) -> None:
        def found(addr: Multiaddr) -> None:
            dial.plan.add([addr], self._clock())
            dial.news.set()

        failures: list[tuple[Multiaddr, Exception]] = []
        try:
            resolving = await self._resolver.resolve(names, peer, found=found)
            failures += [(failure.addr, failure.error) for failure in resolving.failures]
        finally:
            dial.plan.resolved(names, failures)
            dial.news.set()

    def _start_due(
        self, peer: PeerId, forced: bool, dial: _Dial, attempts: dict[asyncio.Task[Connection], Multiaddr]
    ) -> None:
        while due := dial.plan.due(self._clock()):
            for addr in due:
                wait = 0.0 if forced else self._backoff.remaining((peer, addr), self._clock())
                if not self._gater.allows(addr, inbound=False):
                    self.outcomes["gated"] += 1
                    dial.plan.failed(addr, Gated(f"{addr.ip} is denied by the address filter"))
                elif wait:
                    self.outcomes["backed_off"] += 1
                    dial.plan.failed(addr, DialBackoff(f"failed before, left alone for {wait:.1f} s more"))
                else:
                    attempts[asyncio.create_task(self._attempt(peer, addr), name=f"dial of {addr}")] = addr

    async def _attempt(self, peer: PeerId, addr: Multiaddr) -> Connection:
        async with self._slots:
            connection = await self._dial_address(peer, addr)
        self._backoff.succeeded((peer, addr))
        self.outcomes["connected"] += 1
        return connection

    async def _first_news(
        self, dial: _Dial, attempts: dict[asyncio.Task[Connection], Multiaddr]
    ) -> set[asyncio.Task[Connection]]:
        """Wait for an attempt to end, for more addresses, or for the plan's timer; return the attempts that ended."""
        dial.news.clear()
        timer = dial.plan.get_timer()
        delay = None if timer is None else max(0.0, timer - self._clock())
        news = asyncio.create_task(dial.news.wait(), name="news for a dial")
        try:
            done, _ = await asyncio.wait({*attempts, news}, timeout=delay, return_when=asyncio.FIRST_COMPLETED)
        finally:
            news.cancel()
        return {task for task in attempts if task in done}

    def _note(self, peer: PeerId, addr: Multiaddr, error: BaseException, dial: _Dial) -> None:
        if not isinstance(error, (NodeError, OSError)):
            raise error
        logger.debug("dial of %s: %s", addr, error)
        self._backoff.failed((peer, addr), self._clock())
        self.outcomes["failed"] += 1
        dial.plan.failed(addr, error)

    async def close(self) -> None:
        """End all dials; those who wait for one get ConnectionClosed."""
        tasks = [dial.task for dial in self._dials.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _reasons(plan: Dialling) -> str:
    tried = [str(failure) for failure in plan.failures] + [
        f"{addr}: no answer yet" for addr in sorted(map(str, plan.active))
    ]
    return f": {'; '.join(tried)}" if tried else ""


def _failure(peer: PeerId, failures: Sequence[Failure]) -> NodeError:
    """Return the error that says most: the one kind that all addresses have in common, or a DialError."""
    message = f"cannot connect to {peer}: {'; '.join(map(str, failures))}"
    first = failures[0].error
    if any(type(failure.error) is not type(first) for failure in failures):
        return DialError(message)
    match first:
        case RelayError():
            return RelayError(first.status, message)
        case Gated() | DialBackoff() | PeerIdMismatch() | DeadlineExceeded():
            return type(first)(message)
        case _:
            return DialError(message)
