"""AutoNAT: whom a server dials and how often; what a client concludes from the answers about each of its addresses.

    request ─► Throttle.admit ─► choose ─► Choice(index, costs) ─► [price, Throttle.admit_data, pause] ─► dial
    answer  ─► Verdicts.record ─► public | private | unknown, address by address

Facts, the figures being go-libp2p's (`p2p/protocol/autonatv2`, `p2p/host/basic`):

* A server that dials whatever it is told to is a weapon: it dials one address, a public one, and where the IP is not
  the one that the request came from, the client first sends more bytes than dial and handshake will cost.
* Sixty requests a minute in all would be used up by five identities, which cost nothing; so there is a share for each
  host too, which go does not have.
* A success proves less than it seems to: a NAT that filters by address only lets in every port of a server that we are
  connected to. It counts as proof there only if it came from an address that we have not written to.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from node.logic.addresses import is_public
from node.wire.autonat import INSPECTED

if TYPE_CHECKING:
    from random import Random

    from node.logic.observed import IPAddress
    from node.names.multiaddr import Multiaddr

WINDOW = 60.0
"""Seconds over which requests are counted."""


class Reachability(Enum):
    """Whether strangers can dial us, or one of our addresses."""

    UNKNOWN = "unknown"
    PUBLIC = "public"
    PRIVATE = "private"


# ── the server ───────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class ServerPolicy:
    """What a server gives away: requests a minute, bytes, seconds."""

    requests: int = 60
    requests_per_host: int = 30
    """Of one IPv4 address or IPv6 /56."""
    requests_per_peer: int = 12
    data_requests: int = 12
    """Of all requests, those for an IP that is not the client's."""
    concurrent_per_peer: int = 2
    price: tuple[int, int] = (30_000, 100_000)
    """Bytes of dial data, from and to."""
    least_data: int = 100
    """Bytes in each message of dial data but the last."""
    pause: float = 3.0
    """Seconds, at most, between the price's payment and the dial: many requests do not make one burst at a victim."""
    stream: float = 15.0
    dial: float = 5.0
    """As long as go tries TCP. A client of rust waits 10 s for all of it, and asks anew then, in vain again."""
    dial_back: float = 5.0
    private: bool = False
    """Dial private addresses too: for networks that have no others."""


V1_POLICY = ServerPolicy(requests=30, requests_per_host=15, requests_per_peer=3, stream=60.0, dial=15.0)
"""What go's first AutoNAT gives away; it dials the client's own IP only, so there is no price."""


class Throttle:
    """Counts the requests of the last minute; `admit` and `done` embrace one."""

    def __init__(self, policy: ServerPolicy) -> None:
        self._policy = policy
        self._recent: deque[tuple[float, Hashable, str]] = deque(maxlen=policy.requests)
        self._with_data: deque[float] = deque(maxlen=policy.data_requests)
        self._under_way: Counter[Hashable] = Counter()  # bounded by `requests`: none lasts longer than a minute

    def admit(self, peer: Hashable, host: str, now: float) -> bool:
        """Count a request of `peer` at `host`, unless that would be one too many."""
        self._forget(now)
        policy, recent = self._policy, self._recent
        too_many = (
            len(recent) >= policy.requests
            or sum(each == peer for _, each, _ in recent) >= policy.requests_per_peer
            or sum(each == host for _, _, each in recent) >= policy.requests_per_host
            or self._under_way[peer] >= policy.concurrent_per_peer
        )
        if too_many:
            self._drop_zero(peer)
            return False
        recent.append((now, peer, host))
        self._under_way[peer] += 1
        return True

    def admit_data(self, now: float) -> bool:
        """Count a request for an IP that is not the client's, unless that would be one too many."""
        self._forget(now)
        if len(self._with_data) >= self._policy.data_requests:
            return False
        self._with_data.append(now)
        return True

    def done(self, peer: Hashable) -> None:
        """An admitted request has ended."""
        self._under_way[peer] -= 1
        self._drop_zero(peer)

    def _forget(self, now: float) -> None:
        while self._recent and self._recent[0][0] <= now - WINDOW:
            self._recent.popleft()
        while self._with_data and self._with_data[0] <= now - WINDOW:
            self._with_data.popleft()

    def _drop_zero(self, peer: Hashable) -> None:
        if not self._under_way[peer]:
            del self._under_way[peer]

    def __len__(self) -> int:
        return len(self._recent)


@dataclass(frozen=True, slots=True)
class Choice:
    """The one address of a request that is dialled."""

    index: int
    addr: Multiaddr
    costs: bool
    """Whether its IP is not the one that the request came from."""


def choose(
    addrs: Sequence[Multiaddr | None],
    observed: IPAddress,
    dialable: Callable[[Multiaddr], bool],
    policy: ServerPolicy,
) -> Choice | None:
    """Return the first address that may and can be dialled, None when there is none among the first fifty."""
    for index, addr in enumerate(addrs[:INSPECTED]):
        if (
            addr is None or addr.is_relayed or addr.ip is None
        ):  # names could resolve to anything by the time of the dial
            continue
        if (policy.private or is_public(addr)) and dialable(addr):
            return Choice(index, addr, costs=addr.ip != observed)
    return None


def price(policy: ServerPolicy, chance: Random) -> int:
    """Return the bytes that a dial of somebody else's IP costs."""
    return chance.randint(*policy.price)


class Purse:
    """Counts the dial data of one request."""

    def __init__(self, policy: ServerPolicy, wanted: int) -> None:
        self._least = policy.least_data
        self.missing = wanted

    @property
    def paid(self) -> bool:
        """Whether all has come."""
        return self.missing <= 0

    def take(self, size: int) -> bool:
        """Count one message; False where it is so small that only work was meant by it."""
        if size < min(self._least, self.missing):
            return False
        self.missing -= size
        return True


def v1_targets(
    addrs: Iterable[Multiaddr], observed: Multiaddr, dialable: Callable[[Multiaddr], bool], policy: ServerPolicy
) -> list[Multiaddr]:
    """Return what the first AutoNAT dials: `observed`, where the request came from, and what is listed of the same IP.

    At most 16, as in go.
    """
    ip = observed.ip
    chosen = [
        addr
        for addr in dict.fromkeys([observed, *addrs])
        if not addr.is_relayed and addr.ip == ip and (policy.private or is_public(addr)) and dialable(addr)
    ]
    return chosen[:V1_ADDRESSES]


V1_ADDRESSES = 16


# ── the client ───────────────────────────────────────────────────────────────────────────────────────────────────────

RESULTS = 5
"""Answers kept of one address; the oldest goes first."""
CONFIDENT = 2
"""By so many answers one side must lead to be believed."""
SURE = 3
"""By so many it must lead for the address not to be asked about again soon."""
ADDRESSES = 32
"""Addresses whose verdicts are kept."""
RECHECK = 3600.0
"""Seconds after which an address that is known well is asked about again."""
RETRY = 60.0
"""Seconds after which an address is tried again that a server would not or could not test."""


@dataclass(slots=True)
class _Known:
    """What is known of one address."""

    results: deque[bool] = field(default_factory=lambda: deque(maxlen=RESULTS))
    ask_at: float = 0.0
    failures: int = 0

    @property
    def lead(self) -> int:
        """By how many answers the successes lead; negative where the failures do."""
        return 2 * sum(self.results) - len(self.results)


class Verdicts:
    """Each address of ours and whether it can be dialled."""

    def __init__(self) -> None:
        self._known: dict[Multiaddr, _Known] = {}  # bounded by ADDRESSES

    def follow(self, addrs: Iterable[Multiaddr]) -> None:
        """These are our addresses now; the others are forgotten."""
        kept = list(dict.fromkeys(addrs))[:ADDRESSES]
        self._known = {addr: self._known.get(addr) or _Known() for addr in kept}

    def record(self, addr: Multiaddr, reachable: bool, now: float) -> bool:
        """Note an answer; True when it changed the verdict."""
        known = self._known.get(addr)
        if known is None:
            return False
        before = self.of(addr)
        known.results.append(reachable)
        known.failures = 0
        known.ask_at = now + RECHECK if abs(known.lead) >= SURE else now
        return self.of(addr) is not before

    def unanswered(self, addr: Multiaddr, now: float) -> None:
        """No server told anything about it: leave it alone for a while, longer each time."""
        known = self._known.get(addr)
        if known is not None:
            known.failures = min(known.failures + 1, 6)
            known.ask_at = now + RETRY * 2 ** (known.failures - 1)

    def forget(self, addrs: Iterable[Multiaddr]) -> None:
        """Begin anew with these addresses: what leads to them is another."""
        self._known.update((addr, _Known()) for addr in addrs if addr in self._known)

    def doubt(self) -> None:
        """Something has changed: ask about all again, without forgetting."""
        for known in self._known.values():
            known.ask_at, known.failures = 0.0, 0

    def of(self, addr: Multiaddr) -> Reachability:
        """Return the verdict on one address."""
        known = self._known.get(addr)
        if known is None or abs(known.lead) < CONFIDENT:
            return Reachability.UNKNOWN
        return Reachability.PUBLIC if known.lead > 0 else Reachability.PRIVATE

    def all(self) -> dict[Multiaddr, Reachability]:
        """Return the verdict on every address that is followed."""
        return {addr: self.of(addr) for addr in self._known}

    def due(self, now: float) -> list[Multiaddr]:
        """Return the addresses to ask about, those first of which least is known."""
        due = [(len(known.results), addr) for addr, known in self._known.items() if known.ask_at <= now]
        return [addr for _, addr in sorted(due, key=lambda item: item[0])]

    def get_timer(self) -> float | None:
        """Return when the next address is due, None when there is none."""
        return min((known.ask_at for known in self._known.values()), default=None)

    def overall(self) -> Reachability:
        """Public if any address is; private if none is and all that are known are."""
        every = set(self.all().values())
        if Reachability.PUBLIC in every:
            return Reachability.PUBLIC
        return Reachability.PRIVATE if Reachability.PRIVATE in every else Reachability.UNKNOWN


V1_CONFIDENCE = 3
"""Answers against the present belief that change it, as in go."""


class V1Belief:
    """What servers of the first AutoNAT say of us as a whole."""

    def __init__(self) -> None:
        self.reachability = Reachability.UNKNOWN
        self._confidence = 0

    def record(self, reachable: bool) -> bool:
        """Note an answer; True when it changed the belief."""
        said = Reachability.PUBLIC if reachable else Reachability.PRIVATE
        if self.reachability is said:
            self._confidence = min(self._confidence + 1, V1_CONFIDENCE)
            return False
        if self._confidence > 0:
            self._confidence -= 1
            return False
        self.reachability = said
        return True
