"""NATs as values, in the words of RFC 4787, RFC 5382 and RFC 5508: mapping, filtering, ports, hairpinning, timeouts.

The classical names (`full-cone`, `home`, `symmetric-random`, …) are presets of these values and nothing else. A value
that no rules can be written for cannot be made: `ImpossibleNat` says which of its parts does not go with the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

UDP_TIMEOUT: Final = 30.0
TCP_TIMEOUT: Final = 7440.0
TCP_TRANSITORY: Final = 240.0
"RFC 5382 REQ-5: at least 2 h 4 min for established connections, at least 4 min for those that open or close"
ICMP_TIMEOUT: Final = 60.0
"RFC 5508 REQ-2: at least 60 s for ICMP queries; not a choice here"
SHORTEST: Final = 1.0
LONGEST: Final = 432000.0
"bounds of a lifetime; conntrack counts whole seconds and forgets an established flow after five days"
MAX_ADDRESSES: Final = 8
"public addresses of one NAT; each of them costs as many rules as a NAT with one"
BLOCK: Final = 512
"ports of a subscriber's block unless the NAT says otherwise"
BLOCK_SIZES: Final = range(64, 4097)
"beyond 4096 a block cannot be told from any port at random, with the few ports that a probe looks at"


class Mapping(Enum):
    """Which packets of one inner endpoint share an external port (RFC 4787 §4.1)."""

    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ADDRESS_DEPENDENT = "address-dependent"
    ADDRESS_AND_PORT_DEPENDENT = "address-and-port-dependent"


class Filtering(Enum):
    """Who may send to a mapped port (RFC 4787 §5)."""

    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ADDRESS_DEPENDENT = "address-dependent"
    ADDRESS_AND_PORT_DEPENDENT = "address-and-port-dependent"


class Ports(Enum):
    """How the external port of a new mapping is chosen (RFC 4787 §4.2)."""

    PRESERVING = "preserving"
    "the inner one; if that has an owner, any free one"
    PRESERVING_THEN_SEQUENTIAL = "preserving-then-sequential"
    "the inner one; if that has an owner, the next of a run"
    SEQUENTIAL = "sequential"
    RANDOM = "random"
    HASHED = "hashed"
    "a function of the mapping's key and the plan's seed; if that port has an owner, any free one"
    BLOCK = "block"
    "any free one of the block that the inner address, the subscriber, has been given"


class Hairpinning(Enum):
    """What a packet from the LAN to an external port of the same NAT comes to (RFC 4787 §6)."""

    NONE = "none"
    INTERNAL_SOURCE = "internal-source"
    "it arrives from the sender's inner endpoint; it was never outside, so no filter sees it"
    EXTERNAL_SOURCE = "external-source"
    "it arrives from the sender's external endpoint (REQ-9 a), filtered as if it came from outside"

    def __bool__(self) -> bool:
        return self is not Hairpinning.NONE


class Unsolicited(Enum):
    """What the sender of a packet that is not let in hears."""

    DROP = "drop"
    RESET = "reset"
    "an RST for TCP, nothing for UDP"
    ICMP = "icmp"
    "a port-unreachable error for both (RFC 5382 REQ-4)"


class Pooling(Enum):
    """Which of its public addresses a NAT gives to a new mapping (RFC 4787 §4.1)."""

    PAIRED = "paired"
    "always the same one for an inner address (REQ-2)"
    ARBITRARY = "arbitrary"
    "the next one, in turn"


class ImpossibleNat(ValueError):
    """No rules can be written for such a NAT; `key` is the part that does not go with the others."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(reason)
        self.key = key


@dataclass(frozen=True, slots=True)
class Nat:
    """One NAT's behaviour, for UDP and TCP alike. Raises `ImpossibleNat`."""

    mapping: Mapping
    filtering: Filtering
    ports: Ports
    hairpin: Hairpinning = Hairpinning.NONE
    udp_timeout: float = UDP_TIMEOUT
    "seconds without a packet after which a UDP mapping is gone, once a flow over it is assured: both sides have sent"
    tcp_timeout: float = TCP_TIMEOUT
    "seconds, likewise, for TCP, while a connection over the mapping is established"
    udp_new_timeout: float = UDP_TIMEOUT
    "seconds for a UDP mapping without an assured flow; never more than the other"
    tcp_transitory_timeout: float = TCP_TRANSITORY
    "seconds for a TCP mapping whose connections are opening or closing; never more than the other"
    unsolicited: Unsolicited = Unsolicited.DROP
    public_addresses: int = 1
    pooling: Pooling = Pooling.PAIRED
    block_size: int = BLOCK
    "ports of a subscriber's block, where ports come from blocks"
    one_to_one: bool = False
    "every inner address has a public address of its own, with all its ports"

    def __post_init__(self) -> None:
        self._check_lifetimes()
        # A short lifetime is short for all: nobody has to say so twice.
        object.__setattr__(self, "udp_new_timeout", min(self.udp_new_timeout, self.udp_timeout))
        object.__setattr__(self, "tcp_transitory_timeout", min(self.tcp_transitory_timeout, self.tcp_timeout))
        if self.public_addresses not in range(1, MAX_ADDRESSES + 1):
            raise ImpossibleNat("public-addresses", f"a NAT has 1 to {MAX_ADDRESSES} public addresses")
        if self.block_size not in BLOCK_SIZES:
            raise ImpossibleNat("block-size", f"a block has {BLOCK_SIZES.start} to {BLOCK_SIZES.stop - 1} ports")
        if self.pooling is Pooling.ARBITRARY:
            if self.public_addresses == 1:
                raise ImpossibleNat("pooling", "there is nothing arbitrary about one public address")
            if self.ports is Ports.BLOCK:
                raise ImpossibleNat("pooling", "a subscriber's block is on one address, so pooling is paired")
        if self.one_to_one:
            self._check_one_to_one()

    @property
    def transparent(self) -> bool:
        """Whether everybody reaches every port of the inner hosts, mapped or not."""
        return self.one_to_one and self.filtering is Filtering.ENDPOINT_INDEPENDENT

    def _check_lifetimes(self) -> None:
        for key, seconds in (
            ("udp-timeout", self.udp_timeout),
            ("udp-new-timeout", self.udp_new_timeout),
            ("tcp-timeout", self.tcp_timeout),
            ("tcp-transitory-timeout", self.tcp_transitory_timeout),
        ):
            if not (SHORTEST <= seconds <= LONGEST and float(seconds).is_integer()):
                raise ImpossibleNat(
                    key, f"a mapping's lifetime is {SHORTEST:.0f} to {LONGEST:.0f} whole seconds, not {seconds}"
                )

    def _check_one_to_one(self) -> None:
        if self.mapping is not Mapping.ENDPOINT_INDEPENDENT:
            raise ImpossibleNat("mapping", "one address for each host is one mapping for all destinations")
        if self.ports is not Ports.PRESERVING:
            raise ImpossibleNat("ports", "a host that has all ports of its address keeps the one it has: preserving")
        if self.public_addresses != 1:
            raise ImpossibleNat("public-addresses", "one-to-one has as many as there are hosts")
        if self.transparent and self.unsolicited is not Unsolicited.DROP:
            raise ImpossibleNat("unsolicited", "everything is let in to the hosts, which answer for themselves")
