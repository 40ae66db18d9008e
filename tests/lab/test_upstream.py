"""Programs of libp2p's own suites in the lab: our node by each suite's contract, and programs that break it."""

from __future__ import annotations

import asyncio
import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lab.model.upstream import OWN, Case, Suite, Version
from lab.peers.handle import MAX_STDERR
from lab.report.results import Mark
from lab.report.upstream import Outcome
from lab.run.evidence import Evidence
from lab.run.upstream import run_case
from lab.run.upstream_matrix import Order, run_all
from tests.lab.test_resuming import LONG

Inside = Callable[[Callable[[], None]], None]


def run(inside: Inside, order: Order, folder: Path, check: Callable[[Path, tuple[Outcome, ...]], None]) -> None:
    """Run tests in one sandbox, then check what came of them there; slow machines get more time than upstream's."""
    order = replace(order, within=order.within or 200.0)

    def main() -> None:
        check(*asyncio.run(run_all(order, folder, lambda outcome: None)))

    inside(main)


def test_our_node_connects_to_itself_by_both_transport_suites(inside: Inside, tmp_path: Path) -> None:
    old = (
        Case(Suite.TRANSPORT_INTEROP, OWN, OWN, "tcp", "noise", "yamux"),
        Case(Suite.TRANSPORT_INTEROP, OWN, OWN, "ws", "tls", "mplex"),
        Case(Suite.TRANSPORT_INTEROP, OWN, OWN, "quic-v1"),
    )

    def check(folder: Path, outcomes: tuple[Outcome, ...]) -> None:
        for outcome in outcomes:
            assert (outcome.verdict, outcome.passed, outcome.seen) == (Mark.PASSED, True, "direct"), outcome.why
            assert outcome.handshake is not None
            assert outcome.ping is not None
            assert 0 < outcome.ping < outcome.handshake
        rows = list(csv.DictReader((folder / "results.csv").read_text().splitlines()))
        assert [row["outcome"] for row in rows] == ["success"] * 3

    run(inside, Order(Suite.TRANSPORT_INTEROP, old), tmp_path, check)


def test_a_program_with_old_words_is_found_by_one_with_new_ones(inside: Inside, tmp_path: Path) -> None:
    legacy = Version("old", legacy=True)
    case = Case(Suite.TRANSPORT, OWN, legacy, "tcp", "tls", "yamux")

    def check(folder: Path, outcomes: tuple[Outcome, ...]) -> None:
        (outcome,) = outcomes
        assert (outcome.verdict, outcome.passed) == (Mark.PASSED, True), outcome.why
        assert '    status: "pass"' in (folder / "results.yaml").read_text().splitlines()
        said = [json.loads(line) for line in (folder / "cells" / outcome.folder / "events.jsonl").open()]
        (written,) = [event for event in said if event["event"] == "redis"]
        assert (written["who"], written["key"]) == ("listener", f"{case.key}_listener_multiaddr")
        assert written["value"].startswith("/ip4/11.0.2.2/tcp/")

    run(inside, Order(Suite.TRANSPORT, (case,)), tmp_path, check)


def test_our_node_punches_as_hole_punch_interop_asks(inside: Inside, tmp_path: Path) -> None:
    def check(folder: Path, outcomes: tuple[Outcome, ...]) -> None:
        (outcome,) = outcomes
        assert (outcome.verdict, outcome.passed, outcome.seen) == (Mark.PASSED, True, "direct"), outcome.why
        assert outcome.ping is not None
        assert outcome.ping >= 0.2, "two homes of 50 ms each: nothing is nearer"

    run(inside, Order(Suite.HOLE_PUNCH_INTEROP, (Case(Suite.HOLE_PUNCH_INTEROP, OWN, OWN, "tcp"),)), tmp_path, check)


HARD = Case(Suite.HOLE_PUNCH, OWN, OWN, "tcp", "tls", "mplex", nats=("symmetric-random", "symmetric-random"))


@pytest.mark.parametrize(
    ("case", "seen", "passed"),
    [
        (Case(Suite.HOLE_PUNCH, OWN, OWN, "quic-v1"), "direct", True),
        pytest.param(HARD, "relayed", False, marks=LONG),  # three attempts: unit/lab/test_upstream_verdict.py is quick
    ],
    ids=["where there is a hole", "and where there is none, of which upstream knows nothing"],
)
def test_our_node_punches_as_hole_punch_asks(
    inside: Inside, tmp_path: Path, case: Case, seen: str, passed: bool
) -> None:
    def check(folder: Path, outcomes: tuple[Outcome, ...]) -> None:
        (outcome,) = outcomes
        assert (outcome.verdict, outcome.predicted, outcome.seen) == (Mark.PASSED, seen, seen), outcome.why
        assert outcome.passed is passed

    run(inside, Order(Suite.HOLE_PUNCH, (case,)), tmp_path, check)


ASKS = """
import socket
door = socket.create_connection(("redis", 6379))
door.sendall(b"BLPOP listenerAddr 0\\r\\n")
door.recv(100)
"""
RELIEF = "handshakePlusOneRTTMillis"
BAD_DAYS = {
    "crashes": ("echo no such luck >&2; exit 3", "the dialer failed, exit status 3; its stderr ends: no such luck"),
    "floods stderr": (
        "yes | head -c 50000000 >&2; echo no such luck >&2; exit 3",
        "the dialer failed, exit status 3; its stderr ends",
    ),
    "is killed": ("kill -9 $$", "the dialer failed, exit status -9"),
    "leaves a child behind": ("sleep 1000 & exit 4", "the dialer failed, exit status 4"),
    "leaves a daemon behind": (
        "mkfifo away; setsid sh -c 'echo >away; exec sleep 1000' & read x <away; exit 5",
        "the dialer failed, exit status 5",
    ),
    "prints no result": ("echo hello", f"the dialer ended well, but: no JSON object with {RELIEF} and pingRTTMilllis"),
    "claims what was not": (
        f'echo "{{\\"{RELIEF}\\": 1, \\"pingRTTMilllis\\": 1}}"',
        "the dialer reports success, the wire shows no exchange between the two",
    ),
    "prints without end": ("yes & yes", "the dialer failed, for it printed too much"),
}


def program(folder: Path, name: str, text: str, interpreter: str = "/bin/sh") -> Version:
    path = folder / name.replace(" ", "-")
    path.write_text(f"#!{interpreter}\n{text}\n", "utf-8")
    path.chmod(0o755)
    return Version(name, (str(path),))


def test_a_dialer_that_does_not_do_as_it_should_has_failed(inside: Inside, tmp_path: Path) -> None:
    listener = program(tmp_path, "stays", "exec sleep 1000")
    dialers = {name: program(tmp_path, name, text) for name, (text, _) in BAD_DAYS.items()}
    nobody = Version("is not there", (str(tmp_path / "nothing"),))
    cases = [Case(Suite.TRANSPORT_INTEROP, dialer, listener, "quic-v1") for dialer in (*dialers.values(), nobody)]

    def check(folder: Path, outcomes: tuple[Outcome, ...]) -> None:
        *failed, missing = outcomes
        for outcome, (_, why) in zip(failed, BAD_DAYS.values(), strict=True):
            assert (outcome.verdict, outcome.why.startswith(why)) == (Mark.FAILED, True), (outcome.name, outcome.why)
        assert [outcome.passed for outcome in outcomes] == [name == "claims what was not" for name in BAD_DAYS] + [
            False
        ]
        told = [file.stat().st_size for file in (folder / "cells").glob("*/peers/dialer.stderr")]
        assert max(told) <= MAX_STDERR
        assert (missing.verdict, "cannot start" in missing.why) == (Mark.UNSUPPORTED, True), missing.why

    run(inside, Order(Suite.TRANSPORT_INTEROP, tuple(cases), within=60.0, jobs=3), tmp_path, check)


STANDS_STILL = {
    "the listener stays": ("sleep 1000", "the dialer did not end within 8 s"),
    "the listener leaves": ("exit 7", "the listener ended before the dialer, exit status 7"),
}


@pytest.mark.parametrize("how", [pytest.param("the listener stays", marks=LONG), "the listener leaves"])
def test_a_test_that_stands_still_names_the_key_that_nobody_has_written(
    inside: Inside, tmp_path: Path, how: str
) -> None:
    text, why = STANDS_STILL[how]
    dialer = program(tmp_path, "asks", ASKS, "/usr/bin/env -S python3 -S")
    case = Case(Suite.TRANSPORT_INTEROP, dialer, program(tmp_path, "listener", text), "quic-v1")

    def main() -> None:
        outcome = asyncio.run(run_case(case, Evidence(tmp_path / case.slug), 1, within=8.0))
        lacks = "the dialer waits for listenerAddr, which nobody has written"
        assert (outcome.verdict, outcome.why) == (Mark.FAILED, f"{why}; {lacks}")

    inside(main)
