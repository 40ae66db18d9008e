"""What the lab's name server answers, and when: questions in as bytes, answers out as bytes (RFC 1035).

It tells of both versions of IP; who asks by IPv6 is told of IPv4 alone by a prefix that a NAT64 translates, if there is
one (DNS64, RFC 6147 §5.1.6).

It is the authority for `lab`, and the only server there is, so it says that it recurses, or stub resolvers would not
take its word, and refuses names outside. dnsaddr records are TXT records of `_dnsaddr.<name>`, one per multiaddr, each
one string `dnsaddr=/ip4/…` (https://github.com/multiformats/multiaddr/blob/master/protocols/DNSADDR.md).

    honest   the records                                  slow   the same, later
    failing  SERVFAIL                                     dead   nothing
    lying    its own address for every name there is or is not, and for the address in every multiaddr, whose peer id
             it leaves: whoever dials it meets somebody else, or nobody
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Network
from typing import Final

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from lab.model.dns import Mode
from lab.plan.zone import ZONE, DnsPlan, Entry

TTL: Final = 5
"Seconds: addresses change while a lab runs."
MAX_UDP: Final = 1232
"Bytes of a datagram (RFC 9715); what is longer is truncated, to be asked again by TCP."
PLAIN_UDP: Final = 512
"The same for who does not speak EDNS."
PREFIX: Final = "_dnsaddr."
_APEX = dns.name.from_text(ZONE)
_PLACE = re.compile(r"/(?:ip4|ip6|dns|dns4|dns6|dnsaddr)/[^/]+")


@dataclass(frozen=True, slots=True)
class Reply:
    """What becomes of one question."""

    name: str
    kind: str
    "A, TXT, …"
    outcome: str
    "the answer's code, `NOERROR`; `silence` if there is no answer"
    wire: bytes | None
    delay: float
    "seconds until it is sent"


class Authority:
    """All that the server knows."""

    def __init__(self, plan: DnsPlan) -> None:
        self._plan = plan
        self._entries = {entry.name: entry for entry in plan.entries}
        self._listeners = {listener.peer: listener.multiaddr for listener in plan.listeners}
        self._ready: dict[str, str] = {}

    def learn(self, peer: str, peer_id: str) -> None:
        """A peer is ready: from now on its multiaddr is complete."""
        self._ready[peer] = f"{self._listeners[peer]}/p2p/{peer_id}"

    def reply(self, question: bytes, *, by_tcp: bool, by_ipv6: bool = False) -> Reply | None:
        """The reply to one message; None for one that is no question, which gets none."""
        try:
            asked = dns.message.from_wire(question)
        except dns.exception.DNSException:
            return None
        if asked.flags & dns.flags.QR or len(asked.question) != 1:
            return None
        wanted = asked.question[0]
        name = wanted.name.to_text(omit_final_dot=True).lower()
        kind = dns.rdatatype.to_text(wanted.rdtype)
        entry = self._entry(name)
        if entry.mode is Mode.DEAD:
            return Reply(name, kind, "silence", None, 0.0)
        answer = self._answer(asked, self._synthesized(entry) if by_ipv6 else entry)
        limit = 0 if by_tcp else min(asked.payload or PLAIN_UDP, MAX_UDP) if asked.edns >= 0 else PLAIN_UDP
        # In the order of the topology: a run is to repeat itself, and dnspython shuffles by a chance of its own.
        wire = answer.to_wire(max_size=limit, prefer_truncation=True, want_shuffle=False)
        delay = entry.delay if entry.mode is Mode.SLOW else 0.0
        return Reply(name, kind, dns.rcode.to_text(answer.rcode()), wire, delay)

    def _entry(self, name: str) -> Entry:
        """What the name stands for, as the server tells it."""
        owner = name.removeprefix(PREFIX)
        unknown = Entry(owner, None, None, (), self._plan.mode, self._plan.delay)
        entry = self._entries.get(owner, unknown)
        complete = tuple(self._ready.get(addr, "") if not addr.startswith("/") else addr for addr in entry.dnsaddr)
        entry = replace(entry, dnsaddr=tuple(addr for addr in complete if addr))
        if entry.mode is not Mode.LYING:
            return entry
        own4 = next((own for own in self._plan.addresses if ":" not in own), None)
        own6 = next((own for own in self._plan.addresses if ":" in own), None)
        lie = f"/ip4/{own4}" if own4 is not None else f"/ip6/{own6}"
        dnsaddr = tuple(_PLACE.sub(lie, addr, count=1) for addr in entry.dnsaddr)
        return replace(entry, address=own4, address6=own6, dnsaddr=dnsaddr)

    def _synthesized(self, entry: Entry) -> Entry:
        """The entry with an address of the prefix where it has none of IPv6."""
        if self._plan.prefix64 is None or entry.address is None or entry.address6 is not None:
            return entry
        prefix = IPv6Network(self._plan.prefix64)
        return replace(entry, address6=str(prefix[int(IPv4Address(entry.address))]))

    def _answer(self, asked: dns.message.Message, entry: Entry) -> dns.message.Message:
        answer = dns.message.make_response(asked, recursion_available=True, our_payload=MAX_UDP)
        wanted = asked.question[0]
        if asked.opcode() != dns.opcode.QUERY:
            answer.set_rcode(dns.rcode.NOTIMP)
        elif entry.mode is Mode.FAILING:
            answer.set_rcode(dns.rcode.SERVFAIL)
        elif wanted.rdclass != dns.rdataclass.IN or not wanted.name.is_subdomain(_APEX):
            answer.set_rcode(dns.rcode.REFUSED)
        else:
            self._tell(answer, wanted, entry)
        return answer

    def _tell(self, answer: dns.message.Message, wanted: dns.rrset.RRset, entry: Entry) -> None:
        answer.flags |= dns.flags.AA
        records = self._records(wanted, entry)
        if records:
            kind = wanted.rdtype
            answer.answer.append(dns.rrset.from_text(wanted.name, TTL, dns.rdataclass.IN, kind, *records))
            return
        known = entry.name in self._entries or entry.mode is Mode.LYING or wanted.name == _APEX
        answer.set_rcode(dns.rcode.NOERROR if known else dns.rcode.NXDOMAIN)
        # RFC 2308: the SOA tells for how long there is nothing.
        answer.authority.append(dns.rrset.from_text(_APEX, TTL, dns.rdataclass.IN, dns.rdatatype.SOA, _soa()))

    def _records(self, wanted: dns.rrset.RRset, entry: Entry) -> list[str]:
        prefixed = wanted.name.labels[0].lower() == b"_dnsaddr"
        if wanted.name == _APEX:
            return [_soa()] if wanted.rdtype == dns.rdatatype.SOA else []
        if wanted.rdtype == dns.rdatatype.TXT and prefixed:
            return [f'"dnsaddr={addr}"' for addr in entry.dnsaddr]
        if wanted.rdtype == dns.rdatatype.A and not prefixed and entry.address is not None:
            return [entry.address]
        if wanted.rdtype == dns.rdatatype.AAAA and not prefixed and entry.address6 is not None:
            return [entry.address6]
        return []


def _soa() -> str:
    return f"dns.{ZONE}. nobody.{ZONE}. 1 3600 600 86400 {TTL}"
