"""Links as values: what is possible, what a topology may say, and the one line that says what is wrong."""

from __future__ import annotations

import pytest

from lab.errors import TopologyError
from lab.model.impairment import IDEAL, Impairment, Link, gilbert
from lab.model.link_presets import LINKS
from lab.model.topology import Topology, parse
from lab.model.units import format_latency, format_percent, format_rate, parse_percent, parse_rate

TOPOLOGY = """\
name = "x"
[region.eu]
latency = {{ us = "40ms", eu = "5ms" }}
[region.us]
[region.far]
latency = {{ us = "50ms" }}
[router.home]
nat = "home"
region = "eu"
link = {link}
[peer.alice]
at = "home"
[peer.relay]
at = "internet"
{extra}
"""


def topology(link: str = '"wifi"', extra: str = "") -> Topology:
    return parse(TOPOLOGY.format(link=link, extra=extra), "x.toml")


def link(text: str) -> Link:
    found = topology(text).routers[0].link
    assert found is not None
    return found


def test_a_link_is_ideal_unless_it_says_otherwise() -> None:
    assert topology().peer("relay").link is None
    assert link("{}") == Link(IDEAL, IDEAL)
    assert link("{}").up.does_nothing


@pytest.mark.parametrize("name", LINKS)
def test_every_preset_can_be_asked_for_by_its_name(name: str) -> None:
    router = topology(f'"{name}"').routers[0]
    assert (router.link, router.link_preset) == (LINKS[name].link, name)


def test_keys_outside_a_direction_count_for_both_and_a_direction_may_differ() -> None:
    found = link('{ latency = "20ms", loss = "0.5%", up = { rate = "1Mbit" }, down = { loss = "1%" } }')
    assert found.up == Impairment(latency=0.02, loss=0.005, rate=1_000_000)
    assert found.down == Impairment(latency=0.02, loss=0.01)


def test_a_buffer_is_bytes_or_a_time_at_the_rate() -> None:
    assert link('{ rate = "10Mbit", buffer = "64KiB" }').up.queue == 65536
    assert link('{ rate = "10Mbit", buffer = "50ms" }').up.queue == 62500
    assert link('{ rate = "10Mbit" }').up.queue == 125_000


def test_a_distance_counts_both_ways_and_a_region_may_tell_its_own() -> None:
    told = {(here, there): seconds for here, there, seconds in topology().distances}
    assert told == {
        ("eu", "us"): 0.04,
        ("us", "eu"): 0.04,
        ("eu", "eu"): 0.005,
        ("far", "us"): 0.05,
        ("us", "far"): 0.05,
    }


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('{ loss = "120%" }', ["link.loss = '120%': out of range; allowed: 0% to 100%"]),
        ('{ latency = "-1ms" }', ["link.latency = '-1ms': not a duration", "allowed: 0s to 10s"]),
        ('{ latency = "11s" }', ["link.latency", "allowed: 0s to 10s"]),
        ("{ latency = 20 }", ["link.latency", 'must be text, such as latency = "20ms"']),
        ('{ latency = "1ms", jitter = "2ms" }', ["link.jitter", "no more than the latency, 0s to 1ms"]),
        ('{ latency = "1ms", up = { jitter = "2ms" } }', ["link.up.jitter", "0s to 1ms"]),
        ("{ loss = 0.5 }", ["link.loss = 0.5", 'loss = "0.5%"']),
        ('{ loss = "half" }', ["link.loss", "percent sign"]),
        ('{ loss = "90%", loss-burst = 2 }', ["link.loss-burst", "too short"]),
        ("{ loss-burst = 0 }", ["link.loss-burst = 0", "allowed: 1 to 1000"]),
        ('{ reorder = "1%" }', ["link.reorder", "needs a latency"]),
        ('{ rate = "1bit" }', ["link.rate", "allowed: 8kbit to 10Gbit"]),
        ('{ rate = "fast" }', ["link.rate", "such as '10Mbit'"]),
        ('{ buffer = "64KiB" }', ["link.buffer", "needs a rate"]),
        ('{ rate = "1Mbit", buffer = "1B" }', ["link.buffer", "allowed: 1600B to"]),
        ("{ mtu = 100 }", ["link.mtu = 100", "576 to 1500"]),
        ("{ pmtu-black-hole = true }", ["link.pmtu-black-hole", "needs an mtu"]),
        ('{ up = { los = "1%" } }', ["link.up.los", "did you mean 'loss'?"]),
        ('{ up = "wifi" }', ["link.up", "must be a table"]),
        ('"wfi"', ["link = 'wfi': no such preset (did you mean 'wifi'?)", "geo"]),
        ("7", ["link = 7: must be text or a table"]),
    ],
)
def test_an_impossible_link_is_one_line_with_its_place_and_what_is_allowed(text: str, parts: list[str]) -> None:
    with pytest.raises(TopologyError) as caught:
        topology(text)
    message = str(caught.value)
    assert message.startswith("x.toml:10: [router.home] ")
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("extra", "part"),
    [
        ('region = "as"', "[peer.relay] region = 'as': no such region; regions: eu, us, far"),
        ('[peer.bob]\nat = "home"\nlink = "wifi"', "put it into [router.home]"),
        ('[region.x]\nlatency = { eus = "1ms" }', "[region.x] latency.eus = '1ms': no such region (did you mean"),
        ('[region.x]\nlatency = { eu = "1h" }', "[region.x] latency.eu = '1h': out of range; allowed: 0s to 10s"),
        ("[region.x]\nlatency = 3", "[region.x] latency = 3: must be a table"),
        (
            '[router.inner]\nnat = "home"\nat = "home"\nlink = "wifi"\n[peer.in]\nat = "inner"',
            "[router.inner] link = 'wifi': only links to the",
        ),
        ("[region.X]", "[region.X] the name must begin"),
    ],
)
def test_an_impossible_place_is_one_line_too(extra: str, part: str) -> None:
    with pytest.raises(TopologyError) as caught:
        topology(extra=extra)
    assert part in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"latency": -0.1},
        {"loss": 1.2},
        {"jitter": 0.1},
        {"reorder": 0.1},
        {"buffer": 2000},
        {"rate": 1},
        {"loss": 0.5, "loss_burst": 0.5},
        {"latency": float("nan")},
    ],
)
def test_an_impossible_impairment_cannot_be_made(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))[:4]):
        Impairment(**values)  # type: ignore[arg-type]


def test_gilberts_chances_give_the_loss_that_was_asked() -> None:
    out, back = gilbert(0.02, 4.0)
    assert out / (out + back) == pytest.approx(0.02)
    assert 1 / back == 4.0


@pytest.mark.parametrize("rate", [8_000, 768_000, 1_600_000, 10**10, 123_456_789])
def test_a_rate_is_read_back_as_it_was_written(rate: int) -> None:
    assert parse_rate(format_rate(rate)) == rate


def test_shares_and_latencies_are_written_shortly() -> None:
    assert (format_percent(0.005), format_percent(1.0), format_latency(0.0002)) == ("0.5%", "100%", "0.2ms")
    assert parse_percent("0.5%") == 0.005
