"""Events as values and as words."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.errors import EventError
from lab.model import event as events
from lab.model.event import KINDS, LifeEvent, kind_of, parse
from lab.model.link_presets import LINKS

NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,14}", fullmatch=True)
ADDRESSES = st.ip_addresses(v=4).map(str)
EVENTS: st.SearchStrategy[LifeEvent] = st.one_of(
    st.builds(events.Reboot, st.booleans()),
    st.sampled_from([events.Expire(), events.Rebind(), events.Replenish(), events.LinkDown(), events.LinkUp()]),
    st.builds(events.ChangeAddress, ADDRESSES),
    st.sampled_from(["wifi", "ideal", "latency=80ms loss=2%", "latency=5ms up.rate=1Mbit"]).map(events.SetLink),
    st.just(events.LoseLeases()),
    st.builds(events.Exhaust, st.integers(0, events.MOST_LEFT)),
    st.builds(events.Partition, NAMES),
    st.builds(events.Heal, st.none() | NAMES),
    st.builds(events.Move, NAMES, st.none() | ADDRESSES),
    st.sampled_from([events.Kill(), events.Start()]),
)


@given(EVENTS)
def test_an_event_reads_as_it_is_written(event: LifeEvent) -> None:
    assert parse(str(event)) == event
    assert str(event).startswith(kind_of(event).word)


@given(st.text(max_size=40))
def test_words_that_are_no_event_are_refused_and_never_crash(text: str) -> None:
    try:
        event = parse(text)
    except EventError:
        return
    assert kind_of(event).word == text.split()[0]


def test_every_kind_can_be_written_by_its_own_usage() -> None:
    for kind in KINDS.values():
        words = (
            kind.usage.replace("ADDRESS", "11.0.9.2")
            .replace("LEFT", "3")
            .replace("VALUES…", "wifi")
            .replace("[", "")
            .replace("]", "")
        )
        event = parse(words)
        assert type(event) is kind.kind
        assert kind_of(event) is kind


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no event ''; there are: reboot, expire,"),
        ("rebot", "did you mean reboot?"),
        ("reboot now", "reboot [other-ports]"),
        ("reboot other-ports please", "reboot [other-ports]"),
        ("address", "address ADDRESS"),
        ("address 11.0.9", "'11.0.9' is no IPv4 address"),
        ("address 2a00::1", "no IPv4 address"),
        ("exhaust -1", "0 to 4096 ports can be left"),
        ("exhaust 4097", "0 to 4096 ports can be left"),
        ("exhaust " + "9" * 10_000, "0 to 4096 ports can be left"),
        ("exhaust ²", "0 to 4096 ports can be left"),
        ("partition", "partition PLACE"),
        ("move", "move ROUTER [ADDRESS]"),
        ("move home-b here", "'here' is no IPv4 address"),
        ("link", "link VALUES…"),
        ("link lossily", "'lossily' says nothing of a link, which is ideal, "),
        ("link loss=120%", "loss must be 0 to 1"),
        ("link latency=-5ms", "latency=-5ms: not a duration"),
        ("link sideways.rate=1Mbit", "'sideways.rate=1Mbit' says nothing of a link"),
        ("link loss=2% loss-burst=x", "loss-burst=x: not a number; packets lost in a row, on average, 1 to 1000"),
        ("link loss=2% loss-burst=0", "a link's loss-burst must be 1 to 1000, not 0"),
        ("link loss=90% loss-burst=2", "a link's loss-burst must be 9 to 1000 at a loss of 90%"),
        ("link mtu=1280", "'mtu=1280' says nothing of a link"),
        ("link reorder=1%", "reorder needs a latency"),
        ("kill -9", "'kill -9' is not how it is written: kill"),
    ],
)
def test_a_mistake_is_told_with_what_is_right(text: str, complaint: str) -> None:
    with pytest.raises(EventError) as caught:
        parse(text)
    assert complaint in str(caught.value)


def test_an_address_is_kept_as_it_is_usually_written() -> None:
    assert ipaddress.IPv4Address(events.ChangeAddress("11.0.9.2").address) == ipaddress.IPv4Address("11.0.9.2")
    with pytest.raises(EventError, match="no IPv4 address"):
        events.ChangeAddress("011.0.9.2")


def test_a_link_is_told_for_both_sides_or_one() -> None:
    up, down = events.SetLink("latency=80ms loss=2% down.loss=5% up.rate=1Mbit").ways
    assert (up.latency, up.loss, up.rate) == (0.08, 0.02, 1_000_000)
    assert (down.latency, down.loss, down.rate) == (0.08, 0.05, None)
    assert events.SetLink("wifi").ways == (LINKS["wifi"].link.up, LINKS["wifi"].link.down)
    assert all(side.does_nothing for side in events.SetLink("ideal").ways)
