"""Port mapping: having the router keep our ports open, and advertising where.

    default gateway ─► probe PCP, NAT-PMP, UPnP ─► map each listener's port ─► advertise ─► check, renew ─► give back

A lease is looked at every `check` seconds: by PCP and NAT-PMP it is asked for again, which renews it, UPnP is asked
whether it is there. What is gone is told of and asked for anew. An outer address that is not public is told of and not
advertised: the router is behind another. There are routers that grant everything and let nothing in: an address that
AutoNAT finds unreachable is advertised no more until its lease has been renewed, and then tested again.

Facts: UPnP's library takes a third of a second to import, so UPnP is asked when the others have not answered by then.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from node.errors import DecodeError, NodeError
from node.events import AddressesChanged, Complaint, Listening, PortMapped, PortMappingLost, ReachabilityChanged
from node.logic.autonat import Reachability
from node.logic.portmap import CHECK, LIFETIME, Choice, Granted, Lease, Port, outside, retry_after, wanted
from node.logic.portmap import Protocol as Kind
from node.net.interfaces import default_gateway
from node.net.rtnetlink import Changes
from node.net.tasks import Tasks
from node.protocols.portmap_udp import Announcements, Exchange, NatPmpRouter, PcpRouter, RouterRefusedError

if TYPE_CHECKING:
    from ipaddress import IPv4Address

    from node.events import Event
    from node.names.multiaddr import IPAddress, Multiaddr
    from node.protocols.api import HostApi, Unsubscribe

logger = logging.getLogger(__name__)

UPNP_LATER: Final = 0.3
"""Seconds after the others that UPnP is asked."""
ANSWER: Final = 10.0
"""Seconds for one request, repetitions included."""
RECHECK: Final = 1.0
"""Seconds between two looks that the router's announcements cause: anybody on the LAN can make them."""
GIVE_BACK: Final = 1.5
"""Seconds to give all ports back: by UPnP a router that has other things to do may take one."""


class Router(Protocol):
    """A gateway, asked by one protocol."""

    @property
    def protocol(self) -> Kind: ...
    async def probe(self) -> None: ...
    async def map(self, port: Port, hint: Granted | None, lifetime: int) -> Granted: ...
    async def unmap(self, port: Port, granted: Granted) -> None: ...
    async def holds(self, port: Port, granted: Granted) -> bool: ...
    def announced(self, data: bytes) -> None: ...


@dataclass(slots=True)
class _Held:
    """A lease that is kept, where it is advertised, and when it was last looked at."""

    lease: Lease
    advertised: tuple[Multiaddr, ...]
    checked: float
    again_at: float | None = None
    """When what strangers could not dial is advertised again, by the first renewal from then on."""


class PortMapper:
    """Keeps the ports of all listeners open at the router."""

    def __init__(self, host: HostApi, *, check: float = CHECK) -> None:
        self._host = host
        self._check_every = check
        self._secret = hashlib.blake2b(host.key.to_bytes(), person=b"port mapping").digest()
        self._held: dict[Port, _Held] = {}  # bounded by logic.portmap.PORTS
        self._router: Router | None = None
        self._gateway: IPAddress | None = None
        self._why: str | None = "not asked yet"
        self._news = asyncio.Event()
        self._forgotten = False
        self._unreachable: frozenset[Multiaddr] = frozenset()  # bounded by logic.autonat.ADDRESSES
        self._recheck = False
        self._rechecked = float("-inf")
        self._tasks = Tasks()
        self._changes = Changes(self._news.set)
        self._unsubscribe: Unsubscribe | None = None

    async def start(self) -> None:
        """Ask the router from now on, as soon as there is one and a listener."""
        self._changes.start()
        self._unsubscribe = self._host.subscribe(self._happened)
        self._tasks.spawn(self._run(), "port mapping")

    async def close(self) -> None:
        """Give all ports back."""
        self._changes.close()
        if self._unsubscribe is not None:
            self._unsubscribe()
        await self._tasks.close()

    @property
    def router(self) -> tuple[IPAddress, Kind] | None:
        """The router that keeps our ports open, and how it is asked; None if none does."""
        return None if self._router is None or self._gateway is None else (self._gateway, self._router.protocol)

    @property
    def why(self) -> str | None:
        """Why no ports are open; None if some are."""
        return None if self._held else self._why

    def leases(self) -> list[tuple[Lease, tuple[Multiaddr, ...]]]:
        """The open ports, and the addresses that are advertised for them."""
        return [(held.lease, held.advertised) for held in self._held.values()]

    def _happened(self, event: Event) -> None:
        if isinstance(event, ReachabilityChanged):
            self._unreachable = frozenset(addr for addr, verdict in event.addrs if verdict is Reachability.PRIVATE)
        if isinstance(event, Listening | AddressesChanged | ReachabilityChanged):
            self._news.set()

    async def _news_within(self, seconds: float | None) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return
        self._news.clear()

    # ── finding a router that maps ports ─────────────────────────────────────────────────────────────────────────

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                await self._serve()
                failures = 0
            except (NodeError, OSError) as error:  # TimeoutError is an OSError
                failures += 1
                self._why = str(error) or type(error).__name__
                if failures == 1:
                    self._host.emit(Complaint(f"no port mapping: {self._why}"))
                await self._news_within(retry_after(failures))

    async def _serve(self) -> None:
        """Have ports mapped by the gateway that there is; returns when there may be another."""
        gateway = default_gateway()
        if gateway is None or not self._wanted():
            self._why = "there is no router" if gateway is None else "there is no listener that others could reach"
            await self._news_within(None)
            return
        self._gateway = gateway.ip
        with self._asking(gateway.ip) as exchange:
            self._router = await self._choose(gateway.ip, exchange)
            why = "the network has changed"
            try:
                await self._keep(self._router, lambda: default_gateway() == gateway)
            except asyncio.CancelledError:
                why = "the node is closing"
                await self._give_back(self._router)
                raise
            finally:
                for port in list(self._held):
                    self._lose(port, why)
                self._router = None

    @contextmanager
    def _asking(self, gateway: IPAddress) -> Iterator[Exchange]:
        exchange = Exchange(gateway)
        announcements: Announcements | None = None
        try:
            announcements = Announcements(gateway, exchange.own, self._announced)
        except OSError as error:
            logger.info("a router that begins anew is noticed late: %s", error)
        try:
            yield exchange
        finally:
            exchange.close()
            if announcements is not None:
                announcements.close()

    async def _choose(self, gateway: IPAddress, exchange: Exchange) -> Router:
        """The router by the best protocol that it speaks and does not refuse; its first lease is held then."""
        now = self._host.now
        pcp = PcpRouter(exchange, self._secret, self._forgot, now)
        natpmp = NatPmpRouter(exchange, self._forgot, now)
        choice, routers, reasons = Choice(now()), dict[Kind, Router](), list[str]()
        news = asyncio.Event()

        async def probe(kind: Kind, made: Callable[[], Router], later: float = 0.0) -> None:
            await asyncio.sleep(later)
            try:
                router = made()
                await router.probe()
            except (NodeError, OSError) as error:
                reasons.append(f"{kind.value}: {error or 'no answer'}")
                choice.silent(kind)
            else:
                routers[kind] = router
                choice.answered(kind, now())
            news.set()

        probes = Tasks()
        probes.spawn(probe(Kind.PCP, lambda: pcp), "PCP probe")
        probes.spawn(probe(Kind.NAT_PMP, lambda: natpmp), "NAT-PMP probe")
        probes.spawn(probe(Kind.UPNP, lambda: _upnp(gateway, exchange.own), UPNP_LATER), "UPnP probe")
        try:
            while not choice.is_over(now()):
                if (best := choice.best(now())) is not None:
                    try:
                        await self._map_all(routers[best])
                    except (NodeError, OSError) as error:
                        reasons.append(str(error) or f"{best.value}: no answer")
                        choice.silent(best)
                        continue
                    return routers[best]
                news.clear()
                await _within(news.wait(), max(0.0, choice.get_timer() - now()))
            raise RouterRefusedError(f"the router at {gateway}: {'; '.join(reasons) or 'no answer by any protocol'}")
        finally:
            await probes.close()

    # ── keeping ports open ───────────────────────────────────────────────────────────────────────────────────────

    async def _keep(self, router: Router, is_same: Callable[[], bool]) -> None:
        while True:
            now = self._host.now()
            await self._news_within(max(0.0, min(self._next_look(held) for held in self._held.values()) - now))
            if not is_same():
                return
            if self._forgotten:
                self._forgotten = False
                for port in list(self._held):
                    self._lose(port, "the router has begun anew")
            self._withdraw()
            await self._look(router)
            await self._map_all(router)

    def _next_look(self, held: _Held) -> float:
        return min(held.checked + self._check_every, held.lease.renew_at)

    async def _map_all(self, router: Router) -> None:
        """Map the ports that are not; raises what the router says only if no port is mapped then."""
        failed: NodeError | OSError | None = None
        for port in self._wanted():
            if port in self._held:
                continue
            try:
                async with asyncio.timeout(ANSWER):
                    granted = await router.map(port, None, LIFETIME)
            except (NodeError, OSError) as error:
                failed = error
                self._why = str(error) or "the router does not answer"
                continue
            self._take(port, granted, router)
        if not self._held:
            raise failed or RouterRefusedError("there is nothing to map")

    async def _look(self, router: Router) -> None:
        """Give back what is no longer wanted, and see that the rest is still there."""
        recheck, self._recheck = self._recheck, False
        ports = self._wanted()
        for port, held in list(self._held.items()):
            if port not in ports:
                await self._unmap(router, port, held)
                self._lose(port, "nothing listens there any more")
            elif recheck or self._host.now() >= self._next_look(held):
                await self._check(router, port, held)

    async def _check(self, router: Router, port: Port, held: _Held) -> None:
        held.checked = self._host.now()
        try:
            async with asyncio.timeout(ANSWER):
                if not await router.holds(port, held.lease.granted):
                    self._lose(port, "the router has it no more")
                    return
                if router.protocol is Kind.UPNP and self._host.now() < held.lease.renew_at:
                    return
                granted = await router.map(port, held.lease.granted, LIFETIME)
        except (NodeError, OSError) as error:
            logger.info("%s/%d: not renewed: %s", port.transport, port.number, error or "no answer")
            if isinstance(error, RouterRefusedError) or self._host.now() >= held.lease.ends_at:
                self._lose(port, str(error) or "the lease has run out")
            return
        if (granted.ip, granted.number) != (held.lease.granted.ip, held.lease.granted.number):
            self._lose(port, f"the router has given another: {granted.ip}, port {granted.number}")
        self._take(port, granted, router)

    def _take(self, port: Port, granted: Granted, router: Router) -> None:
        lease = Lease(port, granted, self._host.now())
        held = self._held.get(port)
        if held is None:
            held = self._held[port] = _Held(lease, (), lease.since)
        else:
            held.lease = lease
            if held.again_at is None or lease.since < held.again_at:
                return
            held.again_at = None
        self._advertise(held, router)

    def _advertise(self, held: _Held, router: Router) -> None:
        """Tell where an open port is reached; what AutoNAT knew of that is out of date."""
        lease, port = held.lease, held.lease.port
        addrs = tuple(outside(addr, lease.granted) for addr in self._wanted()[port])
        held.advertised = addrs if lease.is_public else ()
        self._unreachable = self._unreachable.difference(addrs)
        by = router.protocol.value
        self._host.emit(PortMapped(addrs, port.transport, port.number, by, lease.granted.lifetime, lease.is_public))
        for addr in held.advertised:
            self._host.add_advertised(addr)
        if not lease.is_public:
            self._host.emit(Complaint(f"the router's own address is {lease.granted.ip}: it is behind another router"))

    def _withdraw(self) -> None:
        """Advertise no more what strangers could not dial, whatever the router says, until the lease is renewed."""
        for port, held in self._held.items():
            addrs = tuple(addr for addr in held.advertised if addr in self._unreachable)
            if not addrs:
                continue
            held.advertised = tuple(addr for addr in held.advertised if addr not in addrs)
            held.again_at = held.lease.renew_at
            for addr in addrs:
                self._host.remove_advertised(addr)
            why = "strangers cannot dial it, though the router says that it is open"
            self._host.emit(PortMappingLost(addrs, port.transport, port.number, why))

    def _lose(self, port: Port, why: str) -> None:
        held = self._held.pop(port)
        for addr in held.advertised:
            self._host.remove_advertised(addr)
        addrs = tuple(outside(addr, held.lease.granted) for addr in self._wanted().get(port, ()))
        self._host.emit(PortMappingLost(held.advertised or addrs, port.transport, port.number, why))

    async def _give_back(self, router: Router) -> None:
        returned = asyncio.gather(*(self._unmap(router, port, held) for port, held in self._held.items()))
        await _within(returned, GIVE_BACK)

    async def _unmap(self, router: Router, port: Port, held: _Held) -> None:
        try:
            async with asyncio.timeout(ANSWER):
                await router.unmap(port, held.lease.granted)
        except (NodeError, OSError) as error:
            logger.info("%s/%d: not given back: %s", port.transport, port.number, error or "no answer")

    def _wanted(self) -> dict[Port, list[Multiaddr]]:
        return wanted(self._host.swarm.listen_addrs())

    # ── a router that has begun anew ─────────────────────────────────────────────────────────────────────────────

    def _forgot(self) -> None:
        self._forgotten = True
        self._news.set()

    def _announced(self, data: bytes) -> None:
        now = self._host.now()
        if self._router is None or now - self._rechecked < RECHECK:
            return
        self._rechecked = now
        try:
            self._router.announced(data)
        except DecodeError as error:
            logger.debug("an announcement in another protocol: %s", error)
        self._recheck = True
        self._news.set()


def _upnp(gateway: IPAddress, own: IPv4Address) -> Router:
    from node.protocols.upnp import UpnpRouter

    return UpnpRouter(gateway, own)


async def _within(work: Awaitable[object], seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await work
    except TimeoutError:
        return
