"""What a program of libp2p's own suites is told by its environment, and what its output means. Pure.

Upstream's documents differ from its code in places; what is here is what its code does.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeGuard

from lab.errors import PeerUnsupported
from lab.model.upstream import Case, Suite, Version
from lab.model.upstream_networks import DIALER, LISTENER, RELAY
from lab.peers.own import SOURCE
from lab.plan.plan import Launch, Plan

REDIS_PORT: Final = 6379
REDIS_NAMES: Final = ("redis", "transport-redis", "hole-punch-redis")
"what upstream's networks call their Redis; some programs know no other name"
WAN: Final = "11.0.0.0/8"
"of all networks that make up the internet"
OLD_KEY: Final = b"listenerAddr"
"where programs of transport-interop leave the listener's address"
TERMINATED: Final = 128 + signal.SIGTERM


@dataclass(frozen=True, slots=True)
class Measured:
    """What a dialer has measured, in seconds; None for what its suite does not ask."""

    handshake: float | None
    "from the first dial to the answer to the first ping"
    ping: float | None


class NoResult(Exception):
    """Output that holds no result; the message says what is wrong with it."""


def argv(version: Version, suite: Suite, part: str) -> list[str]:
    """The program of a version; our own node's if it names none."""
    if version.program:
        return list(version.program)
    own = [sys.executable, "-P", "-m", "node.upstream"]
    return [*own, "relay"] if part == RELAY and suite is Suite.HOLE_PUNCH_INTEROP else own


def command(suite: Suite, part: str) -> list[str] | None:
    """What is started in an image; None for what the image says.

    hole-punch-interop starts scripts that wait, record and lay out the network, which is the lab's part here, and then
    this.
    """
    if suite is not Suite.HOLE_PUNCH_INTEROP:
        return None
    return ["/bin/sh", "-c", "exec /usr/bin/relay" if part == RELAY else "exec hole-punch-client"]


def environment(case: Case, part: str, plan: Plan, home: Path) -> dict[str, str]:
    """The environment of one part's program: all of it for a process, what is added to an image's for a container.

    `home` is its folder, by the name under which it finds it.
    """
    version = {DIALER: case.dialer, LISTENER: case.listener, RELAY: case.relay}[part]
    base = {"HOME": str(home), "PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LANG": "C.UTF-8"}
    if version.image is not None:
        base = {}
    elif not version.program:
        base["PYTHONPATH"] = str(SOURCE)
    match case.suite:
        case Suite.TRANSPORT_INTEROP:
            own = _old(case, part, version.id)
        case Suite.HOLE_PUNCH_INTEROP:
            own = _old_punch(case, part, home)
        case Suite.TRANSPORT if version.legacy:
            own = _old(case, part, version.id) | {"redis_addr": f"transport-redis:{REDIS_PORT}"}
        case Suite.TRANSPORT:
            own = {**_role(part), **_unified(case), "LISTENER_IP": "0.0.0.0"}  # noqa: S104 - as upstream has it
        case Suite.HOLE_PUNCH:
            own = _punch(case, part, plan)
    return base | own


def translations(case: Case, part: str) -> Mapping[bytes, bytes]:
    """What a part calls its keys in Redis where it knows the old names only, and what the others call them."""
    version = {DIALER: case.dialer, LISTENER: case.listener, RELAY: case.relay}[part]
    if case.suite is Suite.TRANSPORT and version.legacy:
        return {OLD_KEY: f"{case.key}_listener_multiaddr".encode()}
    return MappingProxyType({})


def _role(part: str) -> dict[str, str]:
    return {"IS_DIALER": "true" if part == DIALER else "false"}


def _old(case: Case, part: str, id: str) -> dict[str, str]:
    asked = {"muxer": case.muxer, "security": case.security}
    seconds = max(version.timeout or 0 for version in (case.dialer, case.listener))
    return {
        "version": id,
        "transport": case.transport,
        "is_dialer": "true" if part == DIALER else "false",
        "ip": "0.0.0.0",  # noqa: S104 - as upstream has it
        **{name: value for name, value in asked.items() if value is not None},
        **({"test_timeout_seconds": str(seconds)} if seconds else {}),
    }


def _old_punch(case: Case, part: str, home: Path) -> dict[str, str]:
    match part:
        case "dialer":
            return {"MODE": "dial", "TRANSPORT": case.transport}
        case "listener":
            return {"MODE": "listen", "TRANSPORT": case.transport, "SSLKEYLOGFILE": str(home / "tls.key")}
        case _:
            return {}


def _unified(case: Case) -> dict[str, str]:
    upgrade = {"SECURE_CHANNEL": case.security, "MUXER": case.muxer}
    return {
        "REDIS_ADDR": f"{'hole-punch' if case.suite.punches else 'transport'}-redis:{REDIS_PORT}",
        "TEST_KEY": case.key,
        "TRANSPORT": case.transport,
        "DEBUG": "false",
        **{name: value for name, value in upgrade.items() if value is not None},
    }


def _punch(case: Case, part: str, plan: Plan) -> dict[str, str]:
    launches = {launch.peer: launch for launch in plan.launches}
    own, gateway = launches[part], _gateway(plan, part)
    if part != RELAY:
        place = {f"{part.upper()}_IP": own.address, "WAN_SUBNET": WAN, "WAN_ROUTER_IP": gateway}
        return {**_role(part), **_unified(case), **place}
    # A relay may believe that it routes to the LANs; its packets end at the core, which knows no private network.
    lans = {f"{name.upper()}_LAN_SUBNET": _lan(plan, launches[name]) for name in (DIALER, LISTENER)}
    return {
        **_unified(case),
        "RELAY_IP": own.address,
        **lans,
        "DIALER_ROUTER_IP": gateway,
        "LISTENER_ROUTER_IP": gateway,
    }


def _gateway(plan: Plan, space: str) -> str:
    return next(
        route.gateway
        for route in plan.routes
        if route.space == space and route.destination == "default" and route.gateway is not None
    )


def _lan(plan: Plan, launch: Launch) -> str:
    return next((router.lan for router in plan.routers if router.name == launch.router), f"{launch.address}/32")


# ── output ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def succeeded(suite: Suite, status: int) -> bool:
    """Whether an exit status is one with which upstream lets a test pass, if there is a result."""
    # Of a program that a signal ended, subprocess says -15 and a shell 143.
    return status == 0 or (suite.unified and status in (TERMINATED, -signal.SIGTERM))


def read_result(case: Case, status: int, output: str) -> Measured | None:
    """What a dialer printed, as upstream reads it; None where upstream does without. Raises NoResult."""
    match case.suite:
        case Suite.HOLE_PUNCH_INTEROP:
            return _last_line(output)
        case Suite.TRANSPORT_INTEROP:
            return _any_object(output)
        case _:
            measured = _legacy(output) if case.dialer.legacy else _yaml(output)
            if measured is None and status != 0:
                raise NoResult(f"no latency in its output: {_shown(output)}")
            return measured


def _last_line(output: str) -> Measured:
    lines = output.strip().splitlines()
    try:
        value = json.loads(lines[-1]) if lines else None
    except (ValueError, RecursionError):
        value = None
    ping: object = value.get("rtt_to_holepunched_peer_millis") if isinstance(value, dict) else None
    if not _is_number(ping):
        said = _shown(lines[-1]) if lines else "nothing"
        raise NoResult(
            f"the last line of its output must be a JSON object with rtt_to_holepunched_peer_millis, not {said}"
        )
    return Measured(None, ping / 1000)


def _any_object(output: str) -> Measured:
    for value in _objects(output):
        handshake, ping = value.get("handshakePlusOneRTTMillis"), value.get("pingRTTMilllis")
        if _is_number(handshake) and _is_number(ping):
            return Measured(handshake / 1000, ping / 1000)
    keys = "handshakePlusOneRTTMillis and pingRTTMilllis"
    raise NoResult(f"no JSON object with {keys} in its output: {_shown(output)}")


def _legacy(output: str) -> Measured | None:
    try:
        return _any_object(output)
    except NoResult:
        return None


def _objects(output: str) -> Iterator[dict[str, Any]]:
    """What lies between an opening brace and the next closing one, wherever that is an object with a ping."""
    *pieces, _ = output.split("}")
    for piece in pieces:
        if "pingRTTMilllis" not in piece:
            continue  # which spares us a try for each brace of a program that prints little else
        for found in re.finditer(r"\{", piece):
            try:
                yield json.loads(piece[found.start() :] + "}")
            except (ValueError, RecursionError):
                continue


_LINE = re.compile(r"(?m)^  (handshake_plus_one_rtt|ping_rtt): *([0-9.eE+-]+) *$")


def _yaml(output: str) -> Measured | None:
    """Lines that are indented by two spaces, no more and no less."""
    found: dict[str, float] = {}
    for name, text in _LINE.findall(output):
        try:
            found[name] = float(text) / 1000
        except ValueError:
            continue
    return Measured(found.get("handshake_plus_one_rtt"), found.get("ping_rtt")) if found else None


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(output: str) -> str:
    text = " ".join(output.split())
    return repr(text if len(text) <= 200 else f"…{text[-200:]}")


@dataclass(frozen=True, slots=True)
class Upstream:
    """Stands for programs of others where only peers that speak the lab's contract can take part."""

    name: str = "upstream"

    def argv(self, launch: Launch, options: tuple[str, ...]) -> list[str]:
        """Raises `PeerUnsupported`."""
        raise PeerUnsupported(f'{launch.peer}: impl = "upstream" speaks no lines of ours; `punchlab upstream` runs it')

    def environment(self, launch: Launch, home: Path) -> Mapping[str, str]:
        return {}


UPSTREAM: Final = Upstream()
