"""What a probe saw, and the NAT that this makes it."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.errors import LabError
from lab.model.nat import Filtering, Hairpinning, Mapping, Nat, Pooling, Ports, Unsolicited
from lab.observe.certificate import Certificate, Trap, certificate_from_json, certificate_to_json
from lab.observe.nat import (
    Address,
    Allocation,
    Behaviour,
    Hairpin,
    Knock,
    Observed,
    QueryBehaviour,
    classify,
    classify_filtering,
    classify_hairpin,
    classify_mapping,
    classify_pooling,
    classify_ports,
    classify_query,
    differences,
    expected,
    expected_query,
    query_differences,
)

WAN = "11.0.1.2"
A, B = "11.255.1.1", "11.255.2.1"
REMOTES: tuple[Address, ...] = ((A, 1001), (A, 1002), (B, 1003), (B, 1004))
EIM, ADM, APDM = Mapping
EIF, ADF, APDF = Filtering
GRID = [Nat(*values) for values in itertools.product(Mapping, Filtering, Ports, Hairpinning)]
REFUSING = [Nat(EIM, APDF, Ports.PRESERVING, unsolicited=unsolicited) for unsolicited in Unsolicited]


def mapped(*ports: int) -> tuple[tuple[Address, Address], ...]:
    return tuple((remote, (WAN, port)) for remote, port in zip(REMOTES, ports, strict=True))


def knocks(*fates: Knock) -> tuple[tuple[Address, Knock], ...]:
    return tuple(zip(REMOTES[1:], fates, strict=True))


P, D, R, U = Knock


@pytest.mark.parametrize(
    ("ports", "mapping"),
    [
        ((5000, 5000, 5000, 5000), EIM),
        ((5000, 5000, 6000, 6000), ADM),
        ((5000, 5001, 5002, 5003), APDM),
        ((5000, 31932, 5000, 5000), None),
        ((5000, 5001, 5002, 5002), None),
        ((5000, 5001, 5000, 5001), None),
    ],
)
def test_the_mapping_is_what_remotes_share_a_port(ports: tuple[int, ...], mapping: Mapping | None) -> None:
    assert classify_mapping(mapped(*ports)) is mapping


def test_one_port_at_two_external_addresses_is_not_one_mapping() -> None:
    seen = [(remote, (f"11.0.1.{index}", 5000)) for index, remote in enumerate(REMOTES)]
    assert classify_mapping(seen) is APDM


@pytest.mark.parametrize(
    ("fates", "filtering"),
    [
        ((P, P, P), EIF),
        ((P, D, D), ADF),
        ((D, D, D), APDF),
        ((R, R, R), APDF),
        ((D, P, P), None),
        ((P, P, D), None),
        ((D, D, P), None),
    ],
)
def test_the_filtering_is_who_gets_in(fates: tuple[Knock, ...], filtering: Filtering | None) -> None:
    assert classify_filtering(REMOTES[0], knocks(*fates)) is filtering


INNER = (49201, 33790, 60012, 41555, 38218, 52111)
HOSTS = (0, 0, 0, 1, 0, 0)
RUN = (40000, 40001, 40002, 40003, 40004, 40005)
ANY = (19381, 43754, 1457, 61240, 8886, 30303)
IN_BLOCKS = (1100, 1405, 1231, 1700, 1029, 1530)


def allocated(externals: tuple[int, ...], hosts: tuple[int, ...] = HOSTS) -> tuple[Allocation, ...]:
    return tuple(Allocation(host, i, (WAN, e)) for host, i, e in zip(hosts, INNER, externals, strict=False))


@pytest.mark.parametrize(
    ("externals", "ports"),
    [
        (INNER, Ports.PRESERVING),
        (RUN, Ports.SEQUENTIAL),
        ((41022, 41023, 40000, 40001, 40002, 40003), Ports.SEQUENTIAL),
        ((40000, 40002, 40001, 40003, 40004, 40005), Ports.SEQUENTIAL),
        (ANY, Ports.RANDOM),
        ((19381, 33790, 1457, 61240, 8886, 30303), Ports.RANDOM),
        (IN_BLOCKS, Ports.BLOCK),
        ((1100, 1405, 1231, 1300, 1029, 1530), Ports.RANDOM),
        ((34835, 35091, 35347, 35603, 35859, 36115), None),
        ((40000,) * 6, None),
        ((49201, 33790, 60012, 41555, 7, 8), None),
        ((40000, 40002, 40004, 40006, 5, 7), None),
    ],
)
def test_the_allocation_is_how_fresh_ports_follow(externals: tuple[int, ...], ports: Ports | None) -> None:
    assert classify_ports(allocated(externals)) is ports


def test_a_block_takes_enough_ports_of_one_host_to_be_told() -> None:
    assert classify_ports(allocated(IN_BLOCKS[:4])) is Ports.RANDOM


def test_preserving_nats_differ_in_what_a_taken_port_leads_to() -> None:
    taken = [(WAN, 50000), (WAN, 50001)]
    assert classify_ports(allocated(INNER), taken) is Ports.PRESERVING_THEN_SEQUENTIAL
    assert classify_ports(allocated(INNER), [(WAN, 50000), (WAN, 1234)]) is Ports.PRESERVING
    assert classify_ports(allocated(INNER), taken[:1]) is Ports.PRESERVING


def test_a_hash_gives_the_same_ports_again_but_for_a_collision() -> None:
    assert classify_ports(allocated(ANY), (), allocated(ANY)) is Ports.HASHED
    assert classify_ports(allocated(ANY), (), allocated((*ANY[:5], 999))) is Ports.HASHED
    assert classify_ports(allocated(ANY), (), allocated(tuple(reversed(ANY)))) is Ports.RANDOM


def test_ports_that_lie_together_by_chance_do_not_do_so_again() -> None:
    assert classify_ports(allocated(IN_BLOCKS), (), allocated(IN_BLOCKS)) is Ports.BLOCK
    assert classify_ports(allocated(IN_BLOCKS), (), allocated(ANY)) is Ports.RANDOM


def test_pooling_is_paired_while_every_host_keeps_to_one_address() -> None:
    one, two = (WAN, 1), ("11.0.1.3", 2)
    assert classify_pooling([Allocation(0, 1, one), Allocation(1, 1, two)]) is Pooling.PAIRED
    assert classify_pooling([Allocation(0, 1, one), Allocation(0, 2, two)]) is Pooling.ARBITRARY


def test_runs_of_two_addresses_are_sequential_each_for_itself() -> None:
    pairs = zip((WAN, "11.0.1.3") * 3, (40000, 50000, 40001, 50001, 40002, 50002), strict=True)
    found = [Allocation(0, inner, external) for inner, external in zip(INNER, pairs, strict=True)]
    assert classify_ports(found) is Ports.SEQUENTIAL


@given(st.lists(st.integers(1024, 65535), min_size=5, max_size=5, unique=True), st.randoms(use_true_random=False))
def test_sequential_ports_are_known_in_whatever_order_they_arrive(inner: list[int], chance: object) -> None:
    run = [700, 701, 702, 703, 704]
    chance.shuffle(run)  # type: ignore[attr-defined]
    found = [Allocation(0, one, (WAN, port)) for one, port in zip(inner, run, strict=True)]
    assert classify_ports(found) is Ports.SEQUENTIAL


def test_a_hairpinned_packet_is_known_by_the_source_it_shows() -> None:
    sender = (WAN, 5000)
    assert classify_hairpin([]) is Hairpin.NONE
    assert classify_hairpin([(sender, sender)]) is Hairpin.EXTERNAL
    assert classify_hairpin([(sender, (WAN, 5001))]) is Hairpin.EXTERNAL_OTHER_PORT
    assert classify_hairpin([(sender, ("192.168.1.10", 5000))]) is Hairpin.INTERNAL
    assert classify_hairpin([(sender, sender), (sender, (WAN, 5001))]) is None


def test_hairpinning_needs_a_filter_that_lets_the_new_port_in_where_mappings_depend_on_the_destination() -> None:
    for nat in GRID:
        hairpin = expected(nat, "UDP").hairpin
        if nat.hairpin is not Hairpinning.EXTERNAL_SOURCE:
            assert hairpin is (Hairpin.INTERNAL if nat.hairpin else Hairpin.NONE)
        elif nat.mapping is EIM:
            assert hairpin is Hairpin.EXTERNAL
        else:
            assert hairpin is (Hairpin.EXTERNAL_OTHER_PORT if nat.filtering is EIF else Hairpin.NONE)


def ideal(nat: Nat) -> Observed:
    """What a NAT of this value shows TCP, by RFC 4787 alone."""
    externals = {
        Ports.PRESERVING: INNER,
        Ports.PRESERVING_THEN_SEQUENTIAL: INNER,
        Ports.SEQUENTIAL: RUN,
        Ports.RANDOM: ANY,
        Ports.HASHED: ANY,
        Ports.BLOCK: IN_BLOCKS,
    }[nat.ports]
    first = externals[0]
    in_run = nat.ports is Ports.PRESERVING_THEN_SEQUENTIAL
    new = (7000, 7001, 7002) if in_run else (7000, 7100, 7002)
    walk = {EIM: (first,) * 4, ADM: (first, first, new[0], new[0]), APDM: (first, *new)}[nat.mapping]
    refusal = {Unsolicited.DROP: D, Unsolicited.RESET: R, Unsolicited.ICMP: U}[nat.unsolicited]
    fates = {EIF: (P, P, P), ADF: (P, refusal, refusal), APDF: (refusal,) * 3}[nat.filtering]
    source: dict[Hairpin | None, Address] = {
        Hairpin.EXTERNAL: (WAN, 5000),
        Hairpin.EXTERNAL_OTHER_PORT: (WAN, 5001),
        Hairpin.INTERNAL: ("192.168.1.10", 5000),
    }
    hairpin = expected(nat, "TCP").hairpin
    taken = (7003, 7004) if in_run else (7205, 7004)
    return Observed(
        mapped=mapped(*walk),
        contacted=REMOTES[0],
        knocks=knocks(*fates),
        allocated=allocated(externals),
        hairpins=(((WAN, 5000), source[hairpin]),) if hairpin in source else (),
        conflicts=tuple(Allocation(1, i, (WAN, port)) for i, port in zip(INNER, taken, strict=False)),
        again=allocated(tuple(reversed(externals)) if nat.ports is Ports.RANDOM else externals),
        stray=refusal,
    )


@pytest.mark.parametrize(
    "nat", [*GRID, *REFUSING], ids=lambda nat: f"{nat.mapping.name}-{nat.filtering.name}-{nat.ports.name}"
)
def test_a_nat_that_does_as_declared_has_no_differences(nat: Nat) -> None:
    assert classify(ideal(nat)) == expected(nat, "TCP")
    assert differences("TCP", nat, ideal(nat)) == ()


@pytest.mark.parametrize("nat", GRID, ids=lambda nat: f"{nat.mapping.name}-{nat.filtering.name}-{nat.ports.name}")
def test_icmp_queries_know_two_mappings_and_all_allocations(nat: Nat) -> None:
    seen = ideal(nat)
    two = Observed(seen.mapped[::2], seen.contacted, (), seen.allocated, (), seen.conflicts, seen.again)
    assert classify_query(two) == expected_query(nat)
    assert query_differences(nat, two) == ()


def test_udp_has_no_reset_and_an_open_host_answers_for_itself() -> None:
    reset = Nat(EIM, APDF, Ports.PRESERVING, unsolicited=Unsolicited.RESET)
    assert expected(reset, "UDP").unsolicited is Unsolicited.DROP
    assert expected(reset, "TCP").unsolicited is Unsolicited.RESET
    bare = Nat(EIM, EIF, Ports.PRESERVING, one_to_one=True)
    assert expected(bare, "UDP").unsolicited is Unsolicited.ICMP
    assert expected(bare, "TCP").unsolicited is Unsolicited.RESET


def test_a_pool_of_which_one_address_is_used_is_a_difference() -> None:
    nat = Nat(EIM, APDF, Ports.PRESERVING, public_addresses=2)
    assert differences("UDP", nat, ideal(nat)) == ("UDP leaves from 1 public addresses, not from 2",)


@settings(max_examples=100)
@given(st.sampled_from(GRID), st.sampled_from(GRID))
def test_every_aspect_in_which_two_nats_differ_is_told(declared: Nat, real: Nat) -> None:
    found = differences("TCP", declared, ideal(real))
    aspects = ("mapping", "filtering", "ports", "hairpin")
    wanted, seen = expected(declared, "TCP"), expected(real, "TCP")
    unlike = {a for a in aspects if getattr(wanted, a) is not getattr(seen, a)}
    assert {text.split(":")[0].removeprefix("TCP ") for text in found} == unlike
    assert len(found) == len(unlike)


def test_a_difference_names_both_kinds_and_what_was_seen() -> None:
    full_cone = Nat(EIM, EIF, Ports.PRESERVING)
    (mapping, *_) = differences("UDP", full_cone, ideal(Nat(APDM, APDF, Ports.RANDOM)))
    assert mapping == (
        "UDP mapping: declared endpoint-independent, measured address-and-port-dependent "
        "(11.255.1.1:1001 saw port 19381, 11.255.1.1:1002 saw port 7000, "
        "11.255.2.1:1003 saw port 7100, 11.255.2.1:1004 saw port 7002)"
    )


def test_a_refused_knock_is_a_difference_although_nothing_got_in() -> None:
    nat = Nat(EIM, APDF, Ports.PRESERVING)
    fine = ideal(nat)
    refused = replace(fine, knocks=knocks(D, R, D))
    assert differences("TCP", nat, refused) == ("TCP that the filter does not let in is refused instead of dropped",)


behaviours = st.builds(
    Behaviour,
    st.none() | st.sampled_from(Mapping),
    st.none() | st.sampled_from(Filtering),
    st.none() | st.sampled_from(Ports),
    st.none() | st.sampled_from(Hairpin),
    st.none() | st.sampled_from(Unsolicited),
    st.none() | st.sampled_from(Pooling),
)
queries = st.builds(QueryBehaviour, st.none() | st.sampled_from(Mapping), st.none() | st.sampled_from(Ports))
certificates = st.builds(
    Certificate,
    router=st.text(),
    declared=st.sampled_from(GRID),
    udp=st.none() | behaviours,
    tcp=st.none() | behaviours,
    icmp=st.none() | queries,
    traps=st.lists(st.builds(Trap, st.text(), st.booleans(), st.text()), max_size=3).map(tuple),
    differences=st.lists(st.text(), max_size=3).map(tuple),
    seconds=st.floats(0, 100),
)


@settings(max_examples=100)
@given(certificates)
def test_a_certificate_survives_json(certificate: Certificate) -> None:
    assert certificate_from_json(json.loads(json.dumps(certificate_to_json(certificate)))) == certificate


@settings(max_examples=100)
@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_what_is_no_certificate_is_refused_with_a_lab_error(value: object) -> None:
    with pytest.raises(LabError, match="not a NAT certificate"):
        certificate_from_json(value)


def test_a_certificate_without_a_measurement_is_not_ok() -> None:
    measured, query = expected(GRID[0], "TCP"), expected_query(GRID[0])
    assert Certificate("home-a", GRID[0], measured, measured, query, (), (), 0.1).ok
    assert not Certificate("home-a", GRID[0], measured, None, query, (), (), 0.1).ok
    assert not Certificate("home-a", GRID[0], measured, measured, None, (), (), 0.1).ok
    assert not Certificate("home-a", GRID[0], measured, measured, query, (), ("UDP mapping: …",), 0.1).ok
