"""The lab's name service: which names there are below `lab`, and what its answers are worth.

    [dns]                                   # there is a server; every peer and router has its name: alice.lab
    mode = "honest"

    [dns.bootstrap]                         # and so has bootstrap.lab
    dnsaddr = ["relay", "/dns4/relay.lab/tcp/9/p2p/12D3KooW…"]
    mode    = "slow"
    delay   = "2s"

A peer in `dnsaddr` stands for its own address, known once it is ready, which is before the others start; so does every
peer's own name, whenever that is. Of a peer behind a router it is the one that the internet sees, which nobody has
opened. What begins with a slash is taken as it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from lab.model.tables import Table, closest
from lab.model.units import format_duration, parse_duration

DELAY: Final = 3.0
"Seconds of a slow answer that does not say how slow."
MAX_DELAY: Final = 60.0
MAX_NAMES: Final = 200
MAX_ADDRESSES: Final = 100
"of one name: what implementations take of one"
MAX_ADDRESS: Final = 255 - len("dnsaddr=")
"Bytes: a string of a TXT record has 255 (RFC 1035 §3.3)."
LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
ADDRESS: Final = re.compile(r"/[!-~]+")

_SERVER_KEYS: Final = ("mode", "delay")
_NAME_KEYS: Final = ("address", "dnsaddr", "mode", "delay")


class Mode(Enum):
    """What a server does with a question."""

    HONEST = "honest"
    SLOW = "slow"
    "the right answer, late"
    DEAD = "dead"
    "no answer"
    FAILING = "failing"
    "SERVFAIL (RFC 1035 §4.1.1)"
    LYING = "lying"
    "its own address for everybody's, as a captive portal's does"


@dataclass(frozen=True, slots=True)
class Name:
    """A name that the topology declares, or says more of than that it is a peer's or a router's."""

    name: str
    "its first label"
    address: str | None
    "the peer or router whose address it has"
    dnsaddr: tuple[str, ...]
    "peers, and multiaddrs, which begin with a slash"
    mode: Mode
    delay: float
    "seconds"


@dataclass(frozen=True, slots=True)
class Dns:
    """The name service of a topology."""

    mode: Mode = Mode.HONEST
    delay: float = DELAY
    "seconds"
    names: tuple[Name, ...] = ()


def read_dns(top: Table, routers: Sequence[str], peers: Sequence[str]) -> Dns | None:
    """The table `dns` of a topology; None: there is no server. TopologyError for what cannot be."""
    value = top.values.get("dns")
    if value is None:
        return None
    if not isinstance(value, dict):
        raise top.error("dns", 'must be a table: [dns], and [dns.bootstrap] with dnsaddr = ["relay"]')
    own = {key: setting for key, setting in value.items() if not isinstance(setting, dict) or key in _SERVER_KEYS}
    server = Table(top.places, ("dns",), own)
    server.check_keys(_SERVER_KEYS)
    mode, delay = _mode(server, Mode.HONEST), _delay(server, DELAY)
    tables = [(key, Table(top.places, ("dns", key), value[key])) for key in value if key not in own]
    if len(tables) > MAX_NAMES:
        raise server.error(None, f"{len(tables)} names; allowed: {MAX_NAMES}")
    return Dns(mode, delay, tuple(_name(key, table, mode, delay, routers, peers) for key, table in tables))


def _name(name: str, table: Table, mode: Mode, delay: float, routers: Sequence[str], peers: Sequence[str]) -> Name:
    if not LABEL.fullmatch(name):
        raise table.error(None, "a name has 1 to 63 lower-case letters, digits and inner hyphens; `.lab` is put behind")
    table.check_keys(_NAME_KEYS)
    address = table.text("address", '"relay"') if "address" in table.values else None
    if address is not None and address not in (*routers, *peers):
        near = closest(address, [*routers, *peers])
        raise table.error("address", f"no such peer or router{near}; there are: {', '.join((*peers, *routers))}")
    return Name(name, address, _dnsaddr(table, peers), _mode(table, mode), _delay(table, delay))


def _dnsaddr(table: Table, peers: Sequence[str]) -> tuple[str, ...]:
    value = table.values.get("dnsaddr", [])
    if not isinstance(value, list):
        raise table.error("dnsaddr", 'must be a list, such as dnsaddr = ["relay"]')
    if len(value) > MAX_ADDRESSES:
        raise table.error("dnsaddr", f"{len(value)} addresses; allowed: {MAX_ADDRESSES}")
    for item in value:
        if not isinstance(item, str):
            raise table.error("dnsaddr", "holds something that is not text; allowed: peers and multiaddrs")
        if item not in peers and not ADDRESS.fullmatch(item):
            near = closest(item, peers)
            raise table.error("dnsaddr", f"{item!r} is no peer{near} and no multiaddr; peers: {', '.join(peers)}")
        if len(item) > MAX_ADDRESS:
            raise table.error("dnsaddr", f"holds an address of {len(item)} bytes; allowed: {MAX_ADDRESS}")
    return tuple(value)


def _mode(table: Table, default: Mode) -> Mode:
    return Mode(table.choice("mode", (mode.value for mode in Mode), default.value))


def _delay(table: Table, default: float) -> float:
    text = table.text("delay", '"3s"', format_duration(default))
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise table.error("delay", str(error)) from None
    if seconds > MAX_DELAY:
        raise table.error("delay", f"allowed: up to {format_duration(MAX_DELAY)}")
    return seconds
