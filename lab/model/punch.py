"""What RFC 4787's words imply for hole punching: which NAT lets in whom, when both sides write to each other.

Both peers know of each other the endpoint that a third party, the relay, sees (the *advertised* one), and both write to
it at about the same time, from the port that they wrote to the relay from. Nobody predicts ports. RFC 5382 gives TCP
the same behaviours, and simultaneous open succeeds under the same condition.
"""

from __future__ import annotations

from lab.model.nat import Filtering, Hairpinning, Mapping, Nat, Pooling


def lets_in(listener: Nat | None, dialer: Nat | None) -> bool:
    """Whether a packet from behind `dialer` to the advertised endpoint behind `listener` arrives; None is no NAT."""
    if listener is None or listener.filtering is Filtering.ENDPOINT_INDEPENDENT:
        return True
    # The advertised port is open to those whom the peer wrote to from it: only an endpoint-independent mapping makes
    # the peer write to the dialer from that port.
    if listener.mapping is not Mapping.ENDPOINT_INDEPENDENT:
        return False
    # And it wrote to the dialer's advertised endpoint: is that where the dialer writes from?
    if listener.filtering is Filtering.ADDRESS_DEPENDENT:
        return keeps_its_address(dialer)
    return keeps_its_port(dialer)


def keeps_its_port(nat: Nat | None) -> bool:
    """Whether a peer behind it writes to everybody from the endpoint that it is known by."""
    return nat is None or nat.mapping is Mapping.ENDPOINT_INDEPENDENT


def keeps_its_address(nat: Nat | None) -> bool:
    """Whether at least the address is always the same (RFC 4787 REQ-2, paired)."""
    return nat is None or keeps_its_port(nat) or nat.pooling is Pooling.PAIRED


def can_punch(one: Nat | None, other: Nat | None) -> bool:
    """Whether two peers behind different NATs reach each other: one packet that arrives is enough."""
    return lets_in(one, other) or lets_in(other, one)


def can_hairpin(nat: Nat, transport: str = "tcp") -> bool:
    """Whether two peers behind the same NAT reach each other by their external endpoints.

    The rules are those of two NATs of the kind, as a hairpinned packet comes in with its external source (RFC 4787
    REQ-9) and leaves a permission for the endpoint that it goes to. With its internal source nothing filters it, but it
    is answered past the NAT from an endpoint that its sender does not know: good for a datagram, not for a connection.
    """
    match nat.hairpin:
        case Hairpinning.NONE:
            return False
        case Hairpinning.INTERNAL_SOURCE:
            return transport == "udp"
        case Hairpinning.EXTERNAL_SOURCE:
            return can_punch(nat, nat)
