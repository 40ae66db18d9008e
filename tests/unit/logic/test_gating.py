"""Whom we connect with, and who may open what."""

import pytest

from node.errors import ConfigError
from node.logic.gating import Authorisation, Gater
from node.names.keys import PrivateKey
from node.names.multiaddr import Multiaddr
from node.names.peerid import PeerId

ALICE, BOB = (PeerId.from_public_key(PrivateKey.generate().public) for _ in range(2))
QUIC, TCP = Multiaddr("/ip4/11.0.0.1/udp/4001/quic-v1"), Multiaddr("/ip4/11.0.0.1/tcp/4001")


def test_a_pattern_denies_what_begins_like_it_and_the_longer_one_decides() -> None:
    gater = Gater(deny=["/ip4/*/udp"], allow=["/ip4/11.0.0.1/udp/4001"])
    assert gater.allows(TCP)
    assert gater.allows(QUIC)
    assert not gater.allows(Multiaddr("/ip4/11.0.0.1/udp/4002/quic-v1"))
    assert not gater.allows(Multiaddr("/ip4/11.0.0.2/udp/4001/quic-v1"))


def test_a_rule_for_one_direction_leaves_the_other_alone() -> None:
    gater = Gater(deny=["in:11.0.0.0/8", "out:/ip4/*/udp", f"in:{ALICE}"])
    assert gater.allows(TCP, inbound=False)
    assert not gater.allows(TCP, inbound=True)
    assert not gater.allows(QUIC, inbound=False)
    assert gater.allows_peer(ALICE, inbound=False)
    assert not gater.allows_peer(ALICE, inbound=True)


def test_addresses_and_patterns_must_both_allow() -> None:
    gater = Gater(deny=["11.0.0.0/8"], allow=["/ip4/11.0.0.1/tcp"])
    assert not gater.allows(TCP)


def test_everybody_can_be_denied_but_some() -> None:
    gater = Gater(deny=["*"], allow=[str(ALICE)])
    assert gater.allows_peer(ALICE)
    assert not gater.allows_peer(BOB)
    assert gater.allows(TCP)


@pytest.mark.parametrize("rule", ["", "11.0.0.1/8", "in:", "12D3KooWnobody", "up:11.0.0.0/8"])
def test_a_rule_that_is_none_is_named(rule: str) -> None:
    with pytest.raises(ConfigError, match="neither a network"):
        Gater([rule])


def test_a_protocol_that_names_some_is_open_to_them_alone() -> None:
    authorisation = Authorisation([f"/admin/*={ALICE}", f"/admin/read={ALICE},{BOB}", "/closed="])
    assert authorisation.allows(ALICE, "/admin/write")
    assert not authorisation.allows(BOB, "/admin/write")
    assert authorisation.allows(BOB, "/admin/read")
    assert not authorisation.allows(ALICE, "/closed")
    assert authorisation.allows(BOB, "/echo")


def test_the_user_is_asked_beside_the_rules() -> None:
    authorisation = Authorisation([f"/admin={ALICE}"], lambda peer, protocol: peer == BOB)
    assert authorisation.allows(BOB, "/echo")
    assert not authorisation.allows(ALICE, "/echo")
    assert not authorisation.allows(ALICE, "/admin")
    assert not authorisation.allows(BOB, "/admin")


@pytest.mark.parametrize("rule", ["/echo", "echo=", "/echo=nobody"])
def test_an_authorisation_that_is_none_is_named(rule: str) -> None:
    with pytest.raises(ConfigError, match="cannot tell whom"):
        Authorisation([rule])
