"""Rule sets, read as text: what each behaviour changes in them, and what it must not change."""

from __future__ import annotations

import itertools
import re

import pytest

from lab.model.nat import Filtering, Mapping, Nat, Ports
from lab.plan.ruleset import MAPPINGS, POOL, POOL_BASES, ruleset

GRID = [Nat(*values) for values in itertools.product(Mapping, Filtering, Ports, (False, True))]
WAN = "11.0.7.2"
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


def name_of(nat: Nat) -> str:
    return "/".join((nat.mapping.value, nat.filtering.value, nat.ports.value, "hairpin" if nat.hairpin else ""))


def chain(text: str, name: str) -> list[str]:
    match = re.search(rf"^  chain {name} {{\n(.*?)^  }}", text, re.MULTILINE | re.DOTALL)
    assert match, name
    return [line.strip() for line in match[1].splitlines()]


every_nat = pytest.mark.parametrize("nat", GRID, ids=name_of)


@every_nat
def test_the_mapping_is_the_length_of_the_key(nat: Nat) -> None:
    text = ruleset(nat, WAN, 40000)
    for proto in ("udp", "tcp"):
        [key] = re.findall(rf"map out_{proto} {{ type (.*?) :", text)
        assert len(key.split(" . ")) == KEY_PARTS[nat.mapping]
        lookups = re.findall(rf"snat to {WAN} : (ip saddr . .*) map @out_{proto}", text)
        updates = re.findall(rf"update @out_{proto} {{ (.*) : {proto} sport }}", text)
        for used in (*lookups, *updates):
            assert len(used.split(" . ")) == KEY_PARTS[nat.mapping]
        assert len(lookups) == 1
        assert len(updates) == (2 if nat.mapping is Mapping.ENDPOINT_INDEPENDENT else 1)


@every_nat
def test_the_filtering_is_the_permission(nat: Nat) -> None:
    text = ruleset(nat, WAN, 40000)
    parts = PERMISSION_PARTS[nat.filtering]
    assert ("@perm_udp" in text) == (parts > 0)
    for proto in ("udp", "tcp"):
        checks = re.findall(rf"meta l4proto {proto} (\S.*) @perm_{proto} dnat", text)
        records = re.findall(rf"update @perm_{proto} {{ (.*) }}", text)
        assert [len(used.split(" . ")) for used in (*checks, *records)] == ([parts] * 3 if parts else [])


@every_nat
def test_udp_and_tcp_differ_in_nothing_but_the_first_segment_and_the_lifetime(nat: Nat) -> None:
    text = ruleset(nat, WAN, 40000)
    udp = sorted(line.strip() for line in text.splitlines() if "udp" in line and "{ udp, tcp }" not in line)
    tcp = sorted(line.strip() for line in text.splitlines() if "tcp" in line and "{ udp, tcp }" not in line)
    syn = "tcp flags & (syn|ack|rst|fin) == syn "
    plain = [line.replace(syn, "").replace("7440s", "30s").replace("tcp", "udp") for line in tcp]
    assert [line for line in udp if "map pool" not in line] == sorted(plain)


@every_nat
def test_only_a_hairpinning_nat_takes_packets_from_the_lan_to_itself(nat: Nat) -> None:
    text = ruleset(nat, WAN, 40000)
    brings_back = [line for line in chain(text, "dstnat") if line.startswith(f"iifname lan ip daddr {WAN} ")]
    assert len(brings_back) == (2 if nat.hairpin else 0)
    assert ("iifname lan oifname lan" in text) == nat.hairpin
    checked = [line for line in chain(text, "record") if line.endswith("drop")]
    assert len(checked) == (2 if nat.hairpin and nat.filtering is not Filtering.ENDPOINT_INDEPENDENT else 0)


@every_nat
def test_what_is_not_translated_inward_is_dropped_and_not_refused(nat: Nat) -> None:
    text = ruleset(nat, WAN, 40000)
    assert "iifname wan meta l4proto { udp, tcp } drop" in chain(text, "input")
    assert "iifname wan ct state new ct status & dnat == 0 drop" in chain(text, "forward")
    assert "reject" not in text


@every_nat
def test_mappings_are_recorded_after_translation_and_between_wan_and_lan_only(nat: Nat) -> None:
    record = chain(ruleset(nat, WAN, 40000), "record")
    assert record[0] == "type filter hook postrouting priority 110; policy accept;"
    assert all(re.match(r"iifname (lan|wan) oifname (lan|wan) ", line) for line in record[1:])


@every_nat
def test_a_fresh_draw_of_an_owned_port_is_dropped_before_it_is_recorded(nat: Nat) -> None:
    text = ruleset(nat, WAN, 40000)
    for proto in ("udp", "tcp"):
        assert chain(text, f"rec_{proto}")[0] == f"meta mark 0x1 {proto} sport @used_{proto} counter drop"
        known, mark, *draws = chain(text, f"alloc_{proto}")
        assert known.endswith(f"map @out_{proto}")
        assert mark == "meta mark set 0x1"
        assert len(draws) == (2 if nat.ports is Ports.PRESERVING else 1)


@every_nat
def test_everything_else_leaves_with_the_external_address(nat: Nat) -> None:
    assert chain(ruleset(nat, WAN, 40000), "srcnat")[-1] == f"iifname lan oifname wan snat to {WAN}"


@every_nat
def test_every_dynamic_set_has_a_bound_and_a_lifetime(nat: Nat) -> None:
    declared = re.findall(r"^  (?:map|set) (\w+) { (.*)", ruleset(nat, WAN, 40000), re.MULTILINE)
    for name, rest in declared:
        if name != "pool":
            assert re.search(rf"flags dynamic,timeout; timeout \d+s; size ({MAPPINGS}|{2 * MAPPINGS}); }}", rest)


@pytest.mark.parametrize("base", [POOL_BASES[0], POOL_BASES[-1]])
def test_a_sequential_pool_is_a_run_of_ports(base: int) -> None:
    nat = Nat(Mapping.ENDPOINT_INDEPENDENT, Filtering.ENDPOINT_INDEPENDENT, Ports.SEQUENTIAL)
    pairs = re.findall(r"(\d+) : (\d+)[,; ]", ruleset(nat, WAN, base).split("elements", 1)[1].split("\n")[0])
    assert [(int(index), int(port)) for index, port in pairs] == [(i, base + i) for i in range(POOL)]
    assert base + POOL <= 65536


def test_lifetimes_are_those_of_the_nat() -> None:
    nat = Nat(
        Mapping.ENDPOINT_INDEPENDENT,
        Filtering.ADDRESS_DEPENDENT,
        Ports.RANDOM,
        udp_timeout=5.0,
        tcp_timeout=90.0,
    )
    text = ruleset(nat, WAN, 40000)
    assert set(re.findall(r"_udp { .* timeout (\d+)s", text)) == {"5"}
    assert set(re.findall(r"_tcp { .* timeout (\d+)s", text)) == {"90"}
