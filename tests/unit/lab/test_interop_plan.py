"""Which setups a matrix of implementations has, which it tries, and what stands for those that nobody can."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.errors import TopologyError
from lab.model.capabilities import Capabilities, Capability, Having
from lab.model.cover import cover, pairs_in
from lab.model.interop import Check, Scene, Selection, Setup, Stack, arguments_for
from lab.model.interop_networks import network
from lab.model.known import parse_known
from lab.model.runner import CONTAINER, PROCESS, RUNNERS
from lab.model.topology import parse
from lab.plan.build import build
from lab.report.results import Mark
from lab.run.interop import Order, Shard, plan

ALL = ("own", "go", "py")
TCP = Stack("tcp", "noise", "yamux")


def everything(*checks: Check) -> Selection:
    nats = (("home", "home"), ("home", "symmetric-random"), ("full-cone", "home"))
    return Selection(ALL, ALL, ALL, checks or tuple(Check), nats=nats)


def able(impl: str, *absent: str, missing: str = "", unheard: str = "") -> Capabilities:
    found = tuple(Capability(name, Having.ABSENT, "it said no") for name in absent)
    return Capabilities(impl, f"{impl}-libp2p", "1", "", found, missing, unheard)


rows = st.lists(st.tuples(*(st.sampled_from("abc") for _ in range(4))), min_size=1, max_size=40, unique=True)


@given(rows, st.integers())
def test_a_cover_holds_every_pair_that_any_row_holds_and_no_row_twice(rows: list[tuple[str, ...]], seed: int) -> None:
    chosen = cover(rows, random.Random(seed))
    assert pairs_in(rows[number] for number in chosen) == pairs_in(rows)
    assert chosen == cover(rows, random.Random(seed))
    assert len(set(chosen)) == len(chosen)


def test_a_cover_of_a_product_is_near_the_least_that_there_can_be() -> None:
    rows = list(product("abcde", "abcde", "abcd", "xyz"))
    assert 25 <= len(cover(rows, random.Random(1))) <= 32


@pytest.mark.parametrize("scene", Scene)
def test_setups_of_a_scene_have_names_of_their_own_and_networks_that_can_be_built(scene: Scene) -> None:
    setups = everything().setups(scene)
    assert len({setup.name for setup in setups}) == len(setups)
    for topology in (network(setups[-1]), network(setups[-1], CONTAINER)):
        assert build(parse(topology.text, "again"), 1).launches == build(topology, 1).launches


def test_quic_has_neither_security_nor_muxer_to_choose() -> None:
    assert Selection(ALL, ALL, ALL).stacks == (
        Stack("tcp", "noise", "yamux"),
        Stack("tcp", "tls", "yamux"),
        Stack("ws", "noise", "yamux"),
        Stack("ws", "tls", "yamux"),
        Stack("quic"),
    )


def test_what_a_peer_says_it_lacks_is_unsupported_before_anything_is_built() -> None:
    known = {"own": able("own"), "go": able("go", "relay server"), "py": able("py", "quic", "echo")}
    planned = plan(Order(everything(), full=True), known)
    for each in planned:
        both = (each.setup.dialer, each.setup.listener)
        absent = {outcome.check: outcome.why for outcome in each.absent}
        if each.setup.stack.transport == "quic" and "py" in each.setup.implementations:
            assert not each.checks
            assert "py has no quic: it said no" in absent.values()
        elif each.setup.scene is Scene.TALK:
            assert (Check.ECHO in absent) == ("py" in both)
            assert Check.PING in each.checks
        elif each.setup.relay == "go":
            assert not each.checks


def test_a_peer_that_is_not_there_is_unsupported_in_every_setup_with_its_reason() -> None:
    known = {"own": able("own"), "go": able("go", missing="the peer of go is not built"), "py": able("py")}
    for each in plan(Order(everything(), full=True), known):
        if "go" in each.setup.implementations:
            assert not each.checks
            assert {outcome.why for outcome in each.absent} == {"the peer of go is not built"}


def test_where_an_image_was_not_heard_nothing_is_built_and_what_others_lack_is_told_all_the_same() -> None:
    known = {"own": able("own"), "go": able("go", unheard="go: it does not start"), "py": able("py", "quic")}
    for each in plan(Order(everything(), full=True, runner=CONTAINER), known):
        outcomes = {(outcome.mark, outcome.why) for outcome in each.absent}
        lacks = "py" in each.setup.implementations and each.setup.stack.transport == "quic"
        if lacks:
            assert outcomes == {(Mark.UNSUPPORTED, "py has no quic: it said no")}
        elif "go" in each.setup.implementations:
            assert outcomes == {(Mark.INCONCLUSIVE, "go: it does not start")}
        assert bool(each.checks) is not bool(outcomes)


@pytest.mark.parametrize("scene", Scene)
def test_peers_of_a_setup_are_run_in_containers_in_the_same_network(scene: Scene) -> None:
    for setup in everything().setups(scene)[:3]:
        as_processes, contained = (build(network(setup, runner), 1) for runner in RUNNERS)
        assert {launch.run for launch in contained.launches} == {CONTAINER}
        assert [replace(launch, run=PROCESS) for launch in contained.launches] == list(as_processes.launches)
        assert replace(contained, launches=as_processes.launches) == as_processes


@pytest.mark.parametrize("scene", Scene)
def test_a_cover_of_a_matrix_has_every_pair_as_tried_if_anybody_can_and_as_unsupported_if_nobody_can(
    scene: Scene,
) -> None:
    known = {"own": able("own"), "go": able("go", "mdns"), "py": able("py", "quic", "ws+tls+yamux")}
    checks = tuple(check for check in Check if check.scene is scene)
    order = Order(everything(*checks))
    full = plan(Order(everything(*checks), full=True), known)
    chosen = plan(order, known)
    assert len(chosen) <= len(full)
    tried = pairs_in(each.setup.factors for each in chosen if each.checks)
    assert tried == pairs_in(each.setup.factors for each in full if each.checks)
    assert pairs_in(each.setup.factors for each in chosen) == pairs_in(each.setup.factors for each in full)
    assert chosen == plan(order, known)


def test_shards_have_each_setup_once() -> None:
    whole = plan(Order(everything()), {})
    parts = [plan(Order(everything(), shard=Shard(number, 3)), {}) for number in (1, 2, 3)]
    assert sorted(each.setup.name for part in parts for each in part) == sorted(each.setup.name for each in whole)


@pytest.mark.parametrize(
    ("setup", "words"),
    [
        (
            Setup(Scene.TALK, "go", "py", TCP),
            "--check connect,ping,identify,echo --dialer go --listener py --transport tcp --security noise"
            " --muxer yamux",
        ),
        (
            Setup(Scene.PUNCH, "go", "own", Stack("quic"), "py", ("home", "cgnat")),
            "--check punch --dialer go --listener own --relay py --transport quic --nat home/cgnat",
        ),
    ],
)
def test_the_arguments_of_a_setup_select_it_alone(setup: Setup, words: str) -> None:
    from lab.cli import _parser
    from lab.cli_matrix import selection

    assert " ".join(arguments_for(setup)) == words
    chosen = selection(_parser().parse_args(["matrix", *words.split()]))
    assert [made for scene in chosen.scenes for made in chosen.setups(scene)] == [setup]


KNOWN = """
[failure.one]
check     = "punch"
peer      = "js"
transport = "tcp"
reason    = "no holes"
see       = "docs/interop.md#two-homes"
"""


def test_a_known_failure_fits_what_its_keys_say_and_nothing_else() -> None:
    (entry,) = parse_known(KNOWN, "known.toml")
    setup = Setup(Scene.PUNCH, "own", "js", TCP, "go", ("home", "home"))
    assert entry.fits(setup, Check.PUNCH)
    assert not entry.fits(Setup(Scene.PUNCH, "own", "go", TCP, "js", ("home", "home")), Check.PUNCH)
    assert not entry.fits(Setup(Scene.PUNCH, "own", "js", Stack("quic"), "go", ("home", "home")), Check.PUNCH)
    assert not entry.fits(setup, Check.RELAY)
    assert not entry.sometimes


def test_of_several_words_of_a_known_failure_any_fits() -> None:
    text = KNOWN.replace('"js"', '["js", "py"]').replace('"tcp"', '["tcp", "quic"]') + "sometimes = true\n"
    (entry,) = parse_known(text, "known.toml")
    assert entry.sometimes
    fitting = [
        (one, transport)
        for one in ("js", "py", "go")
        for transport in ("tcp", "quic", "ws")
        if entry.fits(Setup(Scene.PUNCH, one, "own", Stack(transport), "go"), Check.PUNCH)
    ]
    assert fitting == [("js", "tcp"), ("js", "quic"), ("py", "tcp"), ("py", "quic")]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('"punch"', '"drill"', "known.toml:3: [failure.one] check = 'drill': not known"),
        ("peer ", "pear ", "known.toml:4: [failure.one] pear = 'js': unknown key (did you mean 'peer'?)"),
        ('reason    = "no holes"', "", "no key 'reason'"),
        ('"tcp"', '"sctp"', "transport = 'sctp'"),
        ('"tcp"', '["tcp", "sctp"]', "not known; allowed: tcp, quic, ws"),
        ('"tcp"', "[]", "fits nothing; without the key it fits everything"),
        ('"tcp"', "[1]", "must be text or a list of texts"),
        ('"tcp"', '"tcp"\nsometimes = "yes"', "sometimes = 'yes': must be true or false"),
    ],
)
def test_a_mistake_among_the_known_failures_is_told_with_its_line(old: str, new: str, told: str) -> None:
    with pytest.raises(TopologyError) as caught:
        parse_known(KNOWN.replace(old, new), "known.toml")
    assert told in str(caught.value)
