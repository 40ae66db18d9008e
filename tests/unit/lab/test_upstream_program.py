"""What programs of upstream's suites are told, what their output means, and how results are written."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from lab.errors import PeerUnsupported, TopologyError
from lab.model.topology import parse
from lab.model.upstream import OWN, Case, Suite, Version
from lab.model.upstream_networks import DIALER, LISTENER, RELAY, network
from lab.peers.upstream import (
    UPSTREAM,
    Measured,
    NoResult,
    argv,
    command,
    environment,
    read_result,
    succeeded,
    translations,
)
from lab.plan.build import build
from lab.report.results import Mark
from lab.report.upstream import Outcome, to_csv, to_json, to_markdown, to_yaml

HOME = Path("/runs/x")
ANY = "0.0.0.0"  # noqa: S104 - as upstream has it
OLD = Version("go", ("/opt/go",), legacy=True, timeout=20)
ALWAYS = {"HOME", "PATH", "LANG", "PYTHONPATH"}


def told(case: Case, part: str) -> dict[str, str]:
    said = environment(case, part, build(network(case), 1), HOME)
    return {name: value for name, value in said.items() if name not in ALWAYS}


def test_transport_interop() -> None:
    case = Case(Suite.TRANSPORT_INTEROP, OLD, OWN, "tcp", "noise", "yamux")
    asked = {"transport": "tcp", "security": "noise", "muxer": "yamux", "ip": ANY, "test_timeout_seconds": "20"}
    assert told(case, DIALER) == {"version": "go", "is_dialer": "true", **asked}
    assert told(case, LISTENER) == {"version": "punchlab", "is_dialer": "false", **asked}
    quic = Case(Suite.TRANSPORT_INTEROP, OWN, OWN, "quic-v1")
    assert told(quic, DIALER) == {"version": "punchlab", "is_dialer": "true", "transport": "quic-v1", "ip": ANY}


def test_hole_punch_interop() -> None:
    case = Case(Suite.HOLE_PUNCH_INTEROP, OWN, OWN, "quic")
    assert told(case, RELAY) == {}
    assert told(case, DIALER) == {"MODE": "dial", "TRANSPORT": "quic"}
    assert told(case, LISTENER) == {"MODE": "listen", "TRANSPORT": "quic", "SSLKEYLOGFILE": "/runs/x/tls.key"}
    assert argv(OWN, case.suite, RELAY)[-2:] == ["node.upstream", "relay"]
    assert argv(OLD, case.suite, RELAY) == ["/opt/go"]


def test_what_an_image_is_told_is_added_to_what_it_says_itself() -> None:
    theirs = Version("rust", image="rust:1")
    case = Case(Suite.HOLE_PUNCH_INTEROP, theirs, theirs, "tcp", relay=theirs)
    plan = build(network(case), 1)
    assert environment(case, DIALER, plan, HOME) == {"MODE": "dial", "TRANSPORT": "tcp"}
    assert environment(case, RELAY, plan, HOME) == {}
    assert command(case.suite, DIALER) == ["/bin/sh", "-c", "exec hole-punch-client"]
    assert command(case.suite, RELAY) == ["/bin/sh", "-c", "exec /usr/bin/relay"]
    assert command(Suite.HOLE_PUNCH, RELAY) is None


def test_transport_and_who_knows_its_old_words_only() -> None:
    case = Case(Suite.TRANSPORT, OWN, OLD, "ws", "tls", "mplex")
    assert told(case, DIALER) == {
        "IS_DIALER": "true",
        "REDIS_ADDR": "transport-redis:6379",
        "TEST_KEY": case.key,
        "TRANSPORT": "ws",
        "SECURE_CHANNEL": "tls",
        "MUXER": "mplex",
        "LISTENER_IP": ANY,
        "DEBUG": "false",
    }
    old = told(case, LISTENER)
    assert (old["is_dialer"], old["redis_addr"]) == ("false", "transport-redis:6379")
    assert translations(case, LISTENER) == {b"listenerAddr": f"{case.key}_listener_multiaddr".encode()}
    assert translations(case, DIALER) == {}


def test_hole_punch() -> None:
    case = Case(Suite.HOLE_PUNCH, OWN, OWN, "quic-v1")
    shared = {"REDIS_ADDR": "hole-punch-redis:6379", "TEST_KEY": case.key, "TRANSPORT": "quic-v1", "DEBUG": "false"}
    place = {"WAN_SUBNET": "11.0.0.0/8"}
    dialer = {"IS_DIALER": "true", "DIALER_IP": "192.168.1.10", "WAN_ROUTER_IP": "192.168.1.1"}
    assert told(case, DIALER) == shared | place | dialer
    listener = {"IS_DIALER": "false", "LISTENER_IP": "192.168.2.10", "WAN_ROUTER_IP": "192.168.2.1"}
    assert told(case, LISTENER) == shared | place | listener
    assert told(case, RELAY) == shared | {
        "RELAY_IP": "11.0.3.2",
        "DIALER_LAN_SUBNET": "192.168.1.0/24",
        "DIALER_ROUTER_IP": "11.0.3.1",
        "LISTENER_LAN_SUBNET": "192.168.2.0/24",
        "LISTENER_ROUTER_IP": "11.0.3.1",
    }


OBJECT = '{"handshakePlusOneRTTMillis": 7.5,\n "pingRTTMilllis": 2}'
YAML = "latency:\n  handshake_plus_one_rtt: 7.5\n  ping_rtt: 2\n  unit: ms\n"


@pytest.mark.parametrize(
    ("suite", "dialer", "output", "measured"),
    [
        (Suite.TRANSPORT_INTEROP, OWN, f"hello {{}} {{x}}\n{OBJECT} bye", Measured(0.0075, 0.002)),
        (Suite.HOLE_PUNCH_INTEROP, OWN, 'log\n{"rtt_to_holepunched_peer_millis": 200}\n', Measured(None, 0.2)),
        (Suite.TRANSPORT, OWN, f"log\n{YAML}", Measured(0.0075, 0.002)),
        (Suite.HOLE_PUNCH, OWN, YAML, Measured(0.0075, 0.002)),
        (Suite.TRANSPORT, OLD, OBJECT, Measured(0.0075, 0.002)),
        (Suite.TRANSPORT, OWN, YAML.replace("  ", "    "), None),
        (Suite.TRANSPORT, OLD, "none", None),
    ],
)
def test_a_result_is_read_as_upstream_reads_it(
    suite: Suite, dialer: Version, output: str, measured: Measured | None
) -> None:
    assert read_result(Case(suite, dialer, OWN, "tcp"), 0, output) == measured


@pytest.mark.parametrize(
    ("suite", "status", "output", "why"),
    [
        (Suite.TRANSPORT_INTEROP, 0, '{"handshakePlusOneRTTMillis": 7, "pingRTTMillis": 2}', "pingRTTMilllis"),
        (Suite.TRANSPORT_INTEROP, 0, "{" * 1_000_000, "no JSON object"),
        (Suite.TRANSPORT_INTEROP, 0, "{" * 1_000_000 + "}", "no JSON object"),
        (Suite.TRANSPORT_INTEROP, 0, '{"handshakePlusOneRTTMillis": "7", "pingRTTMilllis": true}', "no JSON object"),
        (Suite.HOLE_PUNCH_INTEROP, 0, "", "not nothing"),
        (Suite.HOLE_PUNCH_INTEROP, 0, '{"rtt_to_holepunched_peer_millis": 2}\nbye', "not 'bye'"),
        (Suite.HOLE_PUNCH_INTEROP, 0, "[" * 100_000, "must be a JSON object"),
        (Suite.HOLE_PUNCH, 143, "latency: none", "no latency"),
    ],
)
def test_output_without_a_result_is_told(suite: Suite, status: int, output: str, why: str) -> None:
    with pytest.raises(NoResult, match=why):
        read_result(Case(suite, OWN, OWN, "tcp"), status, output)


def test_an_exit_status_decides_first() -> None:
    assert [succeeded(Suite.TRANSPORT, status) for status in (0, 143, -15, 1, 137)] == [True] * 3 + [False] * 2
    assert [succeeded(Suite.HOLE_PUNCH_INTEROP, status) for status in (0, 143)] == [True, False]


def test_a_topology_may_name_a_program_and_an_interface() -> None:
    text = 'name = "x"\n[peer.a]\nat = "internet"\nimpl = "upstream"\nprogram = ["/opt/x", "-v"]\ninterface = "lan0"\n'
    (launch,) = build(parse(text, "x.toml"), 1).launches
    assert (launch.program, launch.interface, launch.captures) == (("/opt/x", "-v"), "lan0", ("a/lan0",))
    with pytest.raises(PeerUnsupported, match="`punchlab upstream` runs it"):
        UPSTREAM.argv(launch, ())


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ('program = "x"', 'only a peer with impl = "upstream" is told'),
        ('impl = "upstream"\nprogram = []', "must be a path, or a list"),
        ('impl = "upstream"\nprogram = ["x", 1]', "must be a path, or a list"),
        ('interface = "lo"', "such as .lan0."),
        ('interface = "a-very-long-name"', "such as .lan0."),
    ],
)
def test_a_program_or_interface_that_cannot_be_is_refused(keys: str, why: str) -> None:
    with pytest.raises(TopologyError, match=why):
        parse(f'name = "x"\n[peer.a]\nat = "internet"\n{keys}\n', "x.toml")


PASSED = Outcome(
    name="a x b (tcp, noise, yamux)",
    dialer="a",
    listener="b",
    relay="",
    transport="tcp",
    security="noise",
    muxer="yamux",
    nats=None,
    passed=True,
    verdict=Mark.PASSED,
    why="",
    predicted="direct",
    seen="direct",
    handshake=0.0075,
    ping=0.002,
    seconds=75.4,
    total=80.0,
    folder="a--b",
)
FAILED = replace(PASSED, name="a x b (quic-v1)", security=None, muxer=None, passed=False, handshake=None, ping=None)
PUNCHED = replace(PASSED, relay="r", nats=("home", "cgnat"), verdict=Mark.FAILED, handshake=None)


def test_results_for_test_plans() -> None:
    rows = list(csv.reader(to_csv([PASSED, FAILED]).splitlines()))
    assert rows == [["name", "outcome"], ["a x b (tcp, noise, yamux)", "success"], ["a x b (quic-v1)", "failure"]]


def test_results_for_unified_testing() -> None:
    text = to_yaml([PASSED, FAILED, PUNCHED], "run", 0.0, 131.0, 2).splitlines()
    assert text[:8] == [
        "metadata:",
        '  testPass: "run"',
        '  startedAt: "1970-01-01T00:00:00Z"',
        '  completedAt: "1970-01-01T00:02:11Z"',
        '  duration: "2m11s"',
        *text[5:7],
        "  workerCount: 2",
    ]
    assert text[8:12] == ["summary:", "  total: 3", "  passed: 2", "  failed: 1"]
    begin = text.index("tests:")
    assert text[begin + 1 : begin + 13] == [
        '  - name: "a x b (tcp, noise, yamux)"',
        '    dialer: "a"',
        '    listener: "b"',
        '    transport: "tcp"',
        '    secureChannel: "noise"',
        '    muxer: "yamux"',
        '    status: "pass"',
        '    duration: "1m15s"',
        "    latency:",
        "      handshake_plus_one_rtt: 7.5",
        "      ping_rtt: 2.0",
        '      unit: "ms"',
    ]
    assert "    secureChannel: null" in text
    assert '    listenerRouter: "cgnat"' in text


def test_results_for_people_and_for_us() -> None:
    row = to_markdown([PUNCHED]).splitlines()[-1]
    assert row == "| a x b (tcp, noise, yamux) | home / cgnat | pass | FAILED | direct | direct | 2.0 ms |"
    value = json.loads(to_json([PASSED], "transport"))
    assert (value["suite"], value["tests"][0]["verdict"], value["tests"][0]["ping"]) == ("transport", "PASSED", 0.002)
