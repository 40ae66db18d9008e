"""Results of tests of libp2p's own suites, in upstream's formats and in ours.

results.csv    name,outcome                          test-plans
results.yaml   metadata, summary, tests              unified-testing
results.md     a table for people, with our verdicts
upstream.json  all of it
"""

from __future__ import annotations

import csv
import io
import json
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lab.model.plain import to_plain
from lab.report.results import Mark


@dataclass(frozen=True, slots=True)
class Outcome:
    """One test and what became of it."""

    name: str
    "upstream's"
    dialer: str
    listener: str
    relay: str
    "empty where the suite has none"
    transport: str
    security: str | None
    muxer: str | None
    nats: tuple[str, str] | None
    "presets in front of dialer and listener; None where the suite has none"
    passed: bool
    "by upstream's rules: the dialer's exit status and its output"
    verdict: Mark
    "by ours"
    why: str
    predicted: str
    "direct, relayed or none"
    seen: str
    "by the wire: direct, relayed, none, or empty if it did not come to that"
    handshake: float | None
    "seconds, as the dialer measured"
    ping: float | None
    seconds: float
    "from the programs' start to the dialer's end"
    total: float
    "with the building of the network and its examination"
    folder: str
    "the evidence, below `cells`"


def to_csv(tests: Sequence[Outcome]) -> str:
    """As test-plans has it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("name", "outcome"))
    writer.writerows((test.name, "success" if test.passed else "failure") for test in tests)
    return text.getvalue()


def to_yaml(tests: Sequence[Outcome], run: str, started: float, ended: float, workers: int) -> str:
    """As unified-testing has it; `started` and `ended` are Unix seconds."""
    passed = sum(test.passed for test in tests)
    value = {
        "metadata": {
            "testPass": run,
            "startedAt": _moment(started),
            "completedAt": _moment(ended),
            "duration": _length(ended - started),
            "platform": platform.machine(),
            "os": platform.system(),
            "workerCount": workers,
        },
        "summary": {"total": len(tests), "passed": passed, "failed": len(tests) - passed},
    }
    return _block(value) + "tests:\n" + "".join(_item(_test(test)) for test in tests)


def to_markdown(tests: Sequence[Outcome]) -> str:
    """A table for people."""
    head = "| test | NATs | upstream's verdict | ours | seen | predicted | ping |\n|---|---|---|---|---|---|---|\n"
    return head + "".join(_row(test) for test in tests)


def to_json(tests: Sequence[Outcome], suite: str) -> str:
    """All that is known."""
    return (
        json.dumps(
            {"format": 1, "suite": suite, "tests": [to_plain(test) for test in tests]}, indent=1, ensure_ascii=False
        )
        + "\n"
    )


def _row(test: Outcome) -> str:
    nats = " / ".join(test.nats) if test.nats is not None else ""
    ping = "" if test.ping is None else f"{test.ping * 1000:.1f} ms"
    theirs = "pass" if test.passed else "fail"
    cells = (test.name, nats, theirs, test.verdict.value, test.seen, test.predicted, ping)
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |\n"


def _test(test: Outcome) -> dict[str, Any]:
    relay = {"relay": test.relay} if test.relay else {}
    routers = {} if test.nats is None else {"dialerRouter": test.nats[0], "listenerRouter": test.nats[1]}
    latency = {
        "handshake_plus_one_rtt": _milliseconds(test.handshake),
        "ping_rtt": _milliseconds(test.ping),
        "unit": "ms",
    }
    return {
        "name": test.name,
        "dialer": test.dialer,
        "listener": test.listener,
        **relay,
        **routers,
        "transport": test.transport,
        "secureChannel": test.security,
        "muxer": test.muxer,
        "status": "pass" if test.passed else "fail",
        "duration": _length(test.seconds),
        **({"latency": latency} if test.ping is not None or test.handshake is not None else {}),
    }


def _item(value: dict[str, Any]) -> str:
    """An item of a list in YAML."""
    return "  - " + _block(value, 4)[4:]


def _block(value: dict[str, Any], indent: int = 0) -> str:
    """A mapping in YAML; its scalars are written as JSON's, which are YAML's too."""
    lines = []
    for key, item in value.items():
        if isinstance(item, dict):
            lines.append(f"{' ' * indent}{key}:\n{_block(item, indent + 2)}")
        else:
            lines.append(f"{' ' * indent}{key}: {json.dumps(item, ensure_ascii=False)}\n")
    return "".join(lines)


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


def _moment(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))


def _length(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"
