"""The command line: what it makes of a node, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.__main__ import main
from node.config import DEFAULT_LISTEN, parse
from node.errors import ConfigError
from node.names.keys import KeyType
from node.names.multiaddr import Multiaddr


def test_without_arguments_a_peer_listens_on_any_port_and_punches() -> None:
    config = parse([])
    assert config.host.listen == (Multiaddr(DEFAULT_LISTEN),)
    assert (config.host.relay_server, config.host.relay_client, config.host.dcutr) == (False, True, True)
    assert (config.host.punch_attempts, config.host.punch_timeout) == (3, 5.0)


def test_every_flag_reaches_the_host() -> None:
    arguments = (
        "--name r --role relay --listen /ip4/127.0.0.1/tcp/1 --listen /ip6/::/tcp/2 --no-relay-client --no-dcutr"
    )
    arguments += (
        " --punch-attempts 5 --punch-timeout 1.5 --deny 10.0.0.0/8 11.0.0.0/8 --deny fd00::/8 --allow 10.1.0.0/16"
    )
    config = parse([*arguments.split(), "--log-level", "debug"])
    host = config.host
    assert (config.name, config.log_level) == ("r", "debug")
    assert [str(addr) for addr in host.listen] == ["/ip4/127.0.0.1/tcp/1", "/ip6/::/tcp/2"]
    assert (host.relay_server, host.relay_client, host.dcutr) == (True, False, False)
    assert (host.punch_attempts, host.punch_timeout) == (5, 1.5)
    assert (host.deny, host.allow) == (("10.0.0.0/8", "11.0.0.0/8", "fd00::/8"), ("10.1.0.0/16",))


@pytest.mark.parametrize("kind", list(KeyType))
def test_an_identity_of_any_kind_can_be_made_and_read_back(kind: KeyType, tmp_path: Path) -> None:
    key = parse(["--key-type", kind.name.lower()]).host.key
    assert key is not None
    assert key.kind is kind
    file = tmp_path / "key"
    file.write_bytes(key.to_bytes())
    again = parse(["--key", str(file)]).host.key
    assert again is not None
    assert again.peer_id() == key.peer_id()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--frob",), "--frob"),
        (("--role", "queen"), "queen"),
        (("--listen", "/ip4/127.0.0.1"), "--listen"),
        (("--listen", "/ip4/127.0.0.1/udp/1/quic-v1"), "--listen"),
        (("--listen", "here"), "--listen"),
        (("--deny", "everything"), "everything"),
        (("--allow", "10.0.0.1/8"), "10.0.0.1/8"),
        (("--key", "/nonexistent/key"), "/nonexistent/key"),
        (("--key", "/dev/null"), "--key"),
        (("--key", "/dev/null", "--key-type", "rsa"), "--key"),
        (("--punch-attempts", "0"), "'0'"),
        (("--punch-timeout", "nan"), "'nan'"),
        (("--log-level", "loud"), "loud"),
    ],
)
def test_arguments_that_cannot_be_used_are_told_in_one_line(
    arguments: tuple[str, ...], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert word in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_a_node_with_a_state_comes_back_as_the_same_peer(tmp_path: Path) -> None:
    first = parse(["--state", str(tmp_path)]).host.key
    again = parse(["--state", str(tmp_path), "--key-type", "rsa"]).host.key
    assert first is not None
    assert again is not None
    assert again.peer_id() == first.peer_id()
    assert [path.stat().st_mode & 0o777 for path in tmp_path.iterdir()] == [0o600]


def test_a_state_that_cannot_be_kept_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--state: .*No such file"):
        parse(["--state", str(tmp_path / "nowhere")])
