"""What RFC 4787's words imply for hole punching: which NAT lets in whom, when both sides write to each other.

Both peers know of each other the endpoint that a third party, the relay, sees (the *advertised* one), and both write to
it at about the same time, from the port that they wrote to the relay from. Nobody predicts ports. RFC 5382 gives TCP
the same behaviours, and simultaneous open succeeds under the same condition.
"""

from __future__ import annotations

from lab.model.nat import Filtering, Mapping, Nat


def lets_in(listener: Nat | None, dialer: Nat | None) -> bool:
    """Whether a packet from behind `dialer` to the advertised endpoint behind `listener` arrives; None is no NAT."""
    if listener is None or listener.filtering is Filtering.ENDPOINT_INDEPENDENT:
        return True
    # The advertised port is open to those whom the peer wrote to from it: only an endpoint-independent mapping makes
    # the peer write to the dialer from that port.
    if listener.mapping is not Mapping.ENDPOINT_INDEPENDENT:
        return False
    # And it wrote to the dialer's advertised endpoint: the address is right, the port only if it is the dialer's one.
    return listener.filtering is Filtering.ADDRESS_DEPENDENT or keeps_its_port(dialer)


def keeps_its_port(nat: Nat | None) -> bool:
    """Whether a peer behind it writes to everybody from the endpoint that it is known by."""
    return nat is None or nat.mapping is Mapping.ENDPOINT_INDEPENDENT


def can_punch(one: Nat | None, other: Nat | None) -> bool:
    """Whether two peers behind different NATs reach each other: one packet that arrives is enough."""
    return lets_in(one, other) or lets_in(other, one)


def can_hairpin(nat: Nat) -> bool:
    """Whether two peers behind the same NAT reach each other by their external endpoints.

    The rules are those of two NATs of the kind, as a hairpinned packet comes in with its external source (RFC 4787
    REQ-9) and leaves a permission for the endpoint that it goes to.
    """
    return nat.hairpin and can_punch(nat, nat)
