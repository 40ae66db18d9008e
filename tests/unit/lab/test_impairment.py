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
        ('{ loss = "90%", loss-burst = 2 }', ["link.loss-burst = 2: must be 9 to 1000 at a loss of 90%: between two"]),
        ('{ loss = "99.9%", loss-burst = 9 }', ["link.loss-burst = 9: must be 999 to 1000 at a loss of 99.9%"]),
        ('{ loss = "100%", loss-burst = 4 }', ["link.loss-burst = 4: cannot be had at a loss of 100%; leave it out"]),
        ("{ loss-burst = 0 }", ["link.loss-burst = 0", "allowed: 1 to 1000"]),
        ("{ loss-burst = 0.99 }", ["link.loss-burst = 0.99", "allowed: 1 to 1000"]),
        ("{ loss-burst = 1001 }", ["link.loss-burst = 1001", "allowed: 1 to 1000"]),
        ("{ loss-burst = -4 }", ["link.loss-burst = -4", "allowed: 1 to 1000"]),
        ("{ loss-burst = inf }", ["link.loss-burst = inf", "allowed: 1 to 1000"]),
        ("{ loss-burst = nan }", ["link.loss-burst = nan", "allowed: 1 to 1000"]),
        ("{ loss-burst = true }", ["link.loss-burst = true", "allowed: 1 to 1000"]),
        ('{ loss-burst = "4" }', ["link.loss-burst = '4'", "allowed: 1 to 1000"]),
        ("{ up = { loss-burst = 0 } }", ["link.up.loss-burst = 0", "allowed: 1 to 1000"]),
        ('{ loss = "90%", down = { loss-burst = 2 } }', ["link.down.loss-burst = 2: must be 9 to 1000"]),
        ('{ duplicate = "101%" }', ["link.duplicate = '101%'", "allowed: 0% to 100%"]),
        ('{ latency = "1ms", reorder = "-1%" }', ["link.reorder = '-1%'", "allowed: 0% to 100%"]),
        ('{ down = { corrupt = "101%" } }', ["link.down.corrupt = '101%'", "allowed: 0% to 100%"]),
        ('{ latency = "5s", jitter = "3s" }', ["link.jitter = '3s'", "0s to 2s"]),
        ('{ rate = "11Gbit" }', ["link.rate = '11Gbit'", "allowed: 8kbit to 10Gbit"]),
        ('{ rate = "1Mbit", buffer = "1GiB" }', ["link.buffer = '1GiB'", "allowed: 1600B to 268435456B"]),
        ('{ rate = "1Mbit", buffer = "0.001ms" }', ["link.buffer", "allowed: 1600B to"]),
        ('{ reorder = "1%" }', ["link.reorder", "needs a latency"]),
        ('{ rate = "1bit" }', ["link.rate", "allowed: 8kbit to 10Gbit"]),
        ('{ rate = "fast" }', ["link.rate", "such as '10Mbit'"]),
        ('{ buffer = "64KiB" }', ["link.buffer", "needs a rate"]),
        ('{ rate = "1Mbit", buffer = "1B" }', ["link.buffer", "allowed: 1600B to"]),
        ("{ mtu = 100 }", ["link.mtu = 100", "576 to 1500"]),
        ("{ mtu = 1501 }", ["link.mtu = 1501", "576 to 1500"]),
        ("{ mtu = 1280.0 }", ["link.mtu = 1280.0", "whole bytes, 576 to 1500"]),
        ("{ mtu = true }", ["link.mtu = true", "whole bytes"]),
        ('{ mtu = "1280" }', ["link.mtu = '1280'", "whole bytes"]),
        ("{ up = { mtu = 1280 } }", ["link.up.mtu", "allowed: latency"]),
        ('{ pmtu-black-hole = "yes" }', ["link.pmtu-black-hole = 'yes'", "true or false"]),
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
        ('[peer.bob]\nat = "home"\nregion = "eu"', "[peer.bob] region = 'eu': it is where its router is"),
        ('[peer.bob]\nat = "home"\nlink = { mtu = 1000 }', "[peer.bob] link = {…}: mtu: all on a LAN have one"),
        ('[region.x]\nlatency = { eus = "1ms" }', "[region.x] latency.eus = '1ms': no such region (did you mean"),
        ('[region.x]\nlatency = { eu = "1h" }', "[region.x] latency.eu = '1h': out of range; allowed: 0s to 10s"),
        ("[region.x]\nlatency = 3", "[region.x] latency = 3: must be a table"),
        (
            '[router.inner]\nnat = "home"\nat = "home"\nregion = "us"\n[peer.in]\nat = "inner"',
            "[router.inner] region = 'us': it is where its router is",
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


@pytest.mark.parametrize("ip", ["dual-stack", "ipv6"])
def test_a_link_that_carries_ipv6_takes_packets_of_1280_bytes(ip: str) -> None:
    text = 'name = "x"\nip = "{}"\n[peer.a]\nat = "internet"\nlink = {{ mtu = {} }}\n'
    assert parse(text.format(ip, 1280), "x.toml").peer("a").link == Link(mtu=1280)
    with pytest.raises(TopologyError) as caught:
        parse(text.format(ip, 1279), "x.toml")
    told = (
        "x.toml:5: [peer.a] link.mtu = 1279: allowed: whole bytes, 1280 to 1500, for the link carries IPv6 (RFC 8200)"
    )
    assert str(caught.value) == told
    assert parse(text.format("ipv4", 1279), "x.toml").peer("a").link == Link(mtu=1279)


@pytest.mark.parametrize("loss", ["50%", "66.6667%", "90%", "99.9%"])
def test_the_shortest_burst_that_a_message_names_can_be_had(loss: str) -> None:
    with pytest.raises(TopologyError) as caught:
        link(f'{{ loss = "{loss}", loss-burst = {1 if loss != "50%" else 0} }}')
    least = str(caught.value).partition(" to 1000")[0].rpartition(" ")[2]
    found = link(f'{{ loss = "{loss}", loss-burst = {least} }}').up
    assert found.loss_burst is not None
    out, back = gilbert(found.loss, found.loss_burst)
    assert out <= 1.0
    assert out / (out + back) == pytest.approx(found.loss, abs=1e-6)


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
