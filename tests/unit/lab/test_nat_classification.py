"""What a probe saw, and the NAT that this makes it."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.errors import LabError
from lab.model.nat import Filtering, Mapping, Nat, Ports
from lab.observe.nat import (
    Address,
    Behaviour,
    Certificate,
    Hairpin,
    Knock,
    Observed,
    Trap,
    certificate_from_json,
    certificate_to_json,
    classify,
    classify_filtering,
    classify_hairpin,
    classify_mapping,
    classify_ports,
    differences,
    expected,
)

WAN = "11.0.1.2"
A, B = "11.255.1.1", "11.255.2.1"
REMOTES: tuple[Address, ...] = ((A, 1001), (A, 1002), (B, 1003), (B, 1004))
EIM, ADM, APDM = Mapping
EIF, ADF, APDF = Filtering
GRID = [Nat(*values) for values in itertools.product(Mapping, Filtering, Ports, (False, True))]


def mapped(*ports: int) -> tuple[tuple[Address, Address], ...]:
    return tuple((remote, (WAN, port)) for remote, port in zip(REMOTES, ports, strict=True))


def knocks(*fates: Knock) -> tuple[tuple[Address, Knock], ...]:
    return tuple(zip(REMOTES[1:], fates, strict=True))


P, D, R = Knock.PASSED, Knock.DROPPED, Knock.REFUSED


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


INNER = (49201, 33790, 60012, 41555, 38218)


@pytest.mark.parametrize(
    ("externals", "ports"),
    [
        (INNER, Ports.PRESERVING),
        ((40000, 40001, 40002, 40003, 40004), Ports.SEQUENTIAL),
        ((41022, 41023, 40000, 40001, 40002), Ports.SEQUENTIAL),
        ((40000, 40002, 40001, 40003, 40004), Ports.SEQUENTIAL),
        ((19381, 43754, 1457, 61240, 8886), Ports.RANDOM),
        ((19381, 33790, 1457, 61240, 8886), Ports.RANDOM),
        ((34835, 35091, 35347, 35603, 35859), None),
        ((40000, 40000, 40000, 40000, 40000), None),
        ((49201, 33790, 60012, 41555, 7), None),
        ((40000, 40002, 40004, 40006, 5), None),
    ],
)
def test_the_allocation_is_how_fresh_ports_follow(externals: tuple[int, ...], ports: Ports | None) -> None:
    assert classify_ports(tuple(zip(INNER, externals, strict=True))) is ports


@given(st.lists(st.integers(1024, 65535), min_size=5, max_size=5, unique=True), st.randoms(use_true_random=False))
def test_sequential_ports_are_known_in_whatever_order_they_arrive(inner: list[int], chance: object) -> None:
    run = [700, 701, 702, 703, 704]
    chance.shuffle(run)  # type: ignore[attr-defined]
    assert classify_ports(tuple(zip(inner, run, strict=True))) is Ports.SEQUENTIAL


def test_a_hairpinned_packet_is_known_by_the_source_it_shows() -> None:
    sender = (WAN, 5000)
    assert classify_hairpin([]) is Hairpin.NONE
    assert classify_hairpin([(sender, sender)]) is Hairpin.EXTERNAL
    assert classify_hairpin([(sender, (WAN, 5001))]) is Hairpin.EXTERNAL_OTHER_PORT
    assert classify_hairpin([(sender, ("192.168.1.10", 5000))]) is Hairpin.INTERNAL
    assert classify_hairpin([(sender, sender), (sender, (WAN, 5001))]) is None


def test_hairpinning_needs_a_filter_that_lets_the_new_port_in_where_mappings_depend_on_the_destination() -> None:
    for nat in GRID:
        hairpin = expected(nat).hairpin
        if not nat.hairpin:
            assert hairpin is Hairpin.NONE
        elif nat.mapping is EIM:
            assert hairpin is Hairpin.EXTERNAL
        else:
            assert hairpin is (Hairpin.EXTERNAL_OTHER_PORT if nat.filtering is EIF else Hairpin.NONE)


def ideal(nat: Nat) -> Observed:
    """What a NAT of this value shows, by RFC 4787 alone."""
    allocated = {
        Ports.PRESERVING: INNER,
        Ports.SEQUENTIAL: (40000, 40001, 40002, 40003, 40004),
        Ports.RANDOM: (19381, 43754, 1457, 61240, 8886),
    }[nat.ports]
    first = allocated[0]
    walk = {EIM: (first,) * 4, ADM: (first, first, 7000, 7000), APDM: (first, 7000, 7001, 7002)}[nat.mapping]
    fates = {EIF: (P, P, P), ADF: (P, D, D), APDF: (D, D, D)}[nat.filtering]
    source = {Hairpin.EXTERNAL: 5000, Hairpin.EXTERNAL_OTHER_PORT: 5001}.get(expected(nat).hairpin or Hairpin.NONE)
    return Observed(
        mapped=mapped(*walk),
        contacted=REMOTES[0],
        knocks=knocks(*fates),
        allocated=tuple(zip(INNER, allocated, strict=True)),
        hairpins=(((WAN, 5000), (WAN, source)),) if source else (),
    )


@pytest.mark.parametrize("nat", GRID, ids=lambda nat: f"{nat.mapping.name}-{nat.filtering.name}-{nat.ports.name}")
def test_a_nat_that_does_as_declared_has_no_differences(nat: Nat) -> None:
    assert classify(ideal(nat)) == expected(nat)
    assert differences("UDP", nat, ideal(nat)) == ()


@settings(max_examples=100)
@given(st.sampled_from(GRID), st.sampled_from(GRID))
def test_every_aspect_in_which_two_nats_differ_is_told(declared: Nat, real: Nat) -> None:
    found = differences("TCP", declared, ideal(real))
    aspects = ("mapping", "filtering", "ports", "hairpin")
    unlike = {a for a in aspects if getattr(expected(declared), a) is not getattr(expected(real), a)}
    assert {text.split(":")[0].removeprefix("TCP ") for text in found} == unlike
    assert len(found) == len(unlike)


def test_a_difference_names_both_kinds_and_what_was_seen() -> None:
    full_cone = Nat(EIM, EIF, Ports.PRESERVING)
    (mapping, *_) = differences("UDP", full_cone, ideal(Nat(APDM, APDF, Ports.RANDOM)))
    assert mapping == (
        "UDP mapping: declared endpoint-independent, measured address-and-port-dependent "
        "(11.255.1.1:1001 saw port 19381, 11.255.1.1:1002 saw port 7000, "
        "11.255.2.1:1003 saw port 7001, 11.255.2.1:1004 saw port 7002)"
    )


def test_a_refused_knock_is_a_difference_although_nothing_got_in() -> None:
    nat = Nat(EIM, APDF, Ports.PRESERVING)
    fine = ideal(nat)
    refused = Observed(fine.mapped, fine.contacted, knocks(D, R, D), fine.allocated, fine.hairpins)
    assert differences("TCP", nat, refused) == ("TCP that the filter does not let in is refused instead of dropped",)


behaviours = st.builds(
    Behaviour,
    st.none() | st.sampled_from(Mapping),
    st.none() | st.sampled_from(Filtering),
    st.none() | st.sampled_from(Ports),
    st.none() | st.sampled_from(Hairpin),
)
certificates = st.builds(
    Certificate,
    router=st.text(),
    declared=st.sampled_from(GRID),
    udp=st.none() | behaviours,
    tcp=st.none() | behaviours,
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
    measured = expected(GRID[0])
    assert Certificate("home-a", GRID[0], measured, measured, (), (), 0.1).ok
    assert not Certificate("home-a", GRID[0], measured, None, (), (), 0.1).ok
    assert not Certificate("home-a", GRID[0], measured, measured, (), ("UDP mapping: …",), 0.1).ok
