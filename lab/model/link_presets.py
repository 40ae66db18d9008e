"""The links that have names. A preset is a value and nothing else: writing its keys out in a topology is the same.

Latencies are one way and half of the round trip that the source gives; what a source does not tell is marked as chosen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from lab.model.impairment import Impairment, Link


@dataclass(frozen=True, slots=True)
class Preset:
    """A link that has a name."""

    link: Link
    summary: str
    source: str
    "where the values come from"


def _both(**values: float | int | None) -> Link:
    same = Impairment(**values)  # type: ignore[arg-type]
    return Link(same, same)


_MBIT: Final = 1_000_000
LINKS: Final[Mapping[str, Preset]] = MappingProxyType(
    {
        "fibre": Preset(
            Link(
                Impairment(0.002, 0.0002, 0.0001, rate=100 * _MBIT), Impairment(0.002, 0.0002, 0.0001, rate=300 * _MBIT)
            ),
            "Fibre to the home.",
            "latency: WebPageTest's profile FIOS, 4 ms round trip; rates: a common 300/100 Mbit/s contract",
        ),
        "dsl": Preset(
            Link(
                Impairment(0.025, 0.001, 0.0005, rate=1 * _MBIT, buffer=64 << 10),
                Impairment(0.025, 0.001, 0.0005, rate=16 * _MBIT, buffer=128 << 10),
                mtu=1492,
            ),
            "ADSL2+ with PPPoE and the large buffer of its modem.",
            "latency: FCC, Measuring Broadband America: 49 ms mean round trip for DSL; rates: ITU-T G.992.5 allows"
            " 24/1.4 Mbit/s; MTU: RFC 2516 §7",
        ),
        "cable": Preset(
            Link(
                Impairment(0.014, 0.003, 0.0005, rate=10 * _MBIT, buffer=256 << 10),
                Impairment(0.014, 0.003, 0.0005, rate=100 * _MBIT),
            ),
            "DOCSIS cable, asymmetric.",
            "latency: WebPageTest's profile Cable, 28 ms round trip (FCC, Measuring Broadband America: 32 ms); rates: a"
            " common 100/10 Mbit/s contract",
        ),
        "wifi": Preset(
            _both(latency=0.004, jitter=0.003, loss=0.001, loss_burst=2.0, rate=100 * _MBIT),
            "Wi-Fi near its access point.",
            "latency: Sui et al., MobiSys 2016: median 3 ms, 90 % below 20 ms; loss: what is left after the radio's own"
            " retransmissions, comes in bursts",
        ),
        "wifi-bad": Preset(
            _both(latency=0.025, jitter=0.02, loss=0.02, loss_burst=4.0, rate=10 * _MBIT),
            "Wi-Fi through two walls with busy neighbours.",
            "latency: Pei et al., INFOCOM 2017: more than half of the packets above 20 ms; loss and rate are chosen",
        ),
        "4g": Preset(
            Link(
                Impairment(0.027, 0.01, 0.003, rate=13_600_000, buffer=512 << 10),
                Impairment(0.027, 0.01, 0.003, rate=14_700_000, buffer=512 << 10),
            ),
            "LTE in a city.",
            "latency and rates: Ofcom, 4G and 3G mobile broadband speeds, end of 2014: 53.1 ms round trip,"
            " 14.7/13.6 Mbit/s",
        ),
        "3g": Preset(
            Link(
                Impairment(0.15, 0.025, 0.005, rate=768_000, buffer=128 << 10),
                Impairment(0.15, 0.025, 0.005, rate=1_600_000, buffer=256 << 10),
            ),
            "UMTS, slow and deeply buffered.",
            "latency and rates: WebPageTest's profile 3G, 300 ms round trip, 1.6 Mbit/s and 768 kbit/s",
        ),
        "leo": Preset(
            Link(
                Impairment(0.025, 0.008, 0.005, 8.0, rate=15 * _MBIT),
                Impairment(0.025, 0.008, 0.005, 8.0, rate=150 * _MBIT),
            ),
            "Satellites in low orbit.",
            "latency: Michel et al., A First Look at Starlink Performance, IMC 2022: 50 ms median round trip,"
            " quartiles 40 and 60; bursts of loss at handovers: Kassem et al., IMC 2022",
        ),
        "geo": Preset(
            Link(
                Impairment(0.3, 0.01, 0.003, rate=10 * _MBIT, buffer=512 << 10),
                Impairment(0.3, 0.01, 0.003, rate=100 * _MBIT, buffer=2 << 20),
            ),
            "A geostationary satellite.",
            "latency: RFC 2488 §2: 279 ms one way at the edge of the view, and processing; rates: the 100/10 Mbit/s"
            " contract in Michel et al., IMC 2022",
        ),
        "lossy": Preset(
            _both(latency=0.02, loss=0.05),
            "Every twentieth packet is lost, and nothing else.",
            "no real network: a link for tests",
        ),
    }
)
