"""What libp2p's peers say of themselves in mDNS: the strings of one TXT record, each an address with its peer id.

    PTR _p2p._udp.local.  ─►  <name>._p2p._udp.local.  ─►  TXT "dnsaddr=/ip4/…/tcp/…/p2p/12D3…" "dnsaddr=/ip6/…"

Spec: https://github.com/libp2p/specs/blob/master/discovery/mdns.md

Facts: the record holds as many `dnsaddr=` strings as there are addresses, which libraries that take a TXT record for a
dictionary reduce to one; so it is read and written here as what it is, strings of up to 255 bytes with their length
before them. The name is chance and not the peer id. Addresses that mean something on a LAN alone are of use, so only
those of direct transports are told and believed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from node.names.multiaddr import Multiaddr

if TYPE_CHECKING:
    from node.names.peerid import PeerId

SERVICE: Final = "_p2p._udp.local."
PREFIX: Final = b"dnsaddr="
MAX_STRING: Final = 255
"""Bytes of one string, RFC 1035 §3.3."""
MAX_TEXT: Final = 1100
"""Bytes of the strings that we tell: with its other records our answer fits into one Ethernet frame."""
MAX_HEARD: Final = 8966
"""Bytes of strings that are looked at: what RFC 6762 §17 lets a message hold."""
ADDRESSES: Final = 32
"""Addresses taken from one record."""
_DIRECT: Final = (("tcp",), ("udp", "quic-v1"), ("udp", "quic-v1", "webtransport"))


def is_of_lan(addr: Multiaddr) -> bool:
    """Return whether `addr`, apart from a trailing `/p2p`, is a direct transport on an IP address that others have.

    A link-local IPv6 address comes without the zone that whoever hears of it would need.
    """
    names = tuple(name for name in addr.names if name not in ("p2p", "certhash"))
    ip = addr.ip
    if ip is None or ip.is_loopback or ip.is_unspecified or ip.is_multicast or (ip.version == 6 and ip.is_link_local):
        return False
    return names[0] in ("ip4", "ip6") and names[1:] in _DIRECT


def encode(addrs: Iterable[Multiaddr], peer: PeerId) -> bytes:
    """Return the data of the TXT record: as many of the addresses that are of a LAN as fit, in this order."""
    text = b""
    for addr in addrs:
        string = PREFIX + str(addr.with_peer(peer)).encode()
        if is_of_lan(addr) and len(string) <= MAX_STRING and len(text) + 1 + len(string) <= MAX_TEXT:
            text += bytes([len(string)]) + string
    return text


def decode(text: bytes) -> dict[PeerId, list[Multiaddr]]:
    """Return the addresses of a TXT record's data, without their peer ids, by peer; what is none is left out."""
    found: dict[PeerId, list[Multiaddr]] = {}
    taken = 0
    for string in _strings(text[:MAX_HEARD]):
        if not string.startswith(PREFIX) or taken >= ADDRESSES:
            continue
        try:
            addr = Multiaddr(string.removeprefix(PREFIX).decode())
        except ValueError:  # not our kind of text, or a kind of address that we do not know
            continue
        peer = addr.peer_id
        if peer is not None and is_of_lan(addr):
            found.setdefault(peer, []).append(addr.without("p2p"))
            taken += 1
    return found


def _strings(text: bytes) -> Iterator[bytes]:
    offset = 0
    while offset < len(text):
        end = offset + 1 + text[offset]
        yield text[offset + 1 : end]
        offset = end
