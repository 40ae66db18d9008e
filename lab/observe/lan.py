"""What a LAN's own hosts must hear of each other, and how what they heard differs from it (`lab.model.switch`).

A shot is one packet, from one host to a group or to the others themselves, and the set of those at whose interface it
arrived. What is expected of it follows from RFC 4541 and from the switch's value; how the switch is made is not asked.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from lab.model.switch import Snooping, Switch


class To(Enum):
    """Where a shot goes."""

    MDNS = "224.0.0.251"
    MDNS6 = "ff02::fb"
    GROUP = "239.255.53.53"
    "a group like any other (RFC 2365)"
    GROUP6 = "ff02::5353:5353"
    ITSELF = "its own address"
    "each of the others by unicast"

    @property
    def ipv6(self) -> bool:
        """Whether it is an IPv6 group."""
        return self in (To.MDNS6, To.GROUP6)


@dataclass(frozen=True, slots=True)
class Shot:
    """One packet and who heard it."""

    lan: str
    "the router on whose LAN those who heard it are"
    by: str
    "the host that sent it"
    reflected: bool
    "whether it came from another LAN"
    to: To
    joined: bool
    "whether those who heard it, or did not, have joined the group"
    listeners: tuple[str, ...]
    heard_by: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LanCertificate:
    """Whether one LAN is what it was declared to be."""

    router: str
    declared: Switch
    shots: tuple[Shot, ...]
    differences: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether everything measured as declared."""
        return not self.differences


def arrives(switch: Switch, to: To, *, joined: bool, reflected: bool) -> bool:
    """Whether such a packet arrives at a host on a LAN with that switch."""
    if reflected:
        # The router says it again, to whom isolation does not apply, and which floods whatever a switch would.
        return to is To.MDNS or (to is To.MDNS6 and (joined or not _prunes(switch)))
    if switch.isolation:
        return False
    if to is To.ITSELF or not _prunes(switch):
        return True
    if to is To.MDNS:
        return switch.snooping is not Snooping.BROKEN
    return joined


def certificate(router: str, switch: Switch, shots: Iterable[Shot]) -> LanCertificate:
    """What these shots say of a LAN."""
    shots = tuple(shots)
    wrong = tuple(sentence for shot in shots for sentence in differences(switch, shot))
    return LanCertificate(router, switch, shots, wrong)


def differences(switch: Switch, shot: Shot) -> list[str]:
    """One sentence for each host that heard what it must not, or did not hear what it must."""
    expected = arrives(switch, shot.to, joined=shot.joined, reflected=shot.reflected)
    if shot.to is To.ITSELF:
        said = {False: f"is not reached by {shot.by}", True: f"is reached by {shot.by}"}
    else:
        where = f"{shot.by} at {shot.to.value}, which it has {'joined' if shot.joined else 'not joined'}"
        said = {False: f"does not hear {where}", True: f"hears {where}"}
    heard = set(shot.heard_by)
    return [f"{host} {said[not expected]}" for host in shot.listeners if (host in heard) is not expected]


def _prunes(switch: Switch) -> bool:
    return switch.snooping in (Snooping.ON, Snooping.BROKEN)
