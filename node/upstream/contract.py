"""What upstream's suites say to a program, and what it has to say: environment variables in, keys and results out.

    suite                 of                        a program is told by          results
    transport-interop     libp2p/test-plans         is_dialer, transport, …       one JSON object
    hole-punch-interop    libp2p/test-plans         MODE, TRANSPORT               one JSON object, the last line
    transport             libp2p/unified-testing    IS_DIALER, TEST_KEY, …        YAML, two spaces deep
    hole-punch            libp2p/unified-testing    the same, WAN_ROUTER_IP, …    likewise

The relay of hole-punch-interop is told nothing, and is called with the argument `relay`. No IO here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from node.errors import ConfigError

TIMEOUT: Final = 180.0
"""Seconds for a test where nobody says another number, as upstream's own programs have it."""
MAX_TIMEOUT: Final = 3600.0
REDIS_PORT: Final = 6379
ANY: Final = "0.0.0.0"  # noqa: S104 - the suites have it so
LISTEN: Final[Mapping[str, str]] = {
    "tcp": "/tcp/0",
    "ws": "/tcp/0/ws",
    "wss": "/tcp/0/tls/ws",
    "quic-v1": "/udp/0/quic-v1",
    "quic": "/udp/0/quic-v1",  # as hole-punch-interop calls it
}
"""By upstream's names of transports, what follows an IP address to listen on any port."""
STANDALONE: Final = ("quic-v1", "quic")
"""Transports that bring their own security and muxer, of which nothing is said then."""
SECURITIES: Final = ("noise", "tls")
MUXERS: Final = ("yamux", "mplex")


class Suite(Enum):
    """A test suite, by its folder upstream."""

    TRANSPORT_INTEROP = "transport-interop"
    HOLE_PUNCH_INTEROP = "hole-punch-interop"
    TRANSPORT = "transport"
    HOLE_PUNCH = "hole-punch"


class Role(Enum):
    """A part in a test."""

    DIALER = "dialer"
    LISTENER = "listener"
    RELAY = "relay"


@dataclass(frozen=True, slots=True)
class Task:
    """What one program is to do in one test."""

    suite: Suite
    role: Role
    transports: tuple[str, ...]
    """One, but for the relay of hole-punch-interop, which serves all that may be asked."""
    redis: tuple[str, int]
    timeout: float = TIMEOUT
    security: str | None = None
    muxer: str | None = None
    ip: str = ANY
    """To bind to."""
    key: str = ""
    """What keys in Redis begin with, where tests share one."""

    def name(self, what: str) -> str:
        """The key in Redis of something that unified-testing calls so: `listener_multiaddr`."""
        return f"{self.key}_{what}"

    @property
    def relay_keys(self) -> tuple[str, ...]:
        """Where hole-punch-interop has the relay's addresses, one a transport."""
        return tuple(f"RELAY_{'QUIC' if each in STANDALONE else 'TCP'}_ADDRESS" for each in self.transports)


def read(arguments: Sequence[str], environment: Mapping[str, str]) -> Task:
    """What a program started so is to do; ConfigError names the variable at fault."""
    said = _Said(environment)
    if list(arguments) not in ([], ["relay"]):
        raise ConfigError(f"no argument but `relay` is known, not {' '.join(arguments)!r}")
    if arguments and "TEST_KEY" not in environment:
        return Task(Suite.HOLE_PUNCH_INTEROP, Role.RELAY, ("tcp", "quic"), said.redis("redis_addr"), MAX_TIMEOUT)
    if arguments or ("RELAY_IP" in environment and "IS_DIALER" not in environment):
        return _modern(said, Suite.HOLE_PUNCH, Role.RELAY, "RELAY_IP")
    if "MODE" in environment:
        role = Role.DIALER if said.one_of("MODE", ("dial", "listen")) == "dial" else Role.LISTENER
        transports = (said.one_of("TRANSPORT", ("tcp", "quic")),)
        redis, timeout = said.redis("redis_addr"), said.timeout("TEST_TIMEOUT_SECS")
        return Task(Suite.HOLE_PUNCH_INTEROP, role, transports, redis, timeout)
    if "IS_DIALER" in environment:
        role = said.role("IS_DIALER")
        if "WAN_ROUTER_IP" in environment:
            return _modern(said, Suite.HOLE_PUNCH, role, f"{role.name}_IP")
        return _modern(said, Suite.TRANSPORT, role, "LISTENER_IP")
    if "is_dialer" in environment:
        transport = said.one_of("transport", LISTEN)
        security, muxer = said.upgrade(transport, "security", "muxer")
        return Task(
            Suite.TRANSPORT_INTEROP,
            said.role("is_dialer"),
            (transport,),
            said.redis("redis_addr"),
            said.timeout("test_timeout_seconds"),
            security,
            muxer,
            said.get("ip", ANY),
        )
    raise ConfigError("nothing says what to do: is_dialer, IS_DIALER, MODE or RELAY_IP does (docs/upstream.md)")


def _modern(said: _Said, suite: Suite, role: Role, ip: str) -> Task:
    """A task of unified-testing, which asks all roles in the same words but for the address."""
    transport = said.one_of("TRANSPORT", LISTEN)
    security, muxer = said.upgrade(transport, "SECURE_CHANNEL", "MUXER")
    redis, timeout = said.redis("REDIS_ADDR"), said.timeout("TEST_TIMEOUT_SECS")
    return Task(suite, role, (transport,), redis, timeout, security, muxer, said.get(ip, ANY), said.get("TEST_KEY"))


class _Said:
    """The environment, asked for values that make sense."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def get(self, name: str, default: str | None = None) -> str:
        value = self._environment.get(name) or default
        if value is None:
            raise ConfigError(f"{name} is not set")
        return value

    def one_of(self, name: str, known: Mapping[str, str] | Sequence[str]) -> str:
        value = self.get(name)
        if value not in known:
            raise ConfigError(f"{name}={value}: there are {', '.join(known)}")
        return value

    def role(self, name: str) -> Role:
        return Role.DIALER if self.one_of(name, ("true", "false")) == "true" else Role.LISTENER

    def upgrade(self, transport: str, security: str, muxer: str) -> tuple[str | None, str | None]:
        """How connections are secured and muxed; None where the transport says."""
        if transport in STANDALONE:
            return None, None
        return self.one_of(security, SECURITIES), self.one_of(muxer, MUXERS)

    def redis(self, name: str) -> tuple[str, int]:
        value = self.get(name, f"redis:{REDIS_PORT}")
        host, _, port = value.rpartition(":")
        if not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise ConfigError(f"{name}={value}: must be a host and a port, redis:{REDIS_PORT}")
        return host.removeprefix("[").removesuffix("]"), int(port)

    def timeout(self, name: str) -> float:
        value = self.get(name, str(int(TIMEOUT)))
        if not (value.isascii() and value.isdigit() and 0 < int(value) <= MAX_TIMEOUT):
            raise ConfigError(f"{name}={value}: must be a whole number of seconds, at most {MAX_TIMEOUT:g}")
        return float(value)


def result(suite: Suite, handshake: float, ping: float) -> str:
    """What the dialer prints when all went well; both times in seconds.

    `handshake` is from the first dial to the answer to the first ping, `ping` that ping's own round trip.
    """
    handshake, ping = round(handshake * 1000, 3), round(ping * 1000, 3)
    match suite:
        case Suite.TRANSPORT_INTEROP:
            # Three l's: so it is read there.
            return json.dumps({"handshakePlusOneRTTMillis": handshake, "pingRTTMilllis": ping})
        case Suite.HOLE_PUNCH_INTEROP:
            return json.dumps({"rtt_to_holepunched_peer_millis": ping})
        case _:
            return f"latency:\n  handshake_plus_one_rtt: {handshake}\n  ping_rtt: {ping}\n  unit: ms"
