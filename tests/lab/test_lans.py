"""LANs as mDNS sees them, measured: what a switch passes on, what a reflector does, and that the probe can be wrong."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import socket
from collections.abc import Callable

import pytest

from lab.kernel.network import Network
from lab.model.switch import Snooping, Switch
from lab.model.topology import parse
from lab.observe.lan import LanCertificate, To
from lab.plan.build import build
from lab.plan.plan import Plan
from lab.run.lan_probe import certify_lans
from lab.services.reflector import GROUP4, MAX_MESSAGE
from lab.services.running import Services

Inside = Callable[[Callable[[], None]], None]
HOME = """
name = "home"
[router.home]
nat = "home"
lan = {{ snooping = "{snooping}", isolation = {isolation}, link-local = {link_local} }}
[peer.alice]
at = "home"
[peer.bob]
at = "home"
[peer.carol]
at = "home"
"""
THREE_LANS = """
name = "three-lans"
[router.home]
nat = "home"
lan = {{ link-local = true, snooping = "{snooping}" }}
[router.guest]
nat = "home"
lan = {{ link-local = true, isolation = true{reflector} }}
[router.iot]
nat = "home"
lan = {{ link-local = true }}
[peer.alice]
at = "home"
[peer.bob]
at = "guest"
[peer.bill]
at = "guest"
[peer.carol]
at = "iot"
"""


def home(snooping: str, *, isolation: bool = False, link_local: bool = True) -> Plan:
    text = HOME.format(snooping=snooping, isolation=str(isolation).lower(), link_local=str(link_local).lower())
    return build(parse(text, "home.toml"), seed=1)


def three_lans(reflector: str = ', reflector = "home"', snooping: str = "off") -> Plan:
    return build(parse(THREE_LANS.format(reflector=reflector, snooping=snooping), "three-lans.toml"), seed=1)


def measure(plan: Plan, declared: Plan | None = None) -> dict[str, LanCertificate]:
    """The certificates of a plan's LANs, held against another plan if one is given."""

    async def main() -> list[LanCertificate]:
        with Network.build(plan) as network:
            services = await Services.start(network, lambda _: None)
            try:
                return await certify_lans(network, declared or plan, settled_within=0.3 if declared else 3.0)
            finally:
                await services.close()

    return {certificate.router: certificate for certificate in asyncio.run(main())}


def hearers(certificate: LanCertificate, to: To, *, joined: bool) -> set[str]:
    return {
        host
        for shot in certificate.shots
        if shot.to is to and shot.joined is joined and not shot.reflected
        for host in shot.heard_by
    }


@pytest.mark.parametrize(
    ("snooping", "isolation", "link_local"), list(itertools.product(Snooping, (False, True), (False, True)))
)
def test_every_kind_of_lan_measures_as_declared(
    inside: Inside, snooping: Snooping, isolation: bool, link_local: bool
) -> None:
    def check() -> None:
        (certificate,) = measure(home(snooping.value, isolation=isolation, link_local=link_local)).values() or (None,)
        assert certificate is not None
        assert certificate.differences == ()
        assert {shot.to for shot in certificate.shots} == {to for to in To if link_local or not to.ipv6}

    if (snooping, isolation, link_local) != (Snooping.OFF, False, False):  # a plain switch, which nobody measures
        inside(check)


def test_a_switch_that_snoops_sends_a_group_to_its_members_and_mdns_to_all(inside: Inside) -> None:
    def check() -> None:
        (certificate,) = measure(home("on")).values()
        assert hearers(certificate, To.MDNS, joined=False) == {"bob", "carol"}
        assert hearers(certificate, To.MDNS6, joined=False) == set()
        assert hearers(certificate, To.MDNS6, joined=True) == {"bob", "carol"}
        assert hearers(certificate, To.GROUP, joined=False) == set()

    inside(check)


def test_mdns_over_ipv4_is_lost_in_a_broken_switch_and_over_ipv6_is_not(inside: Inside) -> None:
    def check() -> None:
        (certificate,) = measure(home("broken")).values()
        assert hearers(certificate, To.MDNS, joined=True) == set()
        assert hearers(certificate, To.MDNS6, joined=True) == {"bob", "carol"}

    inside(check)


def test_a_lan_that_is_not_as_declared_is_told_host_by_host(inside: Inside) -> None:
    def check() -> None:
        (certificate,) = measure(home("off"), declared=home("on", isolation=True)).values()
        assert "bob hears alice at 224.0.0.251, which it has not joined" in certificate.differences
        assert "carol is reached by alice" in certificate.differences
        (certificate,) = measure(home("broken"), declared=home("off")).values()
        assert "bob does not hear alice at 224.0.0.251, which it has joined" in certificate.differences

    inside(check)


@pytest.mark.parametrize("snooping", [kind.value for kind in Snooping])
def test_a_reflector_brings_mdns_to_the_other_lan_and_to_no_third(inside: Inside, snooping: str) -> None:
    def check() -> None:
        certificates = measure(three_lans(snooping=snooping))
        assert {name: certificate.differences for name, certificate in certificates.items()} == {
            "home": (),
            "guest": (),
            "iot": (),
        }
        crossed = {(s.by, host, s.to) for s in certificates["guest"].shots if s.reflected for host in s.heard_by}
        assert crossed == {("alice", host, to) for host in ("bob", "bill") for to in (To.MDNS, To.MDNS6)}
        assert not [shot for shot in certificates["iot"].shots if shot.reflected]

    inside(check)


def test_in_a_network_with_ipv6_every_lan_has_its_groups(inside: Inside) -> None:
    def check() -> None:
        text = HOME.format(snooping="on", isolation="false", link_local="false")
        plan = build(parse(f'ip = "dual-stack"\n{text}', "home.toml"), seed=1)
        (certificate,) = measure(plan).values()
        assert certificate.differences == ()
        assert hearers(certificate, To.MDNS6, joined=True) == {"bob", "carol"}

    inside(check)


def test_without_a_reflector_mdns_stays_on_its_lan(inside: Inside) -> None:
    def check() -> None:
        certificates = measure(three_lans(reflector=""), declared=three_lans())
        assert "bob does not hear alice at 224.0.0.251, which it has joined" in certificates["guest"].differences
        assert not [host for shot in certificates["guest"].shots if shot.reflected for host in shot.heard_by]

    inside(check)


def test_a_reflector_passes_on_mdns_and_nothing_else(inside: Inside) -> None:
    async def main() -> list[bytes]:
        with Network.build(three_lans()) as network:
            services = await Services.start(network, lambda _: None)
            with (
                network.spaces["bob"].socket(socket.AF_INET, socket.SOCK_DGRAM) as bob,
                network.spaces["alice"].socket(socket.AF_INET, socket.SOCK_DGRAM) as alice,
                network.spaces["alice"].socket(socket.AF_INET, socket.SOCK_DGRAM) as legacy,
            ):
                bob.setblocking(False)
                bob.bind(("", 5353))
                member = socket.inet_aton(GROUP4) + socket.inet_aton("192.168.1.10")
                bob.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
                alice.bind(("", 5353))
                legacy.sendto(b"answer me by unicast", (GROUP4, 5353))
                alice.sendto(b"short", (GROUP4, 5353))
                alice.sendto(bytes(MAX_MESSAGE + 1), (GROUP4, 5353))
                alice.sendto(b"an mDNS message", (GROUP4, 5353))
                async with asyncio.timeout(5):
                    heard = [await asyncio.get_running_loop().sock_recv(bob, 10000)]
            await services.close()
            return heard

    def check() -> None:
        assert asyncio.run(main()) == [b"an mDNS message"]

    inside(check)


def test_lans_reflected_by_one_in_the_middle_hear_each_other(inside: Inside) -> None:
    def check() -> None:
        plan = three_lans()
        by_router = {lan.router: lan for lan in plan.lans}
        chained = dataclasses.replace(by_router["iot"], switch=Switch(reflector="guest", link_local=True))
        plan = dataclasses.replace(plan, lans=(by_router["home"], by_router["guest"], chained))
        certificates = measure(plan)
        assert [certificate.differences for certificate in certificates.values()] == [(), (), ()]
        assert {(s.by, s.heard_by) for s in certificates["iot"].shots if s.reflected} == {
            ("alice", ("carol",)),
            ("bob", ("carol",)),
        }

    inside(check)
