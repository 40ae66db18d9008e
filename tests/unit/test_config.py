"""The command line: what it makes of a node, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from node import configdoc
from node.__main__ import main
from node.config import parse
from node.errors import ConfigError
from node.logic.protection import Security
from node.names.keys import KeyType
from node.names.multiaddr import Multiaddr
from node.net.upgrade import UpgradeConfig
from node.net.web_tls import WebConfig
from node.settings import DEFAULT_LISTEN, SETTINGS


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
    arguments += " --mdns --no-mdns-dial --port-mapping --port-mapping-check 5"
    arguments += " --bootstrap /dnsaddr/a.lab --bootstrap /dnsaddr/b.lab --bootstrap-floor 7"
    config = parse([*arguments.split(), "--log-level", "debug"])
    host = config.host
    assert (config.name, config.log_level) == ("r", "debug")
    assert [str(addr) for addr in host.listen] == ["/ip4/127.0.0.1/tcp/1", "/ip6/::/tcp/2"]
    assert (host.relay_server, host.relay_client, host.dcutr) == (True, False, False)
    assert (host.punch_attempts, host.punch_timeout) == (5, 1.5)
    assert [str(addr) for addr in host.bootstrap] == ["/dnsaddr/a.lab", "/dnsaddr/b.lab"]
    assert host.bootstrap_floor == 7
    assert (host.port_mapping, host.port_mapping_check) == (True, 5.0)
    assert (host.mdns, host.mdns_dial) == (True, False)
    assert (host.deny, host.allow) == (("10.0.0.0/8", "11.0.0.0/8", "fd00::/8"), ("10.1.0.0/16",))


def test_security_and_private_network_are_the_hosts(tmp_path: Path) -> None:
    assert parse([]).host.upgrade == UpgradeConfig()
    file = tmp_path / "swarm.key"
    file.write_text(f"/key/swarm/psk/1.0.0/\n/base16/\n{bytes(range(32)).hex()}\n", "ascii")
    arguments = f"--security signed --swarm-key {file} --ws-cert c.pem --ws-key k.pem --ws-ca a.pem"
    host = parse(arguments.split()).host
    assert host.upgrade == UpgradeConfig(security=(Security.TLS_SIGNED_ONLY,), psk=bytes(range(32)))
    assert host.web == WebConfig(Path("c.pem"), Path("k.pem"), Path("a.pem"))


def test_the_muxers_are_those_that_are_named() -> None:
    assert parse(["--mplex"]).host.muxers == ("/yamux/1.0.0", "/mplex/6.7.0")
    assert parse(["--muxer", "mplex"]).host.muxers == ("/mplex/6.7.0",)
    assert parse(["--muxer", "mplex,yamux", "--mplex"]).host.muxers == ("/mplex/6.7.0", "/yamux/1.0.0")


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
        (("--listen", "/ip4/127.0.0.1/udp/1/utp"), "--listen"),
        (("--listen", "here"), "--listen"),
        (("--deny", "everything"), "everything"),
        (("--allow", "10.0.0.1/8"), "10.0.0.1/8"),
        (("--key", "/nonexistent/key"), "/nonexistent/key"),
        (("--key", "/dev/null"), "--key"),
        (("--key", "/dev/null", "--key-type", "rsa"), "--key"),
        (("--punch-attempts", "0"), "'0'"),
        (("--bootstrap", "/ip4/11.0.0.1/tcp/1"), "/p2p/<peer id>"),
        (("--bootstrap", "there"), "--bootstrap"),
        (("--bootstrap-floor", "-1"), "--bootstrap-floor"),
        (("--punch-timeout", "nan"), "'nan'"),
        (("--log-level", "loud"), "loud"),
        (("--reachability", "perhaps"), "perhaps"),
        (("--security", "secio"), "secio"),
        (("--security", "tls,plaintext"), "tls,plaintext"),
        (("--muxer", "yamux,spdystream"), "--muxer: no 'spdystream' here"),
        (("--swarm-key", "/nonexistent/key"), "/nonexistent/key"),
        (("--swarm-key", "/dev/null"), "not a swarm key"),
        (("--relay", "/ip4/11.0.0.1/tcp/4001"), "--relay"),
        (("--stun", "/ip4/11.0.0.1/tcp/3478"), "--stun"),
        (("--stun-listen", "/ip4/0.0.0.0/udp/3478"), "--stun-listen"),
        (("--stun-listen", "/ip4/11.0.0.1/udp/1", "--stun-listen", "/ip4/11.0.0.2/udp/1"), "--stun-listen"),
        (("--stun-listen", "/ip4/11.0.0.1/udp/1") * 3, "one address, or two"),
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


def in_file(tmp_path: Path, text: str) -> list[str]:
    file = tmp_path / "node.toml"
    file.write_text(text, "utf-8")
    return ["--config", str(file)]


def test_a_file_says_what_flags_say_and_flags_hold_against_it(tmp_path: Path) -> None:
    text = '[connections]\nlisten = ["/ip4/127.0.0.1/tcp/7", "/ip6/::1/tcp/7"]\nhigh = 300\n'
    text += "[punch]\nenabled = false\ntimeout = 2\n"
    config = parse(in_file(tmp_path, text)).host
    assert [str(addr) for addr in config.listen] == ["/ip4/127.0.0.1/tcp/7", "/ip6/::1/tcp/7"]
    assert (config.watermarks.high, config.dcutr, config.punch_timeout) == (300, False, 2.0)
    config = parse([*in_file(tmp_path, text), "--listen", "/ip4/127.0.0.1/tcp/8", "--punch-timeout", "3"]).host
    assert [str(addr) for addr in config.listen] == ["/ip4/127.0.0.1/tcp/8"]
    assert (config.punch_timeout, config.dcutr) == (3.0, False)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("x = 1", 1, ["no section [x]", "allowed: node, connections"]),
        ("\n[conections]\n", 2, ["no section [conections] (did you mean 'connections'?)"]),
        (
            "[punch]\n\nattempt = 1",
            3,
            ["[punch] no key 'attempt' (did you mean 'attempts'?)", "allowed: enabled, attempts"],
        ),
        ("[punch]\nattempts = 0", 2, ["[punch] attempts: '0' is not a number from 1 to 100"]),
        ("[punch]\nattempts = []", 2, ["[punch] attempts: [] is neither a text nor a number"]),
        ("[punch]\nenabled = 1", 2, ["[punch] enabled: 1 is neither true nor false"]),
        ('[connections]\nlisten = "/ip4/1.2.3.4/tcp/1"', 2, ["is no list, such as ['ADDR']"]),
        ('[node]\nrole = "king"', 2, ["[node] role: 'king' is none of peer, relay"]),
        ("[node", None, ["not TOML"]),
    ],
)
def test_a_mistake_in_a_file_is_one_line_with_its_place(
    tmp_path: Path, text: str, line: int | None, words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(in_file(tmp_path, text))
    said = str(caught.value)
    assert said.startswith(f"{tmp_path / 'node.toml'}:{'' if line is None else line}"), said
    assert all(word in said for word in words), said
    assert "\n" not in said


@pytest.mark.parametrize("other", ["/ip4/127.0.0.1/tcp/4001/ws", "/ip4/127.0.0.1/tcp/4001"])
def test_two_listeners_do_not_share_a_port(other: str) -> None:
    with pytest.raises(ConfigError, match="are on one port; give each its own"):
        parse(["--listen", "/ip4/127.0.0.1/tcp/4001", other])


def test_listeners_on_ports_of_their_own_are_fine() -> None:
    apart = ["/ip4/127.0.0.1/tcp/4001", "/ip4/127.0.0.1/udp/4001/quic-v1", "/ip6/::1/tcp/4001", "/ip4/127.0.0.1/tcp/0"]
    assert [str(addr) for addr in parse(["--listen", *apart, "/ip4/127.0.0.1/tcp/0/ws"]).host.listen][:4] == apart


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone.toml: No such file"):
        parse(["--config", str(tmp_path / "gone.toml")])


def test_every_default_is_what_its_own_text_means() -> None:
    for setting in SETTINGS:
        if setting.parse is not None and setting.default not in (None, ()):
            texts = setting.default if setting.many else (setting.default,)
            assert (
                tuple(setting.parse(f"{text:g}" if isinstance(text, float) else str(text)) for text in texts) == texts
            )
    assert len({setting.key for setting in SETTINGS}) == len({setting.name for setting in SETTINGS}) == len(SETTINGS)


def test_the_page_about_the_configuration_is_current() -> None:
    assert configdoc.PAGE.read_text("utf-8") == configdoc.page(), "run `make docs`"
