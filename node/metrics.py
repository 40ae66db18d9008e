"""Counts of what happens in a node, in Prometheus' text format when somebody asks.

Counting is a dictionary and an addition for each event; the client library is imported with the first question. Labels
come from sets that we bound: strangers can name as many protocols as they like, but only those that we serve or ask for
are counted as streams.

Facts: https://prometheus.io/docs/instrumenting/exposition_formats/, names by https://prometheus.io/docs/practices/naming/
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from node.errors import ConfigError
from node.events import (
    Circuit,
    CircuitStep,
    Complaint,
    Connected,
    Disconnected,
    Event,
    Prediction,
    PredictionStep,
    PunchStage,
    PunchStep,
    ReservationLost,
    Reserved,
    StreamOpened,
)

if TYPE_CHECKING:
    from node.host import Host
    from node.wire.stun import Endpoint

PROTOCOLS = 64
"""Protocols with a count of their own; further ones are counted as `other`."""
PREFIX = "punchlab_node"
ANSWER_WITHIN = 5.0
"""Seconds for the loop to count, when asked from the thread that serves HTTP."""

_ENDS = {PunchStep.SUCCEEDED: "succeeded", PunchStep.FAILED: "failed", PunchStep.GAVE_UP: "gave_up"}
_COUNTERS = {
    "connections": ("Connections made", ("direction", "path", "transport")),
    "disconnections": ("Connections that have ended", ("path",)),
    "streams": ("Streams that agreed on a protocol", ("direction", "protocol")),
    "punches": ("Hole punches by their outcome: attempts that succeeded or failed, peers given up", ("outcome",)),
    "predictions": ("Attempts to predict ports, by what came of them", ("way", "outcome")),
    "predict_datagrams": ("Datagrams sent to ports that were predicted or drawn", ("way",)),
    "reservations": ("Slots at relays that were granted or lost", ("outcome",)),
    "circuits": ("Circuits that our relay has opened", ()),
    "relayed_bytes": ("Payload that our relay has passed on in circuits that have ended", ("direction",)),
    "complaints": ("Things that should not have happened", ()),
    "refusals": ("Connections, streams and windows that a limit refused", ("scope",)),
    "stream_bytes": ("Payload of streams", ("direction", "protocol")),
    "dials": ("Addresses dialled, by what came of it", ("outcome",)),
}
"""What is counted: help and labels."""


class Metrics:
    """The counts of one host, from the moment it is made; a service of the host."""

    def __init__(self, host: Host, listen: Endpoint | None = None) -> None:
        self._host = host
        self._listen = listen
        self._counts: Counter[tuple[str, tuple[str, ...]]] = Counter()
        self._protocols: set[str] = set()
        self._unsubscribe = host.subscribe(self._happened)
        self._loop: asyncio.AbstractEventLoop
        self._thread: int
        self._server: tuple[Any, Any] | None = None

    async def start(self) -> None:
        """Serve the text by HTTP, at every path, where that was asked for; ConfigError if the port cannot be had."""
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        if self._listen is None:
            return
        from prometheus_client import start_http_server

        try:
            self._server = start_http_server(self._listen.port, str(self._listen.ip), self._registry())
        except OSError as error:
            raise ConfigError(f"--metrics-listen: {self._listen}: {error.strerror or error}") from error

    async def close(self) -> None:
        """Count and serve no more."""
        self._unsubscribe()
        if self._server is not None:
            # In a thread: somebody who is being answered may be waiting for the loop.
            await asyncio.to_thread(_shut, *self._server)
            self._server = None

    @property
    def port(self) -> int | None:
        """Where the text is served, None if it is not."""
        return None if self._server is None else int(self._server[0].server_port)

    def text(self) -> str:
        """All counts and gauges now."""
        from prometheus_client import generate_latest

        return generate_latest(self._registry()).decode()

    def _registry(self) -> Any:
        from prometheus_client import CollectorRegistry

        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return registry

    def collect(self) -> Iterable[Any]:
        """Hand over all families; the client library calls this, from a thread of its own where it serves HTTP."""
        if threading.get_ident() == self._thread:
            return self._families()
        return asyncio.run_coroutine_threadsafe(self._gather(), self._loop).result(ANSWER_WITHIN)

    async def _gather(self) -> list[Any]:
        return self._families()

    def _families(self) -> list[Any]:
        from prometheus_client.core import CounterMetricFamily

        counts: dict[tuple[str, tuple[str, ...]], int] = dict(self._counts)
        counts |= {("dials", (outcome,)): count for outcome, count in self._host.swarm.dialled.items()}
        counts |= {("refusals", (scope,)): count for scope, count in self._host.swarm.resources.refused.items()}
        for protocol, (inward, outward) in self._host.swarm.traffic.by_protocol().items():
            counts |= {("stream_bytes", ("in", protocol)): inward, ("stream_bytes", ("out", protocol)): outward}
        families: list[Any] = []
        for name, (help, labels) in _COUNTERS.items():
            family = CounterMetricFamily(f"{PREFIX}_{name}", help, labels=labels)
            for (counted, values), count in sorted(counts.items()):
                if counted == name:
                    family.add_metric(values, count)
            families.append(family)
        return [*families, *self._gauges()]

    def _gauges(self) -> Iterator[Any]:
        from prometheus_client.core import GaugeMetricFamily

        connections = self._host.swarm.connections()
        now = Counter((each.direction.value, each.path.value, each.transport) for each in connections)
        gauges: tuple[tuple[str, str, tuple[str, ...], Iterable[tuple[tuple[str, ...], float]]], ...] = (
            ("open_connections", "Connections", ("direction", "path", "transport"), sorted(now.items())),
            ("open_streams", "Streams of all connections", (), [((), sum(each.streams for each in connections))]),
            ("known_peers", "Peers in the address book", (), [((), len(self._host.addressbook))]),
        )
        for name, help, labels, samples in gauges:
            family = GaugeMetricFamily(f"{PREFIX}_{name}", help, labels=labels)
            for values, value in samples:
                family.add_metric(values, value)
            yield family

    def _happened(self, event: Event) -> None:
        match event:
            case Connected():
                self._add("connections", event.direction.value, event.path.value, event.transport)
            case Disconnected():
                self._add("disconnections", event.path.value)
            case StreamOpened():
                self._add("streams", event.direction.value, self._bounded(event.protocol))
            case PunchStage() if event.stage in _ENDS:
                self._add("punches", _ENDS[event.stage])
            case Prediction(stage=PredictionStep.SKIPPED):
                self._add("predictions", "none", "skipped")
            case Prediction(way=str(way), sent=int(sent)):
                self._add("predictions", way, event.stage.value)
                self._add("predict_datagrams", way, count=sent)
            case Reserved():
                self._add("reservations", "granted")
            case ReservationLost():
                self._add("reservations", "lost")
            case Circuit(stage=CircuitStep.OPENED):
                self._add("circuits")
            case Circuit(stage=CircuitStep.CLOSED):
                self._add("relayed_bytes", "up", count=event.bytes_up)
                self._add("relayed_bytes", "down", count=event.bytes_down)
            case Complaint():
                self._add("complaints")
            case _:
                return

    def _add(self, name: str, *labels: str, count: int = 1) -> None:
        self._counts[name, labels] += count

    def _bounded(self, protocol: str) -> str:
        if protocol not in self._protocols and len(self._protocols) >= PROTOCOLS:
            return "other"
        self._protocols.add(protocol)
        return protocol


def _shut(server: Any, thread: threading.Thread) -> None:
    server.shutdown()
    server.server_close()
    thread.join()
