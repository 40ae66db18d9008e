"""What a link does to packets: values in the words of netem(8) and tbf(8), for one direction or for both.

    router's uplink   up → [loss · duplicate · corrupt] → [rate, buffer] → [latency ± jitter, reorder] → internet
                      the same for down, with values of its own

Loss is independent from packet to packet, or comes in bursts: Gilbert's two states (E. N. Gilbert, 1960), of which one
loses everything. A burst of `loss_burst` packets on average, and `loss` of all packets lost, fix both transitions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from lab.model.units import format_percent

MAX_LATENCY: Final = 10.0
"seconds; what waits is held in memory"
MAX_JITTER: Final = 2.0
"seconds; netem counts them in 32 bits of nanoseconds"
MIN_RATE: Final = 8_000
MAX_RATE: Final = 10_000_000_000
"bit/s"
MIN_BUFFER: Final = 1_600
"bytes: a full packet has to fit, or nothing passes"
MAX_BUFFER: Final = 256 << 20
MAX_BURST: Final = 1000.0
"packets lost in a row, on average"
_ROUNDED: Final = 0.001
"packets: a message names a length by six digits, and what it names is allowed"
MIN_MTU: Final = 576
"bytes every IPv4 host takes (RFC 1122 §3.3.2)"
MIN_MTU6: Final = 1280
"bytes every link takes that carries IPv6 (RFC 8200 §5)"
MAX_MTU: Final = 1500
"bytes; the cables are Ethernet's"
DEFAULT_BUFFER_SECONDS: Final = 0.1
"of data at the link's rate, as home routers have it"


def _within(name: str, value: float, lowest: float, highest: float) -> None:
    if not lowest <= value <= highest:
        raise ValueError(f"{name} must be {lowest:g} to {highest:g}, not {value:g}")


@dataclass(frozen=True, slots=True)
class Impairment:
    """One direction of a link. ValueError where a value or a combination is impossible."""

    latency: float = 0.0
    "seconds, one way"
    jitter: float = 0.0
    "seconds: each packet takes latency ± jitter, evenly; packets do not overtake each other for it"
    loss: float = 0.0
    "share of the packets, 0 to 1"
    loss_burst: float | None = None
    "packets lost in a row, on average; None: each is lost independently of the others"
    duplicate: float = 0.0
    "share of the packets that arrive twice"
    reorder: float = 0.0
    "share of the packets that do not wait for the latency and so overtake others"
    corrupt: float = 0.0
    "share of the packets that have one bit flipped behind their IP header"
    rate: int | None = None
    "bit/s, IP headers included, Ethernet's not"
    buffer: int | None = None
    "bytes that wait for the rate at most; the rest is dropped. Only with a rate; None: 100 ms worth of it"

    def __post_init__(self) -> None:
        _within("latency", self.latency, 0.0, MAX_LATENCY)
        _within("jitter", self.jitter, 0.0, min(self.latency, MAX_JITTER))
        for name in ("loss", "duplicate", "reorder", "corrupt"):
            _within(name, getattr(self, name), 0.0, 1.0)
        if self.reorder and not self.latency:
            raise ValueError("reorder needs a latency: without one no packet is in flight to be overtaken")
        if self.loss_burst is not None:
            _within("loss_burst", self.loss_burst, 1.0, MAX_BURST)
            least = shortest_burst(self.loss)
            if least > MAX_BURST:
                raise ValueError(f"loss_burst cannot be had at a loss of {format_percent(self.loss)}; leave it out")
            if self.loss_burst < least - _ROUNDED:
                allowed = f"{least:.6g} to {MAX_BURST:g} at a loss of {format_percent(self.loss)}"
                raise ValueError(f"loss_burst must be {allowed}: between two bursts a packet has to pass")
        if self.rate is not None:
            _within("rate", self.rate, MIN_RATE, MAX_RATE)
        if self.buffer is not None:
            if self.rate is None:
                raise ValueError("buffer needs a rate: without one nothing waits")
            _within("buffer", self.buffer, MIN_BUFFER, MAX_BUFFER)

    @property
    def does_nothing(self) -> bool:
        """Whether packets pass as if there were no link."""
        return self == Impairment()

    @property
    def rewrites(self) -> bool:
        """Whether packets have to be read whole, to be sent twice or changed."""
        return bool(self.duplicate or self.corrupt)

    @property
    def queue(self) -> int:
        """Bytes that wait for the rate at most; 0 without a rate."""
        if self.rate is None:
            return 0
        return self.buffer or max(MIN_BUFFER, round(self.rate * DEFAULT_BUFFER_SECONDS / 8))


IDEAL: Final = Impairment()


@dataclass(frozen=True, slots=True)
class Link:
    """An uplink: what it does to packets in each direction, and how large they may be."""

    up: Impairment = IDEAL
    "towards the internet"
    down: Impairment = IDEAL
    mtu: int | None = None
    "bytes of an IP packet; None: Ethernet's 1500"
    pmtu_black_hole: bool = False
    "nobody is told when a packet was too large (RFC 2923 §2.1)"

    def __post_init__(self) -> None:
        if self.mtu is not None:
            _within("mtu", self.mtu, MIN_MTU, MAX_MTU)
        if self.pmtu_black_hole and self.mtu is None:
            raise ValueError("a PMTU black hole needs an mtu: without one every packet fits")


def shortest_burst(loss: float) -> float:
    """Packets lost in a row, on average, where one passes between two bursts; infinity where nothing ever passes."""
    return loss / (1.0 - loss) if loss < 1.0 else float("inf")


def gilbert(loss: float, burst: float) -> tuple[float, float]:
    """The chances to go from passing to losing and back, per packet, that give this loss in bursts of this length."""
    back = 1.0 / burst
    return min(shortest_burst(loss) * back, 1.0), back
