"""Whom we neither dial nor accept, and who may open which protocol.

A rule of the gater is one of

    11.0.0.0/8, 2a11::/32            addresses in CIDR notation; the longest prefix that matches decides
    /ip4/*/udp/*/quic-v1             a multiaddr's beginning, `*` for any value; the longest pattern decides
    12D3KooW…                        a peer; `*` is every peer that no other rule names

with `in:` or `out:` before it where it is to hold for one direction only. Of equals, denial decides; what no rule names
is allowed. Addresses, patterns and peers are judged one by one, and each must allow.

Unless said otherwise a protocol may be opened by everybody; `/echo/1.0.0=12D3KooW…,12D3KooW…` names who may,
`/admin/*=…` for all protocols that begin so. To others the protocol does not exist.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import TYPE_CHECKING

from node.errors import ConfigError, DecodeError
from node.names.peerid import PeerId

if TYPE_CHECKING:
    from node.logic.addresses import IPAddress
    from node.names.multiaddr import Multiaddr

RULES = 1024
"""Rules of one list: each connection is held against all."""
Authorise = Callable[[PeerId, str], bool]
"""Whether a peer may open a protocol; must not block."""


@dataclass(frozen=True, slots=True)
class _Rule:
    subject: IPv4Network | IPv6Network | PeerId | tuple[str, ...] | None
    """None: every peer."""
    allows: bool
    direction: str

    def holds(self, inbound: bool | None) -> bool:
        return not self.direction or inbound is None or inbound == (self.direction == "in")


class Gater:
    """The rules of a node; ConfigError when one cannot be read."""

    def __init__(self, deny: Sequence[str] = (), allow: Sequence[str] = ()) -> None:
        if max(len(deny), len(allow)) > RULES:
            raise ConfigError(f"at most {RULES} rules can be denied or allowed")
        rules = [_rule(text, allows=False) for text in deny] + [_rule(text, allows=True) for text in allow]
        self._networks = sorted(
            ((each.subject, each) for each in rules if isinstance(each.subject, IPv4Network | IPv6Network)),
            key=lambda pair: (-pair[0].prefixlen, pair[1].allows),
        )
        self._patterns = sorted(
            ((each.subject, each) for each in rules if isinstance(each.subject, tuple)),
            key=lambda pair: (-len(pair[0]), pair[1].allows),
        )
        self._peers = sorted(
            (each for each in rules if each.subject is None or isinstance(each.subject, PeerId)),
            key=lambda each: (each.subject is None, each.allows),
        )

    def allows_ip(self, ip: IPAddress, *, inbound: bool | None = None) -> bool:
        """Return whether `ip` may be dialled (`inbound` false), accepted (true), or both (None)."""
        if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        for network, rule in self._networks:
            if ip.version == network.version and ip in network and rule.holds(inbound):
                return rule.allows
        return True

    def allows(self, addr: Multiaddr, *, inbound: bool | None = None) -> bool:
        """Return whether the first hop of `addr` may be dialled or accepted; names are judged once resolved."""
        ip = addr.ip
        if ip is not None and not self.allows_ip(ip, inbound=inbound):
            return False
        if not self._patterns:
            return True
        words = tuple(str(addr).split("/")[1:])
        for pattern, rule in self._patterns:
            if rule.holds(inbound) and _matches(pattern, words):
                return rule.allows
        return True

    def allows_peer(self, peer: PeerId, *, inbound: bool | None = None) -> bool:
        """Return whether we may have a connection with `peer`."""
        for rule in self._peers:
            if rule.subject in (None, peer) and rule.holds(inbound):
                return rule.allows
        return True


def _matches(pattern: tuple[str, ...], words: tuple[str, ...]) -> bool:
    pairs = zip(pattern, words, strict=False)
    return len(pattern) <= len(words) and all(asked in ("*", word) for asked, word in pairs)


def _rule(text: str, *, allows: bool) -> _Rule:
    direction, colon, subject = text.partition(":")
    if not colon or direction not in ("in", "out"):
        direction, subject = "", text
    if subject == "*":
        return _Rule(None, allows, direction)
    if subject.startswith("/"):
        return _Rule(tuple(subject.split("/")[1:]), allows, direction)
    try:
        return _Rule(ip_network(subject), allows, direction)
    except ValueError as error:
        why = error
    try:
        return _Rule(PeerId.parse(subject), allows, direction)
    except DecodeError:
        raise ConfigError(f"neither a network in CIDR notation, a multiaddr nor a peer: {text!r} ({why})") from why


class Authorisation:
    """The rules that name who may open a protocol, and a word of the node's user beside them."""

    def __init__(self, rules: Sequence[str] = (), also: Authorise | None = None) -> None:
        if len(rules) > RULES:
            raise ConfigError(f"at most {RULES} protocols can be authorised")
        self._rules = sorted((_authorised(text) for text in rules), key=lambda rule: -len(rule[0]))
        self._also = also

    def allows(self, peer: PeerId, protocol: str) -> bool:
        """Return whether `peer` may open `protocol`: the longest rule that names it decides, and so does the user."""
        for name, peers in self._rules:
            if protocol == name or (name.endswith("*") and protocol.startswith(name[:-1])):
                if peer not in peers:
                    return False
                break
        return self._also is None or self._also(peer, protocol)


def _authorised(text: str) -> tuple[str, frozenset[PeerId]]:
    protocol, equals, peers = text.partition("=")
    try:
        if not equals or not protocol.startswith("/"):
            raise DecodeError("it is not /protocol=peer,peer")
        return protocol, frozenset(PeerId.parse(peer) for peer in peers.split(",") if peer)
    except DecodeError as error:
        raise ConfigError(f"cannot tell whom {text!r} authorises: {error}") from error
