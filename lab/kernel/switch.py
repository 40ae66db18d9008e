"""Bridges as the switches of a plan: multicast snooping, a querier, isolated ports (`lab.model.switch`).

Facts of the kernel's bridge that shaped it (net/bridge/br_multicast.c):

* With snooping, groups are pruned only while a querier is known, and with one of its own only once the time that hosts
  have for an answer has passed: 10 s by default, a tenth of one here, set before the querier is.
* 224.0.0.X is never taken for a group that somebody joins: it is flooded, to ports that may be flooded to.
* The querier of MLD needs a link-local address to ask from. Without one it waits for 31 s before it tries again, and
  IPv6 groups are flooded; so the bridge has its address, from the plan, before it becomes the querier.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from lab.kernel.link import Links
from lab.kernel.namespace import Namespace
from lab.model.switch import Snooping
from lab.plan.switching import LanPlan

ANSWER_WITHIN: Final = 0.1
"Seconds that hosts have to say what they have joined when the querier asks."
_CLOCK: Final = 100
"Of bridge timers as netlink has them: USER_HZ."


def configure(lans: Iterable[LanPlan], spaces: Mapping[str, Namespace]) -> None:
    """Have these LANs' bridges be what their plan says; raises KernelError."""
    for lan in lans:
        space = spaces[lan.router]
        index = space.interfaces()
        snooping = lan.switch.snooping
        with Links(space) as links:
            if snooping is not Snooping.OFF:
                querier = snooping is not Snooping.NO_QUERIER
                links.set_bridge(index[lan.bridge], MCAST_QUERY_RESPONSE_INTVL=round(ANSWER_WITHIN * _CLOCK))
                links.set_bridge(index[lan.bridge], MCAST_SNOOPING=1, MCAST_QUERIER=int(querier))
            for station in lan.stations:
                flags = {"ISOLATED": int(lan.switch.isolation), "MCAST_FLOOD": int(snooping is not Snooping.BROKEN)}
                links.set_bridge_port(index[station.port], **flags)
