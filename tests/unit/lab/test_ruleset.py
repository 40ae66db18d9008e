"""Rule sets, read as text: what each behaviour changes in them, and what it must not change."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace

import pytest

from lab.errors import TopologyError
from lab.model.grid import grid
from lab.model.nat import BLOCK, Filtering, Hairpinning, Mapping, Nat, Pooling, Ports, Unsolicited
from lab.model.writing import nat_words
from lab.plan.mappings import MAPPINGS, POOL
from lab.plan.ruleset import POOL_BASES, ruleset

GRID = [Nat(*values) for values in itertools.product(Mapping, Filtering, Ports, Hairpinning)]
WAN = "11.0.7.2"
HOSTS = ("192.168.1.10", "192.168.1.11")
KEY_PARTS = {
    Mapping.ENDPOINT_INDEPENDENT: 2,
    Mapping.ADDRESS_DEPENDENT: 3,
    Mapping.ADDRESS_AND_PORT_DEPENDENT: 4,
}
PERMISSION_PARTS = {
    Filtering.ENDPOINT_INDEPENDENT: 0,
    Filtering.ADDRESS_DEPENDENT: 2,
    Filtering.ADDRESS_AND_PORT_DEPENDENT: 3,
}
IN_OTHER_WORDS = (
    (r"\bip (saddr|daddr|to)\b", r"ip6 \1"),
    (r"^table ip ", "table ip6 "),
    ("ipv4_addr", "ipv6_addr"),
    ("l4proto icmp", "l4proto ipv6-icmp"),
    (r"(\bwith |\} |\d |wan )icmp\b", r"\1icmpv6"),
    (r"11\.0\.7\.", "2a11:0:7::"),
    (r"192\.168\.1\.", "fd11::"),
)
OF_ONE_VERSION = re.compile("ct mark|jhash")
"port maps are IPv4's, and a hash over two endpoints of IPv6 takes two steps"


def name_of(nat: Nat) -> str:
    return "/".join((nat.mapping.value, nat.filtering.value, nat.ports.value, nat.hairpin.value))


def of(nat: Nat, *publics: str) -> str:
    return ruleset(nat, publics or (WAN,), HOSTS, "1/home")


def chain(text: str, name: str) -> list[str]:
    match = re.search(rf"^  chain {name} {{\n(.*?)^  }}", text, re.MULTILINE | re.DOTALL)
    assert match, name
    return [line.strip() for line in match[1].splitlines()]


every_nat = pytest.mark.parametrize("nat", GRID, ids=name_of)


@every_nat
def test_the_mapping_is_the_length_of_the_key(nat: Nat) -> None:
    text = of(nat)
    for proto in ("udp", "tcp"):
        [key] = re.findall(rf"map out_{proto} {{ type (.*?) :", text)
        assert len(key.split(" . ")) == KEY_PARTS[nat.mapping]
        lookups = re.findall(rf"snat to {WAN} : (ip saddr . .*) map @out_{proto}", text)
        updates = re.findall(rf"update @out_{proto} {{ (.*?)(?: timeout \d+s)? : .* }}", text)
        for used in (*lookups, *updates):
            assert len(used.split(" . ")) == KEY_PARTS[nat.mapping]
        assert len(lookups) == 1


@every_nat
def test_icmp_queries_have_a_key_without_the_port_that_their_remotes_have_not(nat: Nat) -> None:
    [key] = re.findall(r"map out_icmp { type (.*?) :", of(nat))
    assert len(key.split(" . ")) == min(3, KEY_PARTS[nat.mapping])


@every_nat
def test_the_filtering_is_the_permission(nat: Nat) -> None:
    text = of(nat)
    parts = PERMISSION_PARTS[nat.filtering]
    assert ("@perm_udp" in text) == (parts > 0)
    for proto in ("udp", "tcp"):
        checks = re.findall(rf"meta l4proto {proto} (\S.*) @perm_{proto} dnat", text)
        records = re.findall(rf"update @perm_{proto} {{ (.*?)(?: timeout \d+s)? }}", text)
        assert {len(used.split(" . ")) for used in (*checks, *records)} == ({parts} if parts else set())


@every_nat
def test_udp_and_tcp_differ_in_nothing_but_the_first_segment_the_last_one_and_the_lifetimes(nat: Nat) -> None:
    text = of(replace(nat, udp_timeout=7440.0, udp_new_timeout=240.0))
    lines = [line.strip() for line in text.splitlines() if "{ udp, tcp }" not in line and "map pool" not in line]
    udp = sorted(line for line in lines if "udp" in line and "map slots" not in line)
    tcp = [line for line in lines if "tcp" in line and "tcp flags & (fin|rst)" not in line]
    syn = "tcp flags & (syn|ack|rst|fin) == syn "
    assert udp == sorted(line.replace(syn, "").replace("tcp", "udp") for line in tcp)


@every_nat
def test_only_a_hairpinning_nat_takes_packets_from_the_lan_to_itself(nat: Nat) -> None:
    text = of(nat)
    brings_back = [line for line in chain(text, "dstnat") if line.startswith(f"iifname lan ip daddr {WAN} ")]
    assert len(brings_back) == (2 if nat.hairpin else 0)
    external = nat.hairpin is Hairpinning.EXTERNAL_SOURCE
    assert ("iifname lan oifname lan" in text) == external
    checked = [line for line in chain(text, "record") if line.endswith("drop")]
    assert len(checked) == (2 if external and nat.filtering is not Filtering.ENDPOINT_INDEPENDENT else 0)


@every_nat
def test_what_is_not_translated_inward_is_dropped_and_not_refused(nat: Nat) -> None:
    text = of(nat)
    assert "iifname wan meta l4proto { udp, tcp } drop" in chain(text, "input")
    assert "iifname wan ct state new ct status & dnat == 0 drop" in chain(text, "forward")
    assert "reject" not in text


@pytest.mark.parametrize(
    ("unsolicited", "answer"),
    [
        (Unsolicited.RESET, "meta l4proto tcp reject with tcp reset"),
        (Unsolicited.ICMP, "meta l4proto { udp, tcp } reject with icmp port-unreachable"),
    ],
)
def test_a_nat_that_refuses_does_so_before_it_drops(unsolicited: Unsolicited, answer: str) -> None:
    _, *rules = chain(of(replace(GRID[0], unsolicited=unsolicited)), "input")
    assert rules[0] == f"iifname wan {answer}"
    assert rules[1] == "iifname wan meta l4proto { udp, tcp } drop"


@every_nat
def test_mappings_are_recorded_after_translation_and_between_wan_and_lan_only(nat: Nat) -> None:
    record = chain(of(nat), "record")
    assert record[0] == "type filter hook postrouting priority 110; policy accept;"
    assert all(re.match(r"iifname (lan|wan) oifname (lan|wan) ", line) for line in record[1:])


@every_nat
def test_a_fresh_draw_of_an_owned_port_is_dropped_before_it_is_recorded(nat: Nat) -> None:
    text = of(nat)
    for proto in ("udp", "tcp"):
        records = chain(text, f"rec_{proto}")
        hashed = nat.ports is Ports.HASHED
        assert records[hashed] == f"meta mark 0x1 {proto} sport @used_{proto} counter drop"
        assert ("update @clash" in records[0]) == hashed
        known, mark, *draws = chain(text, f"alloc_{proto}")
        assert known.endswith(f"map @out_{proto}")
        assert mark == "meta mark set 0x1"
        assert len(draws) == (1 if nat.ports in (Ports.SEQUENTIAL, Ports.RANDOM) else 2)


@every_nat
def test_everything_else_leaves_with_the_external_address(nat: Nat) -> None:
    assert chain(of(nat), "srcnat")[-1] == f"iifname lan oifname wan snat to {WAN}"


@every_nat
def test_every_dynamic_set_has_a_bound_and_a_lifetime(nat: Nat) -> None:
    declared = re.findall(r"^  (?:map|set) (\w+) { (.*)", of(nat), re.MULTILINE)
    for name, rest in declared:
        if name not in ("pool", "slots", "blocks"):
            assert re.search(rf"flags dynamic,timeout; timeout \d+s; size ({MAPPINGS}|{2 * MAPPINGS}); }}", rest)


def test_a_sequential_pool_is_a_run_of_ports() -> None:
    nat = Nat(Mapping.ENDPOINT_INDEPENDENT, Filtering.ENDPOINT_INDEPENDENT, Ports.SEQUENTIAL)
    pairs = re.findall(r"(\d+) : (\d+)[,; ]", of(nat).split("elements", 1)[1].split("\n")[0])
    base = int(pairs[0][1])
    assert [(int(index), int(port)) for index, port in pairs] == [(i, base + i) for i in range(POOL)]
    assert base in POOL_BASES
    assert POOL_BASES[-1] + POOL <= 65536


def test_a_hash_follows_from_the_seed_alone() -> None:
    nat = Nat(Mapping.ENDPOINT_INDEPENDENT, Filtering.ENDPOINT_INDEPENDENT, Ports.HASHED)
    assert of(nat) == of(nat)
    assert of(nat) != ruleset(nat, (WAN,), HOSTS, "2/home")


def test_blocks_do_not_overlap_and_latecomers_have_one_of_their_own() -> None:
    nat = Nat(Mapping.ENDPOINT_INDEPENDENT, Filtering.ENDPOINT_INDEPENDENT, Ports.BLOCK)
    hosts = tuple(f"192.168.1.{number}" for number in range(10, 40))
    text = ruleset(nat, (WAN,), hosts, "1/home")
    blocks = sorted((int(first), int(last)) for first, last in re.findall(rf"{WAN} (?:\.|:) (\d+)-(\d+)", text))
    blocks = sorted(set(blocks))
    assert len(blocks) == len(hosts) + 1
    assert all(last - first == BLOCK - 1 for first, last in blocks)
    assert all(one[1] < two[0] for one, two in itertools.pairwise(blocks))


def test_more_subscribers_than_blocks_are_refused_with_the_numbers() -> None:
    nat = Nat(Mapping.ENDPOINT_INDEPENDENT, Filtering.ENDPOINT_INDEPENDENT, Ports.BLOCK, block_size=4096)
    hosts = tuple(f"192.168.1.{number}" for number in range(10, 26))
    with pytest.raises(TopologyError, match="16 subscribers; allowed: 14, for there are 15 blocks of 4096 ports"):
        ruleset(nat, (WAN,), hosts, "1/home")


@pytest.mark.parametrize(
    ("pooling", "choice"),
    [
        (Pooling.PAIRED, "ip saddr vmap { 192.168.1.10 : goto draw_udp_0, 192.168.1.11 : goto draw_udp_1 }"),
        (Pooling.ARBITRARY, "numgen inc mod 2 vmap { 0 : goto draw_udp_0, 1 : goto draw_udp_1 }"),
    ],
)
def test_a_pool_gives_out_its_addresses_as_declared(pooling: Pooling, choice: str) -> None:
    nat = replace(GRID[0], public_addresses=2, pooling=pooling)
    text = of(nat, "11.0.7.2", "11.0.7.3")
    assert choice in chain(text, "alloc_udp")
    for index, address in enumerate(("11.0.7.2", "11.0.7.3")):
        assert all(f"snat to {address} " in rule for rule in chain(text, f"draw_udp_{index}"))


def test_one_to_one_gives_every_host_its_own_address_both_ways() -> None:
    text = of(replace(GRID[0], one_to_one=True), "11.0.7.2", "11.0.7.3")
    for host, public in zip(HOSTS, ("11.0.7.2", "11.0.7.3"), strict=True):
        assert f"iifname wan ip daddr {public} dnat to {host}" in chain(text, "dstnat")
        assert f"iifname lan oifname wan ip saddr {host} snat to {public}" in chain(text, "srcnat")


def test_lifetimes_are_those_of_the_nat() -> None:
    nat = Nat(
        Mapping.ENDPOINT_INDEPENDENT, Filtering.ADDRESS_DEPENDENT, Ports.RANDOM, udp_timeout=5.0, tcp_timeout=90.0
    )
    text = of(nat)
    assert set(re.findall(r"_udp { .* timeout (\d+)s", text)) == {"5"}
    assert set(re.findall(r"_tcp { .* timeout (\d+)s", text)) == {"90"}
    assert "kept" not in text


def test_two_lifetimes_are_told_apart_by_the_flows_own() -> None:
    text = of(replace(GRID[0], udp_new_timeout=10.0, udp_timeout=100.0))
    assert "meta l4proto udp ct expiration > 55000ms update @kept_udp { udp sport }" in chain(text, "rec_udp")
    assert all("timeout 100s" in rule for rule in chain(text, "kept_rec_udp"))


@pytest.mark.parametrize("nat", grid(), ids=nat_words)
def test_a_nat_of_ipv6_has_the_rules_of_ipv4_in_other_words(nat: Nat) -> None:
    count = 2 if nat.one_to_one else nat.public_addresses
    v4 = ruleset(nat, ("11.0.7.2", "11.0.7.3")[:count], HOSTS, "1/home")
    v6 = ruleset(nat, ("2a11:0:7::2", "2a11:0:7::3")[:count], ("fd11::10", "fd11::11"), "1/home")
    for old, new in IN_OTHER_WORDS:
        v4 = re.sub(old, new, v4)
    lines4, lines6 = ([line for line in text.split("\n") if not OF_ONE_VERSION.search(line)] for text in (v4, v6))
    assert lines4 == lines6
