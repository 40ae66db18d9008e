"""Topologies read from TOML: what they mean, and the one line that says what is wrong with one."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.errors import TopologyError
from lab.model.grid import grid
from lab.model.nat import Filtering, Hairpinning, Mapping, Nat, Ports
from lab.model.presets import PRESETS
from lab.model.topology import INTERNET, MAX_FILE, Topology, load, parse
from lab.model.writing import nat_to_toml, nat_words
from lab.plan.build import build

LIBRARY = Path(__file__).resolve().parents[3] / "topologies"

TWO_HOMES = """\
name    = "two-homes"
summary = "Two homes."

[router.home-a]
nat = "home"

[router.home-b]
nat = { mapping = "endpoint", filtering = "address", ports = "random", hairpin = true, udp-timeout = "1m" }

[peer.relay]
at   = "internet"
role = "relay"

[peer.alice]
at = "home-a"

[peer.bob]
at   = "home-b"
impl = "own"
"""

BASE = """\
name = "x"
[router.home-a]
nat = "home"
[peer.bob]
at = "home-a"
"""


def complaint(text: str) -> str:
    with pytest.raises(TopologyError) as caught:
        parse(text, "two-homes.toml")
    return str(caught.value)


def test_a_topology_is_what_its_file_says() -> None:
    topology = parse(TWO_HOMES, "two-homes.toml")
    assert (topology.name, topology.summary, topology.text) == ("two-homes", "Two homes.", TWO_HOMES)
    assert topology.nat_of("alice") == PRESETS["home"].nat
    assert topology.nat_of("bob") == Nat(
        Mapping.ENDPOINT_INDEPENDENT,
        Filtering.ADDRESS_DEPENDENT,
        Ports.RANDOM,
        Hairpinning.EXTERNAL_SOURCE,
        udp_timeout=60.0,
    )
    assert topology.nat_of("relay") is None
    assert [(peer.name, peer.at, peer.role) for peer in topology.peers] == [
        ("relay", INTERNET, "relay"),
        ("alice", "home-a", "peer"),
        ("bob", "home-b", "peer"),
    ]


def test_routers_and_peers_know_their_lines() -> None:
    topology = parse(TWO_HOMES, "two-homes.toml")
    assert [router.line for router in topology.routers] == [4, 7]
    assert [peer.line for peer in topology.peers] == [10, 14, 17]


@pytest.mark.parametrize(
    "text",
    [
        'name = "x"\npeer.bob.at = "home-a"\nrouter.home-a.nat = "home"\n',
        'name = "x"\npeer = { bob = { at = "home-a" } }\n[router]\nhome-a.nat = "home"\n',
        '"name" = "x"\r\n[ router . "home-a" ]\r\nnat = \'home\'\r\n[peer.bob]\r\nat = "home-a"',
        'name = "x"\n[peer.bob]\nat = "home-a"\n'
        '[router.home-a.nat]\nmapping = "endpoint"\nfiltering = "address-and-port"\n',
    ],
)
def test_any_toml_for_the_same_tables_is_the_same_network(text: str) -> None:
    topology = parse(text, "t.toml")
    assert topology.nat_of("bob") == PRESETS["home"].nat


@pytest.mark.parametrize("nat", grid(), ids=nat_words)
def test_every_nat_reads_back_from_its_table(nat: Nat) -> None:
    for lifetimes in (nat, replace(nat, udp_timeout=5.0, tcp_timeout=3601.0), replace(nat, udp_timeout=99.0)):
        text = BASE.replace('"home"', nat_to_toml(lifetimes))
        assert parse(text, "t.toml").nat_of("bob") == lifetimes


@pytest.mark.parametrize(
    ("line", "extra", "parts"),
    [
        (
            7,
            '[peer.al]\nat = "home-c"',
            ["[peer.al] at = 'home-c'", "no such router", "routers: home-a, or 'internet'"],
        ),
        (7, '[peer.al]\nat = "bob"', ["no such router", "routers: home-a"]),
        (7, '[peer.al]\nat = "hom-a"', ["did you mean 'home-a'?"]),
        (6, '[peer.al]\nrole = "peer"', ["[peer.al] at: there is none", "home-a, or 'internet'"]),
        (7, "[peer.al]\nat = 3", ["[peer.al] at = 3", "must be text", "not a number"]),
        (
            8,
            '[peer.al]\nat = "home-a"\nroles = "relay"',
            ["unknown key (did you mean 'role'?)", "allowed: at, impl, role"],
        ),
        (8, '[peer.al]\nat = "home-a"\nrole = "relais"', ["did you mean 'relay'?", "allowed: peer, relay"]),
        (8, '[peer.al]\nat = "home-a"\nimpl = "goo"', ["impl = 'goo'", "did you mean 'go'", "allowed: own, go, rust"]),
        (8, '[peer.al]\nat = "home-a"\nlink = { mtu = 1400 }', ["link = {…}: mtu", "put it into [router.home-a]"]),
        (8, '[peer.al]\nat = "home-a"\nregion = "eu"', ["[peer.al] region", "put the key into [router.home-a]"]),
        (8, '[peer.al]\nat = "home-a"\nrun = "docker"', ["run = 'docker'", "allowed: process, container"]),
        (6, '[peer.home-a]\nat = "internet"', ["[peer.home-a]", "duplicate name", "[router.home-a] in line 2"]),
        (6, '[peer.bob]\nat = "internet"', ["[peer.bob]", "declared twice", "line 4", "given once"]),
        (6, 'at = "internet"', ["[peer.bob]", "'at' stands twice", "line 5"]),
        (6, '[peer.Al]\nat = "internet"', ["[peer.Al]", "1 to 15 lower-case letters"]),
        (6, '[peer.a-name-too-long-x]\nat = "internet"', ["1 to 15 lower-case letters"]),
        (6, '[peer."a b\\n"]\nat = "internet"', ["1 to 15 lower-case letters"]),
        (6, '[peer.core]\nat = "internet"', ["[peer.core]", "the lab's own"]),
        (6, "[[peer.al]]\nat = 1", ["[peer] al = […]", "must be a table of its own"]),
        (6, '[routers.h]\nnat = "home"', ["top level: routers", "did you mean 'router'?", "allowed: name, summary"]),
        (
            7,
            '[router.h]\nlink = { latency = "20" }\nnat = "home"',
            ["[router.h] link.latency = '20'", "not a duration"],
        ),
        (6, "[router.h]", ["[router.h] nat: there is none", "full-cone"]),
        (7, "[router.h]\nnat = true", ["nat = true", "must be text or a table", "full-cone"]),
        (7, '[router.h]\nnat = "symetric"', ["no such preset (did you mean 'symmetric'?)", "full-cone", "mapping"]),
        (7, '[router.h]\nnat = "none"', ["[router.h] nat = 'none'", "always translates", "at = 'internet'"]),
        (7, '[router.h]\nnat = { mapping = "endpoint" }', ["no key 'nat.filtering'", "address"]),
        (
            7,
            '[router.h]\nnat = { mapping = "port", filtering = "address" }',
            ["nat.mapping = 'port'", "no rules", "endpoint"],
        ),
        (
            7,
            '[router.h]\nnat = { mapping = "endpoint", filtering = "adress" }',
            ["nat.filtering = 'adress'", "no rules", "did you mean 'address'?", "address-and-port-dependent"],
        ),
        (
            7,
            '[router.h]\nnat = { mapping = "endpoint", filtering = "address", ports = "parity" }',
            [
                "nat.ports = 'parity'",
                "no rules",
                "allowed: preserving, preserving-then-sequential, sequential, random, hashed, block",
            ],
        ),
        (
            7,
            '[router.h]\nnat = { mapping = "endpoint", filtering = "address", hairpin = "yes" }',
            ["nat.hairpin", "true or false, or one of none, internal-source, external-source"],
        ),
        (
            7,
            '[router.h]\nnat = { mapping = "endpoint", filtering = "address", pooling = "arbitrary" }',
            ["nat.pooling", "nothing arbitrary about one public address"],
        ),
        (
            7,
            '[router.h]\nnat = { mapping = "endpoint", filtering = "address", ports = "block", '
            'public-addresses = 2, pooling = "arbitrary" }',
            ["nat.pooling", "block is on one address"],
        ),
        (
            7,
            '[router.h]\nnat = { mapping = "endpoint", filtering = "address", public-addresses = 9 }',
            ["nat.public-addresses = 9", "allowed: 1 to 8"],
        ),
        (
            7,
            '[router.h]\nnat = { mapping = "endpoint", filtering = "address", block-size = 128 }',
            ["nat.block-size = 128", 'only ports = "block"'],
        ),
        (
            7,
            '[router.h]\nnat = { mapping = "endpoint", filtering = "address", ports = "block", block-size = 63 }',
            ["nat.block-size = 63", "allowed: 64 to 4096"],
        ),
        (
            7,
            '[router.h]\nnat = { mapping = "endpoint", filtering = "address", udp-timeout = "20s", '
            'udp-new-timeout = "30s" }',
            ["nat.udp-new-timeout = '30s'", "must not be longer than udp-timeout, 20s"],
        ),
        (
            7,
            '[router.h]\nnat = { mapping = "endpoint", filtering = "address", tcp-transitory-timeout = "3h" }',
            ["nat.tcp-transitory-timeout", "tcp-timeout, 2h4m"],
        ),
        (
            7,
            '[router.h]\nnat = { mapping = "address", filtering = "address", one-to-one = true }',
            ["nat.mapping = 'address'", "one mapping for all destinations"],
        ),
        (
            7,
            '[router.h]\nnat = { filtering = "address", ports = "random", one-to-one = true }',
            ["nat.ports = 'random'", "keeps the one it has"],
        ),
        (
            7,
            '[router.h]\nnat = { filtering = "endpoint", unsolicited = "reset", one-to-one = true }',
            ["nat.unsolicited = 'reset'", "answer for themselves"],
        ),
        (
            7,
            '[router.h]\nnat = { mapping = "endpoint", filtering = "address", unsolicited = "tarpit" }',
            ["nat.unsolicited = 'tarpit'", "allowed: drop, reset, icmp"],
        ),
        (
            10,
            '[router.h]\n[router.h.nat]\nmapping = "endpoint"\nfiltering = "address"\nudp-timeout = "30"',
            ["[router.h] nat.udp-timeout = '30'", "not a duration", "ms, s, m, h, d"],
        ),
        (
            7,
            '[router.h]\nnat = { mapping = "endpoint", filtering = "address", tcp-timeout = "1500ms" }',
            ["nat.tcp-timeout", "whole seconds, 1s to 5d"],
        ),
        (
            7,
            '[router.h]\nnat = { mapping = "endpoint", filtering = "address", preset = "home" }',
            ["nat.preset = 'home'", "unknown key", "allowed: mapping, filtering, ports, hairpin"],
        ),
        (6, '[router.h]\nnat = "home"', ["[router.h]", "no peer is behind it", "at = 'h'"]),
        (7, "[peer.al]\nat = []", ["[peer.al] at = […]", "a list of 1 to 4", "routers: home-a"]),
        (7, '[peer.al]\nat = ["home-a", 3]', ["must be a place, or a list"]),
        (7, '[peer.al]\nat = ["home-a", "hom-b"]', ["no such router (did you mean 'home-a'?)"]),
        (7, '[peer.al]\nat = ["internet", "internet"]', ["names internet twice"]),
        (
            9,
            '[router.h]\nnat = "home"\n[peer.al]\nat = ["home-a", "h"]',
            ["home-a and h have overlapping LANs, 192.168.1.0/24", "lan = '10.0.0.0/8'"],
        ),
        (8, '[peer.al]\nat = "home-a"\naddresses = 2', ["[peer.al] addresses", "behind a router has one address"]),
        (8, '[peer.al]\nat = "internet"\naddresses = 5', ["addresses = 5", "1 to 4"]),
        (
            11,
            '[router.h]\nnat = "home"\nlan = "10.0.0.0/24"\n[peer.al]\nat = ["home-a", "h"]\nlink = "wifi"',
            ["it has several uplinks, home-a and h; give those routers links"],
        ),
        (8, '[peer.al]\nat = "internet"\ndials = "bob"', ["[peer.al] dials = 'bob'", "must be a list of peers"]),
        (8, '[peer.al]\nat = "internet"\ndials = ["bo"]', ["no such peer 'bo' (did you mean 'bob'?)", "peers: bob"]),
        (8, '[peer.al]\nat = "internet"\ndials = ["al"]', ["it is the peer itself"]),
        (8, '[peer.al]\nat = "internet"\ndials = ["bob"]', ["bob is behind home-a, where nobody is let in unasked"]),
        (8, '[peer.al]\nat = "home-a"\ndials = ["bob", "bob"]', ["names a peer twice"]),
        (
            11,
            '[peer.al]\nat = "home-a"\ndials = ["cy"]\n[peer.cy]\nat = "home-a"\ndials = ["al"]',
            ["[peer.cy]", "al dials cy already"],
        ),
        (7, "[peer.al]\nat = internet", ["[peer.al] at: not TOML: invalid value", '"text"']),
        (6, "[peer.al\nat = 1", ["table header: not TOML", "']'"]),
        (7, '[peer.al]\nat = "home-a', ["[peer.al] at: not TOML"]),
        (6, "x = " + "[" * 3000, ["two tables deep"]),
    ],
)
def test_a_mistake_is_one_line_with_its_place_and_what_is_allowed(line: int, extra: str, parts: list[str]) -> None:
    message = complaint(BASE + extra)
    if "two tables deep" not in parts:
        assert message.startswith(f"two-homes.toml:{line}: "), message
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "no key 'name'"),
        ("name = 3", "name = 3: must be text"),
        ('name = "../x"', "letters, digits"),
        ('name = "x"\nsummary = """a\nb"""', "one line of text"),
        ('name = "x"', "no peers"),
        ('name = "x"\npeer = 3', "[peer.NAME]"),
        ('name = "x"\n[[peer]]\nat = "internet"', "[peer.NAME]"),
        ("name = " + "9" * 5000, "t.toml:"),
        ('name = "x"\n# \x00', "not TOML"),
    ],
)
def test_a_file_without_the_basics_is_told_so(text: str, part: str) -> None:
    with pytest.raises(TopologyError) as caught:
        parse(text, "t.toml")
    message = str(caught.value)
    assert part in message
    assert re.match(r"t\.toml:\d+: (top level:|\[)", message)
    assert "\n" not in message


def test_keys_of_a_multiline_text_are_not_taken_for_keys() -> None:
    text = 'name = "x"\nsummary = """\\\n[peer.al] \\\nrole = 1 \\\n"""\n[peer.al]\nat = "internet"\nrole = "boss"\n'
    assert complaint(text).startswith("two-homes.toml:8: [peer.al] role = 'boss'")


def test_more_peers_than_a_lan_has_room_for_are_refused() -> None:
    crowd = "".join(f'[peer.p{index}]\nat = "home-a"\n' for index in range(200))
    assert "201 peers are behind it; allowed: 200" in complaint(BASE + crowd)
    publics = "".join(f'[peer.p{index}]\nat = "internet"\n' for index in range(250))
    assert "allowed: 250 together" in complaint(BASE + publics)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b'name = "x"\nsummary = "caf\xe9"\n')
    (tmp_path / "long.toml").write_bytes(b"#" * (MAX_FILE + 1))
    for name, part in (
        ("absent.toml", "absent.toml: No such file"),
        ("", "Is a directory"),
        ("latin.toml", "latin.toml:2: not text in UTF-8"),
        ("long.toml", "256 KiB"),
    ):
        with pytest.raises(TopologyError, match=re.escape(part)):
            load(tmp_path / name)


def test_every_topology_of_the_library_reads_and_is_named_after_its_file() -> None:
    files = sorted(LIBRARY.glob("*.toml"))
    assert files
    for file in files:
        topology = load(file)
        assert topology.name == file.stem
        assert topology.summary
        assert topology.path == file


def test_every_topology_of_the_library_has_a_scenario() -> None:
    scenarios = "".join(path.read_text("utf-8") for path in (LIBRARY.parent / "tests" / "lab").glob("test_*.py"))
    named = set(re.findall(r'\btopology\("([a-z0-9-]+)"', scenarios))
    assert {file.stem for file in LIBRARY.glob("*.toml")} <= named


def test_a_peer_dials_who_is_public_or_on_a_lan_in_front_of_it() -> None:
    text = """
    name = "x"
    [router.outer]
    nat = "home"
    [router.inner]
    nat = "home"
    at = "outer"
    [peer.server]
    at = "internet"
    [peer.ann]
    at = "outer"
    [peer.ben]
    at = "inner"
    dials = ["ann", "server"]
    """
    topology = parse(text, "t.toml")
    assert topology.peer("ben").dials == ("ann", "server")
    assert [launch.dials for launch in build(topology, 1).launches] == [(), (), ("ann", "server")]


def outcome(text: str) -> Topology | str:
    try:
        return parse(text, "t.toml")
    except TopologyError as error:
        return str(error)


@given(st.text(max_size=200))
def test_any_text_is_a_topology_or_one_line_of_complaint(text: str) -> None:
    result = outcome(text)
    assert isinstance(result, Topology) or len(result.splitlines()) == 1


@given(st.lists(st.sampled_from([*TWO_HOMES.splitlines(), "[", "]]", '"', "'''", "x = {", "nat = 1", "a.b.c = 2"])))
def test_any_shuffle_of_lines_is_a_topology_or_one_line_with_its_place(lines: list[str]) -> None:
    result = outcome("\n".join(lines))
    assert isinstance(result, Topology) or re.fullmatch(r"t\.toml:\d+: .+", result)
