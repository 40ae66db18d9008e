"""The transports that a peer listens on, by the names people say, and what carries each.

    transports = ["tcp", "quic"]

A peer has one port (`port`) for all of them, so it can listen on one transport of each carrier.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from lab.model.tables import Table, closest


@dataclass(frozen=True, slots=True)
class Transport:
    """One way for libp2p to connect."""

    name: str
    carrier: str
    "tcp or udp: what NATs and firewalls see of it"
    suffix: str
    "what follows the carrier and its port in a multiaddr, `/quic-v1`"

    def listen(self, port: int) -> str:
        """The part of a listen address that follows the IP address: `/udp/4001/quic-v1`."""
        return f"/{self.carrier}/{port}{self.suffix}"


TRANSPORTS: Final = {
    transport.name: transport
    for transport in (
        Transport("tcp", "tcp", ""),
        Transport("quic", "udp", "/quic-v1"),
        Transport("ws", "tcp", "/ws"),
    )
}
PUNCHABLE: Final = ("tcp", "quic")
"those that DCUtR makes holes for"
BOTH: Final = "+".join(PUNCHABLE)
"both at once, in a matrix"
DEFAULT: Final = ("tcp",)


def read_transports(table: Table) -> tuple[str, ...]:
    """The key `transports` of a peer; TopologyError names what is allowed."""
    value = table.values.get("transports", list(DEFAULT))
    known = ", ".join(TRANSPORTS)
    if not isinstance(value, list) or not value or not all(isinstance(name, str) for name in value):
        raise table.error("transports", f'must be a list of names, such as ["tcp", "quic"]; there are: {known}')
    for name in value:
        if name not in TRANSPORTS:
            raise table.error("transports", f"no transport {name!r}{closest(name, TRANSPORTS)}; there are: {known}")
    carriers = [TRANSPORTS[name].carrier for name in value]
    for index, carrier in enumerate(carriers):
        if carrier in carriers[:index]:
            one, other = value[carriers.index(carrier)], value[index]
            raise table.error("transports", f"{one} and {other} both need the peer's {carrier.upper()} port; name one")
    return tuple(value)
