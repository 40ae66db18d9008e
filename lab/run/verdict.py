"""What a scenario's outcome is called, and how the path of a connection is judged.

PASSED and FAILED speak of the peers, INCONCLUSIVE of the lab: it broke, or was not what it was declared to be, so
nothing can be said of the peers. UNSUPPORTED is a peer's own answer. A verdict is made once and never rewritten.
"""

from __future__ import annotations

from dataclasses import dataclass

from lab.report.results import Mark


@dataclass(frozen=True, slots=True)
class Verdict:
    """A mark and the one sentence that gives its reason."""

    mark: Mark
    why: str


@dataclass(frozen=True, slots=True)
class Sighting:
    """All that is known of the final path between two peers."""

    predicted: str
    predicted_why: str
    claimed: str
    "what the peers say: direct, relayed or none"
    direct_on_wire: bool
    "payload went both ways between the two NATs while the echo ran"
    relay_bytes: int
    "payload bytes that the relay's interface carried while the echo ran"
    echo_bytes: int
    "size of the echoed payload, one way"
    silent: bool = False
    "one of the two exchanged no payload with anybody"

    @property
    def seen(self) -> str:
        """The path as the wire shows it."""
        # Other implementations tell the relay of a new address just then, or have it dial them back.
        if self.direct_on_wire and self.relay_bytes < self.echo_bytes:
            return "direct"
        if self.silent:
            return "none"
        # The payload crosses the relay's interface four times: in and out, there and back.
        return "relayed" if self.relay_bytes >= 4 * self.echo_bytes else "unclear"


def judge(sighting: Sighting) -> Verdict:
    """Compare the wire with the peers' word first, then with the prediction."""
    seen = sighting.seen
    if seen != sighting.claimed:
        wire = f"{'a' if sighting.direct_on_wire else 'no'} direct flow and {sighting.relay_bytes} B through the relay"
        return Verdict(Mark.FAILED, f"the peers say {sighting.claimed}, the wire shows {wire} during the echo")
    if seen != sighting.predicted:
        return Verdict(Mark.FAILED, f"seen {seen}, predicted {sighting.predicted}: {sighting.predicted_why}")
    return Verdict(Mark.PASSED, sighting.predicted_why)
