"""Which connections go when there are too many."""

from __future__ import annotations

import pytest

from node.errors import ConfigError
from node.logic import trimming
from node.logic.trimming import Candidate, Trimmer, Watermarks

MARKS = Watermarks(low=2, high=4, grace=60.0, silence=10.0)
NOW = 1000.0


def candidate(name: str, *, since: float = 0.0, inbound: bool = True, streams: int = 0) -> Candidate[str]:
    return Candidate(name, name, since, inbound, streams)


def many(count: int, since: float = 0.0) -> list[Candidate[str]]:
    return [candidate(f"p{number}", since=since) for number in range(count)]


def test_nothing_goes_up_to_the_high_watermark_and_above_it_all_down_to_the_low_one() -> None:
    trimmer = Trimmer(MARKS)
    assert trimmer.get_timer(4, NOW) is None
    assert trimmer.trim(many(4), NOW) == []
    assert trimmer.get_timer(5, NOW) == NOW
    assert len(trimmer.trim(many(5), NOW)) == 3


def test_young_connections_and_protected_peers_stay() -> None:
    trimmer = Trimmer(MARKS)
    trimmer.protect("p0", "relay")
    trimmer.protect("p0", "bootstrap")
    young = [candidate("young", since=NOW - 59)]
    assert set(trimmer.trim([*many(4), *young], NOW)) == {"p1", "p2", "p3"}
    assert trimmer.unprotect("p0", "relay"), "the other protection stands"
    assert trimmer.is_protected("p0")
    assert not trimmer.unprotect("p0", "bootstrap")
    assert not trimmer.is_protected("p0")


def test_the_least_valued_go_first_then_inbound_ones_then_those_without_streams_then_the_newest() -> None:
    trimmer = Trimmer(Watermarks(low=0, high=0, grace=0.0))
    trimmer.tag("valued", "kad", 5)
    trimmer.tag("valued", "kad", 7)
    trimmer.tag("valued", "other", 3)
    assert trimmer.value("valued") == 10
    trimmer.tag("shunned", "slow", -1)
    order = [
        candidate("shunned", inbound=False, streams=9),
        candidate("new", since=5.0),
        candidate("old", since=1.0),
        candidate("busy", streams=1),
        candidate("outbound", inbound=False),
        candidate("valued"),
    ]
    assert trimmer.trim(reversed(order), NOW) == [each.connection for each in order]
    trimmer.untag("valued", "kad")
    assert trimmer.value("valued") == 3


def test_after_a_trim_there_is_silence() -> None:
    trimmer = Trimmer(MARKS)
    assert trimmer.trim(many(5), NOW)
    assert trimmer.get_timer(5, NOW + 4) == NOW + 10
    assert trimmer.trim(many(5), NOW + 9.9) == []
    assert trimmer.trim(many(5), NOW + 10)


def test_tags_and_protections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trimming, "OWNERS", 2)
    monkeypatch.setattr(trimming, "TAGS", 2)
    trimmer = Trimmer(MARKS)
    assert [trimmer.tag("a", tag, 1) for tag in ("x", "y", "z", "x")] == [True, True, False, True]
    assert [trimmer.protect(peer, "x") for peer in ("a", "b", "c", "a")] == [True, True, False, True]


@pytest.mark.parametrize(("low", "high"), [(3, 2), (-1, 2)])
def test_watermarks_that_make_no_sense_are_refused(low: int, high: int) -> None:
    with pytest.raises(ConfigError, match="low watermark"):
        Watermarks(low=low, high=high)
