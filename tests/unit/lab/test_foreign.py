"""How the program of another implementation is found and started."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.errors import PeerUnsupported
from lab.model.topology import parse
from lab.peers.adapter import arguments
from lab.peers.foreign import BUILT, FOREIGN
from lab.plan.build import build

TEXT = 'name = "one"\n[peer.alice]\nat = "internet"\nimpl = "go"\nport = 443\ntransports = ["tcp", "quic"]\n'
LAUNCH = build(parse(TEXT, "one.toml"), 1).launches[0]
GO = FOREIGN[0]


def test_a_built_peer_gets_the_flags_of_the_contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BUILT, str(tmp_path))
    program = tmp_path / "go" / "peer"
    program.parent.mkdir()
    program.touch(mode=0o755)
    listen = ["--listen", "/ip4/0.0.0.0/tcp/443", "--listen", "/ip4/0.0.0.0/udp/443/quic-v1"]
    assert GO.argv(LAUNCH, ("--more",)) == [
        str(program),
        *("--name", "alice", "--role", "peer"),
        *listen,
        *("--state", "."),
        "--more",
    ]


def test_one_that_is_not_built_is_unsupported_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(BUILT, str(tmp_path))
    with pytest.raises(PeerUnsupported, match="alice: the peer of go is not built; `make peers` builds it"):
        GO.argv(LAUNCH, ())


def test_a_peer_with_two_uplinks_listens_once() -> None:
    text = """
name = "two"
[router.one]
nat = "home"
[router.other]
nat = "home"
lan = "10.0.0.0/24"
[peer.alice]
at = ["one", "other"]
"""
    launch = build(parse(text, "two.toml"), 1).launches[0]
    assert len(launch.addresses) == 2
    assert [word for word in arguments(launch) if word.startswith("/ip4")] == ["/ip4/0.0.0.0/tcp/4001"]
