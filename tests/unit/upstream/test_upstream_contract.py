"""What upstream's suites say to our node, and what it says to them."""

from __future__ import annotations

import json

import pytest

from node.errors import ConfigError
from node.upstream.contract import ANY, TIMEOUT, Role, Suite, Task, read, result

OLD = {"version": "punchlab", "transport": "tcp", "muxer": "yamux", "security": "noise", "is_dialer": "true", "ip": ANY}
NEW = {
    "IS_DIALER": "false",
    "REDIS_ADDR": "transport-redis:6379",
    "TEST_KEY": "a1b2c3d4",
    "TRANSPORT": "ws",
    "SECURE_CHANNEL": "tls",
    "MUXER": "mplex",
    "LISTENER_IP": ANY,
    "DEBUG": "false",
}
PUNCH = {
    "REDIS_ADDR": "hole-punch-redis:6379",
    "TEST_KEY": "a1b2c3d4",
    "TRANSPORT": "quic-v1",
    "WAN_SUBNET": "10.1.1.64/27",
    "DEBUG": "true",
}


def test_transport_interop() -> None:
    suite, redis = Suite.TRANSPORT_INTEROP, ("redis", 6379)
    assert read([], OLD) == Task(suite, Role.DIALER, ("tcp",), redis, TIMEOUT, "noise", "yamux")
    told = {"transport": "quic-v1", "is_dialer": "false", "ip": "11.0.1.2", "test_timeout_seconds": "20"}
    assert read([], told) == Task(suite, Role.LISTENER, ("quic-v1",), redis, 20.0, ip="11.0.1.2")


def test_hole_punch_interop() -> None:
    suite, redis = Suite.HOLE_PUNCH_INTEROP, ("redis", 6379)
    dialer = read([], {"MODE": "dial", "TRANSPORT": "tcp"})
    assert dialer == Task(suite, Role.DIALER, ("tcp",), redis)
    assert dialer.relay_keys == ("RELAY_TCP_ADDRESS",)
    listener = read([], {"MODE": "listen", "TRANSPORT": "quic"})
    assert (listener.role, listener.relay_keys) == (Role.LISTENER, ("RELAY_QUIC_ADDRESS",))
    relay = read(["relay"], {"PATH": "/bin"})
    assert (relay.suite, relay.role) == (suite, Role.RELAY)
    assert relay.relay_keys == ("RELAY_TCP_ADDRESS", "RELAY_QUIC_ADDRESS")


def test_transport() -> None:
    task = read([], NEW)
    redis = ("transport-redis", 6379)
    assert task == Task(Suite.TRANSPORT, Role.LISTENER, ("ws",), redis, TIMEOUT, "tls", "mplex", key="a1b2c3d4")
    assert task.name("listener_multiaddr") == "a1b2c3d4_listener_multiaddr"


@pytest.mark.parametrize(
    ("said", "role"),
    [
        ({"IS_DIALER": "true", "DIALER_IP": "10.1.1.99", "WAN_ROUTER_IP": "10.1.1.98"}, Role.DIALER),
        ({"IS_DIALER": "false", "LISTENER_IP": "10.1.1.99", "WAN_ROUTER_IP": "10.1.1.98"}, Role.LISTENER),
        ({"RELAY_IP": "10.1.1.99", "DIALER_ROUTER_IP": "10.1.1.66"}, Role.RELAY),
    ],
)
def test_hole_punch(said: dict[str, str], role: Role) -> None:
    redis = ("hole-punch-redis", 6379)
    task = Task(Suite.HOLE_PUNCH, role, ("quic-v1",), redis, TIMEOUT, ip="10.1.1.99", key="a1b2c3d4")
    assert read([], PUNCH | said) == task
    assert read(["relay"] if role is Role.RELAY else [], PUNCH | said) == task


@pytest.mark.parametrize(
    ("arguments", "said", "why"),
    [
        ([], {}, "nothing says what to do"),
        (["listen"], OLD, "no argument but `relay`"),
        ([], OLD | {"transport": "webrtc"}, "transport=webrtc: there are tcp, ws"),
        ([], OLD | {"security": "secio"}, "security=secio: there are noise, tls"),
        ([], {key: value for key, value in OLD.items() if key != "muxer"}, "muxer is not set"),
        ([], OLD | {"is_dialer": "yes"}, "is_dialer=yes: there are true, false"),
        ([], OLD | {"redis_addr": "redis"}, "redis_addr=redis: must be a host and a port"),
        ([], OLD | {"redis_addr": "redis:0"}, "redis_addr=redis:0"),
        ([], OLD | {"test_timeout_seconds": "-1"}, "test_timeout_seconds=-1: must be a whole number"),
        ([], {"MODE": "dial", "TRANSPORT": "ws"}, "TRANSPORT=ws: there are tcp, quic"),
        ([], {key: value for key, value in NEW.items() if key != "TEST_KEY"}, "TEST_KEY is not set"),
    ],
)
def test_what_cannot_be_done_names_the_variable(arguments: list[str], said: dict[str, str], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        read(arguments, said)


def test_results_are_written_as_each_suite_reads_them() -> None:
    old = json.loads(result(Suite.TRANSPORT_INTEROP, 0.0123456, 0.001))
    assert old == {"handshakePlusOneRTTMillis": 12.346, "pingRTTMilllis": 1.0}
    assert json.loads(result(Suite.HOLE_PUNCH_INTEROP, 1.5, 0.2)) == {"rtt_to_holepunched_peer_millis": 200.0}
    for suite in (Suite.TRANSPORT, Suite.HOLE_PUNCH):
        lines = ["latency:", "  handshake_plus_one_rtt: 1500.0", "  ping_rtt: 200.0", "  unit: ms"]
        assert result(suite, 1.5, 0.2).split("\n") == lines
