"""The lab's name server as bytes in and bytes out, and what a topology may say of it."""

from __future__ import annotations

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.errors import TopologyError
from lab.model.topology import Topology, load, parse
from lab.plan.build import build
from lab.plan.codec import plan_from_json, plan_to_json
from lab.plan.zone import NAME_SERVER, NAME_SERVER6, DnsPlan
from lab.run.library import OURS
from lab.services.authority import MAX_UDP, Authority, Reply

HOMES = """name = "homes"
[router.home]
nat = "home"
[peer.relay]
at = "internet"
role = "relay"
[peer.alice]
at = "home"
"""
GONE = "/dns4/relay.lab/tcp/9/p2p/12D3KooWGone"


def topology(dns: str) -> Topology:
    return parse(HOMES + dns, "homes.toml")


def plan_of(dns: str) -> DnsPlan:
    plan = build(topology(dns), seed=1).dns
    assert plan is not None
    return plan


def ask(authority: Authority, name: str, kind: str, *, by_tcp: bool = True) -> tuple[Reply, dns.message.Message]:
    reply = authority.reply(dns.message.make_query(name, kind).to_wire(), by_tcp=by_tcp)
    assert reply is not None
    assert reply.wire is not None
    return reply, dns.message.from_wire(reply.wire)


def texts(authority: Authority, name: str) -> list[str]:
    _, answer = ask(authority, name, "TXT")
    return [text.decode() for rrset in answer.answer for record in rrset for text in record.strings]


def addresses(authority: Authority, name: str, kind: str = "A") -> list[str]:
    _, answer = ask(authority, name, kind)
    return [record.address for rrset in answer.answer for record in rrset]


def test_every_peer_and_router_has_the_address_that_the_internet_sees() -> None:
    authority = Authority(plan_of("[dns]"))
    assert addresses(authority, "relay.lab") == ["11.0.2.2"]
    assert addresses(authority, "home.lab") == addresses(authority, "alice.lab") == ["11.0.1.2"]
    assert addresses(authority, "Relay.LAB.") == ["11.0.2.2"]


def test_a_dnsaddr_holds_peers_once_they_are_ready_and_multiaddrs_at_once() -> None:
    authority = Authority(plan_of(f'[dns.bootstrap]\ndnsaddr = ["relay", "alice", "{GONE}"]\n'))
    assert texts(authority, "_dnsaddr.bootstrap.lab") == [f"dnsaddr={GONE}"]
    authority.learn("relay", "12D3KooWRelay")
    assert texts(authority, "_dnsaddr.bootstrap.lab") == [
        "dnsaddr=/ip4/11.0.2.2/tcp/4001/p2p/12D3KooWRelay",
        f"dnsaddr={GONE}",
    ]
    assert texts(authority, "_dnsaddr.relay.lab") == ["dnsaddr=/ip4/11.0.2.2/tcp/4001/p2p/12D3KooWRelay"]
    assert texts(authority, "bootstrap.lab") == []


def test_a_name_that_is_not_there_is_told_from_a_record_that_is_not() -> None:
    authority = Authority(plan_of("[dns]"))
    reply, answer = ask(authority, "nobody.lab", "A")
    assert (reply.outcome, answer.rcode()) == ("NXDOMAIN", dns.rcode.NXDOMAIN)
    _, answer = ask(authority, "relay.lab", "AAAA")
    assert answer.rcode() == dns.rcode.NOERROR
    assert [rrset.rdtype for rrset in answer.authority] == [dns.rdatatype.SOA]
    _, answer = ask(authority, "example.org", "A")
    assert answer.rcode() == dns.rcode.REFUSED
    assert answer.flags & dns.flags.RA


@pytest.mark.parametrize(
    ("dns_table", "name", "outcome"),
    [
        ('[dns]\nmode = "failing"', "relay.lab", "SERVFAIL"),
        ('[dns.relay]\nmode = "failing"', "relay.lab", "SERVFAIL"),
        ('[dns.relay]\nmode = "failing"', "home.lab", "NOERROR"),
        ('[dns]\nmode = "failing"\n[dns.relay]\nmode = "honest"', "relay.lab", "NOERROR"),
        ('[dns]\nmode = "failing"', "nobody.lab", "SERVFAIL"),
    ],
)
def test_a_mode_is_the_servers_unless_a_name_has_its_own(dns_table: str, name: str, outcome: str) -> None:
    reply, _ = ask(Authority(plan_of(dns_table)), name, "A")
    assert reply.outcome == outcome


def test_a_dead_name_gets_silence_and_a_slow_one_waits() -> None:
    authority = Authority(plan_of('[dns]\nmode = "dead"\n[dns.relay]\nmode = "slow"\ndelay = "1500ms"'))
    silence = authority.reply(dns.message.make_query("alice.lab", "A").to_wire(), by_tcp=False)
    assert silence == Reply("alice.lab", "A", "silence", None, 0.0)
    assert ask(authority, "relay.lab", "A")[0].delay == 1.5


def test_a_liar_gives_its_own_address_and_leaves_the_peer_id() -> None:
    authority = Authority(plan_of(f'[dns]\nmode = "lying"\n[dns.bootstrap]\ndnsaddr = ["relay", "{GONE}"]\n'))
    authority.learn("relay", "12D3KooWRelay")
    assert addresses(authority, "relay.lab") == addresses(authority, "nobody.lab") == [NAME_SERVER]
    assert texts(authority, "_dnsaddr.bootstrap.lab") == [
        f"dnsaddr=/ip4/{NAME_SERVER}/tcp/4001/p2p/12D3KooWRelay",
        f"dnsaddr=/ip4/{NAME_SERVER}/tcp/9/p2p/12D3KooWGone",
    ]


def test_what_does_not_fit_a_datagram_is_truncated_and_whole_by_tcp() -> None:
    many = ", ".join(f'"/ip4/11.9.0.{number}/tcp/4001/p2p/{"Q" * 46}"' for number in range(60))
    authority = Authority(plan_of(f"[dns.bootstrap]\ndnsaddr = [{many}]\n"))
    reply, answer = ask(authority, "_dnsaddr.bootstrap.lab", "TXT", by_tcp=False)
    assert answer.flags & dns.flags.TC
    assert len(reply.wire or b"") <= MAX_UDP
    assert len(texts(authority, "_dnsaddr.bootstrap.lab")) == 60


@settings(max_examples=200)
@given(st.binary(max_size=80))
def test_random_bytes_get_no_answer_or_a_message(data: bytes) -> None:
    reply = Authority(plan_of("[dns]")).reply(data, by_tcp=False)
    assert reply is None or dns.message.from_wire(reply.wire or b"")


@pytest.mark.parametrize(
    ("ip", "ipv4", "ipv6", "servers"),
    [
        ("ipv4", ["11.0.1.2"], [], (NAME_SERVER,)),
        ("dual-stack", ["11.0.1.2"], ["2a11:0:1::2"], (NAME_SERVER, NAME_SERVER6)),
        ("ipv6", [], ["2a11:0:1::2"], (NAME_SERVER6,)),
    ],
)
def test_a_name_has_an_address_of_every_version_that_its_peer_has(
    ip: str, ipv4: list[str], ipv6: list[str], servers: tuple[str, ...]
) -> None:
    text = f'name = "x"\nip = "{ip}"\n[peer.relay]\nat = "internet"\n[dns]\n'
    text += '[dns.liar]\naddress = "relay"\nmode = "lying"\n'
    plan = build(parse(text, "x.toml"), seed=1).dns
    assert plan is not None
    assert plan.addresses == servers
    authority = Authority(plan)
    assert (addresses(authority, "relay.lab"), addresses(authority, "relay.lab", "AAAA")) == (ipv4, ipv6)
    lies = (*addresses(authority, "liar.lab"), *addresses(authority, "liar.lab", "AAAA"))
    assert lies == servers


def test_only_who_asks_by_ipv6_is_told_of_ipv4_by_the_prefix_and_only_where_there_is_no_ipv6() -> None:
    plan = build(load(OURS / "ipv6-only-nat64.toml"), seed=1).dns
    assert plan is not None
    authority = Authority(plan)

    def told(name: str, *, by_ipv6: bool) -> list[str]:
        query = dns.message.make_query(name, "AAAA").to_wire()
        reply = authority.reply(query, by_tcp=False, by_ipv6=by_ipv6)
        assert reply is not None
        assert reply.wire is not None
        return [item.to_text() for rrset in dns.message.from_wire(reply.wire).answer for item in rrset]

    assert told("server.lab", by_ipv6=True) == ["64:ff9b::b00:202"]
    assert told("server.lab", by_ipv6=False) == []
    assert told("phone.lab", by_ipv6=True) == told("phone.lab", by_ipv6=False) == ["2a11:1:1::12"]
    assert told("nobody.lab", by_ipv6=True) == []


def test_an_answer_is_no_question() -> None:
    authority = Authority(plan_of("[dns]"))
    reply, _ = ask(authority, "relay.lab", "A")
    assert authority.reply(reply.wire or b"", by_tcp=False) is None


def test_a_plan_with_a_name_server_reads_back_from_its_json() -> None:
    plan = build(topology(f'[dns.bootstrap]\ndnsaddr = ["{GONE}"]\nmode = "slow"\n'), seed=3)
    assert plan_from_json(plan_to_json(plan)) == plan


@pytest.mark.parametrize(
    ("dns_table", "complaint"),
    [
        ('[dns]\nmod = "slow"', r"homes.toml:10: \[dns\] mod = 'slow': unknown key.*did you mean 'mode'"),
        ('[dns]\nmode = "late"', r"homes.toml:10: \[dns\] mode = 'late': not known.*allowed: honest, slow, dead"),
        ('[dns]\ndelay = "2min"', r"\[dns\] delay = '2min': not a duration"),
        ('[dns]\ndelay = "2m"', r"\[dns\] delay = '2m': allowed: up to 1m"),
        ("[dns.Boot]", r"homes.toml:9: \[dns.Boot\] a name has 1 to 63 lower-case letters"),
        ('[dns.boot]\ndnsaddr = "relay"', r"\[dns.boot\] dnsaddr = 'relay': must be a list"),
        (
            '[dns.boot]\ndnsaddr = ["rely"]',
            r"homes.toml:10: \[dns.boot\] .*'rely' is no peer \(did you mean 'relay'\?\)",
        ),
        ("[dns.boot]\ndnsaddr = [1]", r"holds something that is not text"),
        (f'[dns.boot]\ndnsaddr = ["/ip4/{"1" * 300}"]', r"holds an address of 305 bytes; allowed: 247"),
        ('[dns.boot]\naddress = "hom"', r"address = 'hom': no such peer or router \(did you mean 'home'\?\)"),
    ],
)
def test_what_a_name_service_cannot_be_is_refused_with_its_place(dns_table: str, complaint: str) -> None:
    with pytest.raises(TopologyError, match=complaint):
        topology(dns_table)
