"""Port mapping: read from a topology, and as a daemon's configuration and table."""

from __future__ import annotations

import pytest

from lab.errors import TopologyError
from lab.model.portmap import Mode, PortMapping, Protocol, read_port_mapping
from lab.model.tables import read
from lab.model.topology import parse
from lab.plan.build import build
from lab.plan.codec import plan_from_json, plan_to_json
from lab.plan.plan import Plan, PortMapper

EVERY = (Protocol.UPNP, Protocol.NAT_PMP, Protocol.PCP)
HOME = """\
name = "x"
[router.home]
nat = "home"
port-mapping = {offer}
[router.plain]
nat = "home"
[peer.alice]
at = "home"
[peer.bob]
at = "plain"
"""


def plan_of(offer: str) -> Plan:
    return build(parse(HOME.format(offer=offer), "x.toml"), seed=1)


def mapper_of(offer: str) -> PortMapper:
    (mapper,) = plan_of(offer).port_mappers
    return mapper


def settings_of(offer: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in mapper_of(offer).config.splitlines() if "=" in line)
    return {key: value for key, _, value in pairs}


@pytest.mark.parametrize(
    ("text", "offer"),
    [
        ('"upnp"', PortMapping((Protocol.UPNP,))),
        ('{ protocols = ["pcp", "upnp", "nat-pmp"] }', PortMapping(EVERY)),
        ('{ protocols = ["nat-pmp"], mode = "refuse" }', PortMapping((Protocol.NAT_PMP,), Mode.REFUSE)),
        ('{ protocols = ["pcp"], lease-max = "1h" }', PortMapping((Protocol.PCP,), lease_max=3600.0)),
    ],
)
def test_a_router_offers_what_its_table_says(text: str, offer: PortMapping) -> None:
    top = read(f"[router.home]\nport-mapping = {text}\n", "x.toml")
    ((_, table),) = top.tables("router")
    assert read_port_mapping(table) == offer


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('"unpn"', "port-mapping = 'unpn': no such protocol (did you mean 'upnp'?); allowed: upnp, nat-pmp, pcp, or a"),
        ("true", "port-mapping = true: must be text or a table; allowed: upnp, nat-pmp, pcp, or a table of protocols"),
        ("{ }", 'no key \'port-mapping.protocols\'; such as protocols = ["upnp", "nat-pmp", "pcp"]'),
        ("{ protocols = [] }", "port-mapping.protocols = […]: must be a list with at least one protocol, such as"),
        ('{ protocols = "pcp" }', "port-mapping.protocols = 'pcp': must be a list with at least one protocol, such as"),
        ('{ protocols = ["igd"] }', "port-mapping.protocols = […]: 'igd': not known; such as protocols = ["),
        ('{ protocols = ["pcp", "pcp"] }', "port-mapping.protocols = […]: a protocol stands in it twice"),
        (
            '{ protocols = ["pcp"], mode = "lies" }',
            "port-mapping.mode = 'lies': not known (did you mean 'lie'?); allowed",
        ),
        ('{ protocols = ["pcp"], lease = "1h" }', "port-mapping.lease = '1h': unknown key"),
        (
            '{ protocols = ["pcp"], lease-max = "500ms" }',
            "port-mapping.lease-max = '500ms': a lease is whole seconds, 1s to 1d",
        ),
        (
            '{ protocols = ["pcp"], lease-max = 60 }',
            'port-mapping.lease-max = 60: must be text, such as lease-max = "1h"',
        ),
        (
            '{ protocols = ["pcp", "upnp"], lease-max = "1h" }',
            "lease-max = '1h': miniupnpd bounds only the leases of PCP;",
        ),
    ],
)
def test_a_mistake_is_one_line_with_its_place_and_what_is_allowed(text: str, complaint: str) -> None:
    with pytest.raises(TopologyError) as wrong:
        plan_of(text)
    assert str(wrong.value).startswith("x.toml:4: [router.home] ")
    assert complaint in str(wrong.value)
    assert "\n" not in str(wrong.value)


def test_only_the_router_that_offers_has_a_daemon_and_the_plan_survives_its_file() -> None:
    plan = plan_of('"upnp"')
    assert [mapper.space for mapper in plan.port_mappers] == ["home"]
    assert plan_from_json(plan_to_json(plan)) == plan


@pytest.mark.parametrize(
    ("offer", "switches", "versions"),
    [
        ('"upnp"', ("yes", "no"), {0, 2}),
        ('"nat-pmp"', ("no", "yes"), {2}),
        ('"pcp"', ("no", "yes"), {0}),
        ('{ protocols = ["upnp", "nat-pmp", "pcp"] }', ("yes", "yes"), set()),
    ],
)
def test_what_is_not_offered_is_off_or_dropped(offer: str, switches: tuple[str, str], versions: set[int]) -> None:
    settings = settings_of(offer)
    assert (settings["enable_upnp"], settings["enable_natpmp"]) == switches
    rules = mapper_of(offer).rules
    assert {version for version in (0, 2) if f"@th,64,8 {version} drop" in rules} == versions


def test_the_modes_differ_in_the_table_alone() -> None:
    honest, lie, refuse = (
        mapper_of(f'{{ protocols = ["pcp"], mode = "{mode.value}" }}') for mode in (Mode.HONEST, Mode.LIE, Mode.REFUSE)
    )
    assert honest.config == lie.config == refuse.config
    assert ("jump mapped" in honest.rules, "chain mapped" in honest.rules) == (True, True)
    assert ("jump mapped" in lie.rules, "chain mapped" in lie.rules) == (False, True)
    assert ("jump mapped" in refuse.rules, "chain mapped" in refuse.rules) == (False, False)


def test_every_router_is_a_device_of_its_own_and_the_same_in_the_next_run() -> None:
    text = HOME.format(offer='"upnp"').replace(
        'nat = "home"\n[peer.alice]', 'nat = "home"\nport-mapping = "upnp"\n[peer.alice]'
    )
    first, second = build(parse(text, "x.toml"), seed=1).port_mappers
    assert first.config != second.config
    assert build(parse(text, "x.toml"), seed=1).port_mappers == (first, second)


@pytest.mark.parametrize(
    "wrong",
    [
        {"protocols": ()},
        {"protocols": (Protocol.PCP, Protocol.PCP)},
        {"protocols": (Protocol.PCP,), "lease_max": 0.5},
        {"protocols": (Protocol.UPNP,), "lease_max": 60.0},
    ],
)
def test_a_value_that_nothing_can_offer_cannot_be_made(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"protocol|lease|PCP"):
        PortMapping(**wrong)  # type: ignore[arg-type]
