"""A transfer between two peers when something happens to the network between them: traffic resumes, and how soon.

Where the path is gone, nobody is told. Signs of life find it out, the peers meet at the relay again, make a hole again,
and the application opens its stream anew. Where a NAT gives the same mapping again, the connection lives on. The
seconds stand on the timeline and in the report; `make resuming` makes a table of them.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.lab import Lab
from lab.model.resuming import CASES
from lab.observe.facts import WirePath
from lab.report.results import Mark
from lab.run.evidence import Evidence
from lab.run.plugin import topology
from lab.run.resuming import Order, options, resume, try_case

SILENCE = 2.0
Tell = Callable[[str, object], None]
Inside = Callable[[Callable[[], None]], None]

CASE = {case.name: case for case in CASES}
OPTIONS = options(CASE["reboot-a"], SILENCE)
LONG = pytest.mark.skipif("PUNCHLAB_LONG" not in os.environ, reason="one of the long ones: make test-long")
by_tcp = topology("two-homes", alice=OPTIONS["alice"], bob=OPTIONS["bob"])
by_quic = topology("two-quic-homes.toml", alice=OPTIONS["alice"], bob=OPTIONS["bob"])


def of(*now: str, long: str) -> pytest.MarkDecorator:
    """Cases by name, and one for when there is time."""
    return pytest.mark.parametrize("case", [*now, pytest.param(long, marks=LONG)])


async def comes_back(lab: Lab, case: str, tell: Tell) -> None:
    """The peers meet again and make another hole, all by themselves."""
    resumed = await resume(lab, CASE[case])
    assert not resumed.lived_on
    wire = (await lab.facts()).path("alice", "bob", "relay", after=resumed.happened.done)
    assert wire is WirePath.BOTH, "by the relay first, then directly"
    tell(f"seconds without direct traffic: {case}", round(resumed.seconds, 2))


async def goes_on(lab: Lab, case: str, tell: Tell) -> None:
    """The same connection carries traffic by the same ports, and no relay any."""
    resumed = await resume(lab, CASE[case])
    assert resumed.lived_on
    ended = [
        event
        for peer in lab.peers("alice", "bob")
        for event in peer.events
        if (event.name, event.get("path")) == ("disconnected", "direct") and event.at >= resumed.happened.at
    ]
    assert ended == []
    facts = await lab.facts()
    before = facts.direct_flow("alice", "bob", before=resumed.happened.at)
    after = facts.direct_flow("alice", "bob", after=resumed.happened.done)
    assert before is not None
    assert after is not None
    assert before.ends == after.ends, "the NAT has given another port"
    tell(f"seconds without direct traffic: {case}", round(resumed.seconds, 2))


@of("reboot-a", long="address-b")
@by_tcp
async def test_a_tcp_transfer_resumes(lab: Lab, case: str, record_property: Tell) -> None:
    await comes_back(lab, case, record_property)


@of("address-a", long="reboot-b")
@by_quic
async def test_a_quic_transfer_resumes(lab: Lab, case: str, record_property: Tell) -> None:
    await comes_back(lab, case, record_property)


@of("reboot-same-a", long="reboot-same-b")
@by_tcp
async def test_a_tcp_transfer_goes_on_where_the_nat_gives_the_same_port(
    lab: Lab, case: str, record_property: Tell
) -> None:
    await goes_on(lab, case, record_property)


@pytest.mark.parametrize("case", ["reboot-same-a", "reboot-same-b"])
@by_quic
async def test_a_quic_transfer_goes_on_where_the_nat_gives_the_same_port(
    lab: Lab, case: str, record_property: Tell
) -> None:
    await goes_on(lab, case, record_property)


@pytest.mark.parametrize(
    ("case", "transport", "lives_on"),
    [
        ("move", "quic", False),
        pytest.param("move", "tcp", False, marks=LONG),
        ("lease", "quic", True),
        pytest.param("lease", "tcp", True, marks=LONG),
        pytest.param("lease-anew", "quic", False, marks=LONG),
    ],
)
def test_so_does_it_when_a_peer_moves_or_a_port_map_is_lost(
    inside: Inside, tmp_path: Path, case: str, transport: str, lives_on: bool
) -> None:
    def check() -> None:
        order = Order(silence=SILENCE)
        tried = asyncio.run(try_case(CASE[case], transport, Evidence(tmp_path / "run"), order, "capture.pcapng"))
        assert (tried.mark, tried.why) == (Mark.PASSED, "")
        assert tried.lived_on is lives_on
        assert tried.seconds is not None

    inside(check)
