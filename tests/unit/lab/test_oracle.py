"""The oracle against the measured truth tables, and its sentences."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from lab.model.classical import CLASSICAL, cell_topology
from lab.model.nat import Filtering, Hairpinning, Mapping, Nat, Pooling, Ports
from lab.model.punch import can_hairpin, can_punch
from lab.run.oracle import Prediction, Side, predict, side_of

# Measured with a UDP punch without port prediction and with a TCP simultaneous open: the same for both.
MEASURED = {
    "full-cone": "11111",
    "address-restricted": "11111",
    "port-restricted": "11100",
    "symmetric-sequential": "11000",
    "symmetric-random": "11000",
}

EI, AD, APD = Mapping
F_EI, F_AD, F_APD = Filtering
KINDS = {
    "EIM/EIF": (EI, F_EI, Ports.PRESERVING),
    "EIM/ADF": (EI, F_AD, Ports.PRESERVING),
    "EIM/APDF": (EI, F_APD, Ports.PRESERVING),
    "EIMrnd/APDF": (EI, F_APD, Ports.RANDOM),
    "ADM/ADF": (AD, F_AD, Ports.PRESERVING),
    "APDMseq/APDF": (APD, F_APD, Ports.SEQUENTIAL),
    "APDMrnd/APDF": (APD, F_APD, Ports.RANDOM),
    "APDMrnd/EIF": (APD, F_EI, Ports.RANDOM),
}
# Measured likewise, rows and columns in the order of KINDS.
WIDER = ("11111111", "11111111", "11110001", "11110001", "11000001", "11000001", "11000001", "11111111")

# Two hosts behind one NAT that hairpins, measured for UDP and TCP: columns EIF, ADF, APDF.
HAIRPINNED = {EI: "111", AD: "100", APD: "100"}


def predicted(dialer: str, listener: str, transport: str = "tcp") -> Prediction:
    topology = cell_topology(dialer, listener)
    return predict(side_of(topology, "alice"), side_of(topology, "bob"), transport)


@pytest.mark.parametrize("transport", ["tcp", "udp"])
@pytest.mark.parametrize("dialer", CLASSICAL)
def test_the_classical_cells_are_predicted_as_they_were_measured(dialer: str, transport: str) -> None:
    row = "".join("1" if predicted(dialer, listener, transport).path == "direct" else "0" for listener in CLASSICAL)
    assert row == MEASURED[dialer]


def test_the_wider_table_is_predicted_as_it_was_measured() -> None:
    nats = [Nat(*values) for values in KINDS.values()]
    assert tuple("".join("01"[can_punch(one, other)] for other in nats) for one in nats) == WIDER


@pytest.mark.parametrize("mapping", list(Mapping))
def test_hairpinning_is_predicted_as_it_was_measured(mapping: Mapping) -> None:
    row = (
        can_hairpin(Nat(mapping, filtering, Ports.PRESERVING, Hairpinning.EXTERNAL_SOURCE)) for filtering in Filtering
    )
    assert "".join("01"[direct] for direct in row) == HAIRPINNED[mapping]


def test_who_dials_does_not_matter() -> None:
    for one, other in itertools.combinations(CLASSICAL, 2):
        assert predicted(one, other).path == predicted(other, one).path


def test_a_public_side_is_always_direct() -> None:
    public = Side("relay", None, None)
    for name in CLASSICAL:
        hidden = side_of(cell_topology(name, name), "bob")
        assert predict(public, hidden, "tcp").path == "direct"
        assert predict(hidden, public, "tcp").path == "direct"
    assert predict(public, public, "udp").path == "direct"


@pytest.mark.parametrize(
    ("nat", "path"),
    [
        (Nat(EI, F_APD, Ports.PRESERVING, Hairpinning.EXTERNAL_SOURCE), "direct"),
        (Nat(EI, F_APD, Ports.PRESERVING), "relayed"),
        (Nat(EI, F_EI, Ports.PRESERVING), "relayed"),
        (Nat(APD, F_EI, Ports.RANDOM, Hairpinning.EXTERNAL_SOURCE), "direct"),
        (Nat(APD, F_APD, Ports.RANDOM, Hairpinning.EXTERNAL_SOURCE), "relayed"),
    ],
)
def test_behind_one_router_the_hairpin_decides(nat: Nat, path: str) -> None:
    prediction = predict(Side("alice", "home", nat), Side("bob", "home", nat), "tcp")
    assert prediction.path == path
    assert "behind home" in prediction.why


@pytest.mark.parametrize(
    ("dialer", "listener", "why"),
    [
        ("symmetric-random", "home", "home-b lets in only whom it has written to, and home-a uses a new port"),
        ("home", "symmetric-random", "home-a lets in only whom it has written to, and home-b uses a new port"),
        ("symmetric-random", "symmetric-sequential", "home-a and home-b both use a new port for every destination"),
        ("home", "home", "home-a and home-b keep one port for all destinations"),
        ("symmetric", "full-cone", "home-b lets in anybody"),
        ("full-cone", "symmetric", "home-a lets in anybody"),
        ("symmetric", "address-restricted", "lets in every port of an address it has written to"),
    ],
)
def test_the_reason_names_the_nats_and_what_they_do(dialer: str, listener: str, why: str) -> None:
    assert why in predicted(dialer, listener).why


def test_every_pair_of_nats_has_a_one_line_reason() -> None:
    grid = [Nat(*values) for values in itertools.product(Mapping, Filtering, Ports, Hairpinning)]
    for one, other in itertools.product(grid, grid):
        for router in ("home-a", "home-b"):
            nat = one if router == "home-a" else other
            prediction = predict(Side("alice", "home-a", one), Side("bob", router, nat), "udp")
            assert prediction.why
            assert "\n" not in prediction.why


def test_a_transport_without_a_theory_is_refused() -> None:
    with pytest.raises(ValueError, match="tcp, udp"):
        predicted("home", "home", "carrier-pigeon")


def test_an_answer_past_the_nat_is_good_for_a_datagram_and_not_for_a_connection() -> None:
    nat = Nat(EI, F_APD, Ports.PRESERVING, Hairpinning.INTERNAL_SOURCE)
    alice, bob = Side("alice", "home", nat), Side("bob", "home", nat)
    assert predict(alice, bob, "udp").path == "direct"
    assert predict(alice, bob, "tcp").path == "relayed"


def test_a_pool_that_gives_any_address_makes_an_address_worth_nothing() -> None:
    paired = Nat(APD, F_APD, Ports.RANDOM, public_addresses=2)
    arbitrary = replace(paired, pooling=Pooling.ARBITRARY)
    strict = Nat(EI, F_AD, Ports.PRESERVING)
    assert can_punch(strict, paired)
    assert not can_punch(strict, arbitrary)
    assert can_punch(strict, replace(arbitrary, mapping=EI))
