"""What a whole run ought to end in: the oracle asked for each transport that the peers share."""

from __future__ import annotations

from dataclasses import replace

from lab.errors import LabError
from lab.model.topology import Topology
from lab.model.transport import PUNCHABLE, TRANSPORTS
from lab.run.oracle import Prediction, forecast

_RANK = ("direct", "relayed", "none")


def shared_transports(topology: Topology, *peers: str) -> tuple[str, ...]:
    """The transports that all of them listen on, as the first one prefers them; LabError if there is none."""
    one, *others = [topology.peer(name) for name in peers]
    shared = tuple(name for name in one.transports if all(name in other.transports for other in others))
    if not shared:
        each = "; ".join(f"{peer.name}: {', '.join(peer.transports)}" for peer in (one, *others))
        raise LabError(
            f"{topology.name}: its peers have no transport in common ({each}); give them one: transports = …"
        )
    return shared


def forecast_run(topology: Topology, dialer: str, listener: str, relay: str) -> Prediction:
    """The best of what the transports promise: one of them making a hole is enough."""
    shared = shared_transports(topology, dialer, listener, relay)
    predictions = [_by(name, topology, dialer, listener, relay) for name in shared]
    return min(predictions, key=lambda prediction: _RANK.index(prediction.path))


def _by(transport: str, topology: Topology, dialer: str, listener: str, relay: str) -> Prediction:
    prediction = forecast(topology, dialer, listener, relay, TRANSPORTS[transport].carrier)
    needs_a_hole = not (topology.peer(dialer).public or topology.peer(listener).public)
    if prediction.path == "direct" and needs_a_hole and transport not in PUNCHABLE:
        return replace(prediction, path="relayed", why=f"nobody makes holes for {transport}")
    return prediction
