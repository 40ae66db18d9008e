"""mDNS: telling the LAN where we are, hearing who else is there, and connecting to them.

Spec: https://github.com/libp2p/specs/blob/master/discovery/mdns.md

    announce, query PTR _p2p._udp.local ─► TXT records of others ─► Neighbours ─► Discovered ─► dial

zeroconf has the sockets, the timing of RFC 6762 and the cache (10 000 records). It is opened anew when the machine's
addresses change: its cache holds back what it has heard already, and another network has other peers.

Facts: the record that matters is TXT, and implementations that say nothing else are heard too; we tell SRV and address
records as well, for those whose library wants them. Our own announcements are heard by us. All queries are answered by
multicast, as nodes on one host share port 5353 and a unicast answer comes to one of them.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import string
from typing import TYPE_CHECKING, Final

from zeroconf import DNSQuestionType, IPVersion, NotRunningException, RecordUpdateListener
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from node.errors import NodeError
from node.events import AddressesChanged, Complaint, Discovered, Listening, Path
from node.logic.addressbook import Ttl
from node.logic.addresses import is_near
from node.logic.mdns import Neighbours, delay
from node.net.interfaces import interfaces
from node.net.rtnetlink import Changes
from node.net.tasks import Tasks
from node.wire import mdns

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from zeroconf import RecordUpdate, ServiceStateChange, Zeroconf

    from node.events import Event
    from node.names.multiaddr import Multiaddr
    from node.names.peerid import PeerId
    from node.net.connection import Connection
    from node.protocols.api import HostApi, Unsubscribe

PTR: Final = 12
TXT: Final = 16
IN: Final = 1

logger = logging.getLogger(__name__)

NAME: Final = 40
"""Characters of our random name; the specification wants 32 at least, a label of the DNS has 63."""
DIALS: Final = 8
"""Peers dialled at a time."""
WAITING: Final = 64
"""Peers that wait to be dialled; more of them are told of and not dialled."""
DIAL_TIMEOUT: Final = 10.0
"""Seconds."""
MISSING: Final = 0.3
"""Seconds after which a peer's TXT record, which should have come with its name, is asked for."""
ASKED_FOR: Final = 64
"""Names whose TXT record is waited for at a time."""
ASK_FOR: Final = 1.0
"""Seconds."""
RETRY: Final = 30.0
"""Seconds until mDNS is tried again where it could not be opened."""
CLOSE_TIMEOUT: Final = 0.5
"""Seconds to say goodbye."""


class Mdns:
    """Announces us, discovers others, and dials them if told so."""

    def __init__(self, host: HostApi, *, dial: bool = True) -> None:
        self._host = host
        self._dial = dial
        self._neighbours = Neighbours(host.peer_id)
        self._lan: _Lan | None = None
        self._wanted = asyncio.Event()
        self._tasks = Tasks()
        self._dials = asyncio.Semaphore(DIALS)
        self._waiting: set[PeerId] = set()  # bounded by WAITING
        self._changes = Changes(self._wanted.set)
        self._unsubscribe: list[Unsubscribe] = []

    async def start(self) -> None:
        """Announce and listen from now on, as soon as there is a listener and a network."""
        self._changes.start()
        swarm = self._host.swarm
        self._unsubscribe = [self._host.subscribe(self._happened), swarm.on_connected(self._connected)]
        self._wanted.set()
        self._tasks.spawn(self._run(), "mDNS")

    async def close(self) -> None:
        """Say goodbye and listen no more."""
        self._changes.close()
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        await self._tasks.close()
        await self._leave()

    def _happened(self, event: Event) -> None:
        if isinstance(event, Listening | AddressesChanged):
            self._wanted.set()

    # ── being there ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _run(self) -> None:
        """Be on the network that there is, each time something has changed."""
        while True:
            timeout = RETRY if self._lan is None else None
            try:
                async with asyncio.timeout(timeout):
                    await self._wanted.wait()
            except TimeoutError:
                logger.debug("trying mDNS again")
            self._wanted.clear()
            await self._follow()

    async def _follow(self) -> None:
        places, text = _places(), mdns.encode(self._host.listen_addrs(), self._host.peer_id)
        if self._lan is not None and self._lan.places != places:
            await self._leave()
            self._neighbours.moved()
        try:
            if self._lan is None and places:
                self._lan = _Lan(places, self._heard, self._left)
            if self._lan is not None:
                await self._lan.announce(text, self._host.listen_addrs())
        except (OSError, RuntimeError, NotRunningException) as error:  # RuntimeError: an interface went meanwhile
            self._host.emit(Complaint(f"mDNS is not available: {error}"))
            await self._leave()

    async def _leave(self) -> None:
        lan, self._lan = self._lan, None
        if lan is not None:
            await lan.close()

    # ── who else is there ────────────────────────────────────────────────────────────────────────────────────────

    def _heard(self, text: bytes) -> None:
        before = self._neighbours.ignored
        news = self._neighbours.heard(mdns.decode(text), self._host.now())
        if before == 0 and self._neighbours.ignored:
            logger.warning("mDNS: more new peers than a network has; not all are taken up")
        for peer, addrs in news.items():
            self._host.addressbook.add(peer, addrs, Ttl.NEARBY, self._host.now())
            self._host.emit(Discovered(peer, addrs, "mdns"))
            self._approach(peer, addrs)

    def _left(self, text: bytes) -> None:
        self._neighbours.left(mdns.decode(text))

    def _connected(self, connection: Connection) -> None:
        """A neighbour that we are connected to by way of the router can be had nearer."""
        addrs = self._neighbours.addrs(connection.peer)
        if addrs and not is_near(connection.remote):
            self._approach(connection.peer, addrs)

    def _approach(self, peer: PeerId, addrs: Sequence[Multiaddr]) -> None:
        if self._dial and peer not in self._waiting and len(self._waiting) < WAITING:
            self._waiting.add(peer)
            self._tasks.spawn(self._connect(peer, addrs), f"mDNS dial of {peer}")

    async def _connect(self, peer: PeerId, addrs: Sequence[Multiaddr]) -> None:
        """Connect within the LAN, unless the other side has done so meanwhile."""
        swarm = self._host.swarm
        try:
            await asyncio.sleep(delay(self._host.peer_id, peer))
            async with self._dials, asyncio.timeout(DIAL_TIMEOUT):
                open_now = swarm.connections(peer)
                if not any(each.path is Path.DIRECT for each in open_now):
                    await swarm.dial(peer, addrs, timeout=DIAL_TIMEOUT, force_direct=True)
                elif not any(is_near(each.remote) for each in open_now) and any(map(is_near, addrs)):
                    await swarm.dial_anew(peer, next(filter(is_near, addrs)))
        except (NodeError, OSError) as error:
            logger.info("discovered %s, but %s", peer, error or "it does not answer")
        finally:
            self._waiting.discard(peer)


class _Lan(RecordUpdateListener):
    """Our presence on the networks of some interfaces."""

    def __init__(
        self, places: tuple[str | int, ...], heard: Callable[[bytes], None], left: Callable[[bytes], None]
    ) -> None:
        super().__init__()
        self.places = places
        self._heard, self._left_ = heard, left
        self._name = "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(NAME))
        self._told: AsyncServiceInfo | None = None
        self._missing: dict[str, asyncio.TimerHandle] = {}  # bounded by ASKED_FOR
        self._asking: set[asyncio.Task[bool]] = set()  # the same
        self._zeroconf = AsyncZeroconf(interfaces=list(places), ip_version=_version(places))
        self._zeroconf.zeroconf.async_add_listener(self, None)
        self._browser = AsyncServiceBrowser(
            self._zeroconf.zeroconf, mdns.SERVICE, handlers=[self._browsed], question_type=DNSQuestionType.QM
        )

    async def announce(self, text: bytes, addrs: Sequence[Multiaddr]) -> None:
        """Tell of us by this TXT record; nothing, if it is empty."""
        if self._told is not None and self._told.text == text:
            return
        if not text:
            await self._withdraw()
            return
        instance = f"{self._name}.{mdns.SERVICE}"
        ips = [str(addr.ip) for addr in addrs if mdns.is_of_lan(addr)]
        info = AsyncServiceInfo(
            mdns.SERVICE,
            instance,
            port=next((addr.port for addr in addrs if addr.port), 0),
            properties=text,
            server=f"{self._name}.local.",
            parsed_addresses=list(dict.fromkeys(ips)),
        )
        if self._told is None:  # the name is ours by chance, so nobody has to be asked whether it is free
            await self._zeroconf.async_register_service(info, cooperating_responders=True)
        else:
            await self._zeroconf.async_update_service(info)
        self._told = info

    async def _withdraw(self) -> None:
        told, self._told = self._told, None
        if told is not None:
            await self._zeroconf.async_unregister_service(told)

    async def close(self) -> None:
        """Say goodbye and close the sockets."""
        for timer in self._missing.values():
            timer.cancel()
        self._missing.clear()
        for task in self._asking:
            task.cancel()
        await asyncio.gather(*self._asking, return_exceptions=True)
        self._zeroconf.zeroconf.async_remove_listener(self)
        await self._browser.async_cancel()
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._zeroconf.async_close()
        except TimeoutError:
            logger.warning("mDNS was not closed within %g s", CLOSE_TIMEOUT)

    def async_update_records(self, zc: Zeroconf, now: float, records: list[RecordUpdate]) -> None:
        """Hear what was said, of whatever service; called by zeroconf for each message."""
        told = zc.cache.get_all_by_details(mdns.SERVICE, PTR, IN) + [update.new for update in records]
        # rust-libp2p's names are outside of the service's domain, and its peers' all the same.
        named = {
            str(getattr(record, "alias", "")).lower()
            for record in told
            if record.type == PTR and record.name.lower() == mdns.SERVICE
        }
        for update in records:
            record = update.new
            if record.type != TXT or not (_is_within(record.name) or record.name.lower() in named):
                continue
            self._found(record.name)
            (self._left_ if record.is_expired(now) else self._heard)(getattr(record, "text", b""))

    # ── names without a TXT record ───────────────────────────────────────────────────────────────────────────────

    def _browsed(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        """Take note of a name; zeroconf calls this with these keywords."""
        waited_for = len(self._missing) + len(self._asking)
        is_told = zeroconf.cache.get_by_details(name, TXT, IN) is not None
        if waited_for < ASKED_FOR and _is_within(name) and not is_told:
            self._found(name)
            self._missing[name.lower()] = asyncio.get_running_loop().call_later(MISSING, self._ask, name)

    def _found(self, name: str) -> None:
        if (timer := self._missing.pop(name.lower(), None)) is not None:
            timer.cancel()

    def _ask(self, name: str) -> None:
        """Have its records be asked for; what comes is heard as anything else is."""
        self._missing.pop(name.lower(), None)
        info = AsyncServiceInfo(mdns.SERVICE, name)
        asking = info.async_request(self._zeroconf.zeroconf, ASK_FOR * 1000.0, DNSQuestionType.QM)
        task = asyncio.create_task(asking, name=f"mDNS question for {name}")
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)


def _is_within(name: str) -> bool:
    """Whether a name is in the service's domain, as RFC 6763 has it."""
    return name.lower().endswith(f".{mdns.SERVICE}")


def _version(places: Sequence[str | int]) -> IPVersion:
    if all(isinstance(place, str) for place in places):
        return IPVersion.V4Only
    return IPVersion.All if any(isinstance(place, str) for place in places) else IPVersion.V6Only


def _places() -> tuple[str | int, ...]:
    """Where to be, as zeroconf wants it: one IPv4 address of each interface, and the index of each that has IPv6.

    Loopback only where there is nothing else.
    """
    found = interfaces()
    outward = [each for each in found if not each.ip.is_loopback] or found
    first = {each.index: str(each.ip) for each in reversed(outward) if each.ip.version == 4}
    indexes = dict.fromkeys(each.index for each in outward if each.ip.version == 6)
    return (*(first[index] for index in sorted(first)), *sorted(indexes))
