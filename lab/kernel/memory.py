"""What a NAT remembers, and making it forget: the elements of its rule set's maps and sets, and conntrack's entries.

The two refresh each other: a packet of a flow that conntrack knows records its mapping anew, and a packet of a mapping
makes a flow. So whatever is to be forgotten is forgotten while the router is paused: it drops every packet, its own
programs' too, before conntrack has seen it, for the some 20 ms that this takes. Afterwards, still paused, what is there
is read back.

The names of maps and sets say what they are for (`lab.plan.ruleset`): `in_…` maps external ports to inner endpoints,
`used_…` holds the external ports that have an owner. Of the others it is enough to know whose address, or which
external port, their elements begin with, so that rule sets may have more of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from lab.errors import KernelError
from lab.kernel import conntrack, nft
from lab.kernel.namespace import Namespace
from lab.plan.names import TABLE

PAUSE_TABLE: Final = "punchlab_pause"
SCARCE_TABLE: Final = "punchlab_scarce"
TRIES: Final = 5
"Readings of the sets; an element may run out of time between its reading and its deletion, which then fails."

_PAUSE: Final = f"""table inet {PAUSE_TABLE} {{
  chain everything {{
    type filter hook prerouting priority -450; policy drop;
  }}
  chain own {{
    type filter hook output priority -450; policy drop;
  }}
}}
"""
_FRESH: Final = "meta mark 0x1"
"a port that was drawn for a new mapping, as `lab.plan.ruleset` marks it"


@dataclass(frozen=True, slots=True)
class Element:
    """One element of a map or set with a lifetime."""

    family: str
    holder: str
    "the name of the map or set"
    key: tuple[str, ...]
    value: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """`in`, `used`, …"""
        return self.holder.partition("_")[0]

    @property
    def protocol(self) -> str:
        """What the holder's name says after its kind: the protocol, and which public address."""
        return self.holder.partition("_")[2]


def forget(ns: Namespace, rules: Iterable[str], *, hold: bool = False) -> None:
    """Load a router's rules anew and drop its flows: it remembers nothing. Raises KernelError.

    With `hold` the external ports that were mapped stay taken for one lifetime.
    """
    with paused(ns):
        held = [element for element in remembered(ns) if element.kind == "used"] if hold else []
        for text in rules:
            nft.load(ns, text)
        nft.command(ns, _without(SCARCE_TABLE, "inet"))
        conntrack.flush(ns)
        if left := [*map(str, remembered(ns)), *map(str, conntrack.entries(ns))]:
            raise KernelError(f"{ns.name}: {len(left)} mappings and flows outlived their NAT, such as {left[0]}")
        _take(ns, held)


def forget_some(ns: Namespace, hosts: Sequence[str], *, hold: bool = False) -> int:
    """Drop the mappings of these inner addresses, or all, and their flows; returns how many external ports that were.

    With `hold` those ports stay taken for the rest of their time. Raises KernelError.
    """
    with paused(ns):
        ports = _drop_elements(ns, hosts, hold)
        for entry in conntrack.entries(ns):
            if _concerns(entry, hosts):
                conntrack.forget(ns, entry)
        left = [entry for entry in conntrack.entries(ns) if _concerns(entry, hosts)]
        if left:
            raise KernelError(f"{ns.name}: {len(left)} flows outlived their mapping, such as {left[0].orig}")
    return ports


def remembered(ns: Namespace) -> list[Element]:
    """Everything in the NAT's maps and sets that has a lifetime. Raises KernelError."""
    return [
        Element(holder["family"], holder["name"], _flat(key), _flat(value))
        for listed in (*nft.as_json(ns, "maps"), *nft.as_json(ns, "sets"))
        for holder in listed.values()
        if holder.get("table") == TABLE and "timeout" in holder.get("flags", ())
        for key, value in _pairs(holder)
    ]


def make_scarce(ns: Namespace, left: int) -> None:
    """Let a NAT draw that many more ports, then none. Raises KernelError."""
    rules = [f"{_FRESH} drop"]
    if left:
        rules.insert(0, f"{_FRESH} meta l4proto {{ tcp, udp }} add @drawn {{ meta l4proto . th sport }} accept")
    state = f"set drawn {{ type inet_proto . inet_service; flags dynamic; size {left}; }}" if left else ""
    body = "\n    ".join(rules)
    nft.load(
        ns,
        f"""table inet {SCARCE_TABLE} {{
  {state}
  chain draws {{
    type filter hook postrouting priority 105; policy accept;
    {body}
  }}
}}
""",
    )
    if not is_scarce(ns):
        raise KernelError(f"{ns.name}: its ports are not scarce")


def make_plentiful(ns: Namespace) -> None:
    """The end of `make_scarce`. Raises KernelError."""
    nft.command(ns, _without(SCARCE_TABLE, "inet"))
    if is_scarce(ns):
        raise KernelError(f"{ns.name}: its ports are still scarce")


def is_scarce(ns: Namespace) -> bool:
    """Whether `make_scarce` is in force."""
    return any(entry.get("table", {}).get("name") == SCARCE_TABLE for entry in nft.as_json(ns, "tables"))


@contextmanager
def paused(ns: Namespace) -> Iterator[None]:
    """Have a router drop all that comes for the length of the block. Raises KernelError."""
    nft.load(ns, _PAUSE)
    try:
        yield
    finally:
        nft.command(ns, _without(PAUSE_TABLE, "inet"))


def _drop_elements(ns: Namespace, hosts: Sequence[str], hold: bool) -> int:
    """Delete elements until none is left that should not be; they may come to their own end meanwhile."""
    complaint: KernelError | None = None
    owned: set[tuple[str, ...]] = set()
    for _ in range(TRIES):
        elements = remembered(ns)
        owned |= {(e.protocol, *e.key) for e in elements if e.kind == "in" and _names_one_of(hosts, e.value)}
        doomed = [e for e in elements if not (hold and e.kind == "used") and _belongs(e, hosts, owned)]
        if not doomed:
            return len(owned)
        try:
            nft.command(
                ns, "".join(f"delete element {e.family} {TABLE} {e.holder} {{ {' . '.join(e.key)} }}\n" for e in doomed)
            )
        except KernelError as error:
            complaint = error
    raise KernelError(f"{ns.name}: its mappings do not go: {complaint or 'there are always new ones'}")


def _belongs(element: Element, hosts: Sequence[str], owned: set[tuple[str, ...]]) -> bool:
    """Whether an element is of these inner addresses, by itself or by the external port that it begins with."""
    if _names_one_of(hosts, (*element.key, *element.value)):
        return True
    whole = (element.protocol, *element.key)
    return any(whole[: len(external)] == external for external in owned)


def _take(ns: Namespace, held: list[Element]) -> None:
    """Mark ports as taken that nobody owns."""
    if not held:
        return
    nft.command(ns, "".join(f"add element {e.family} {TABLE} {e.holder} {{ {' . '.join(e.key)} }}\n" for e in held))
    if missing := {(e.holder, e.key) for e in held} - {(e.holder, e.key) for e in remembered(ns)}:
        raise KernelError(f"{ns.name}: {len(missing)} ports could not be held")


def _concerns(entry: conntrack.Entry, hosts: Sequence[str]) -> bool:
    return _names_one_of(hosts, (entry.orig[0], entry.orig[2], entry.reply[0], entry.reply[2]))


def _names_one_of(hosts: Sequence[str], parts: Iterable[str]) -> bool:
    """Whether one of these hosts is among the parts of something; without hosts all is meant."""
    return not hosts or not set(hosts).isdisjoint(parts)


def _without(table: str, family: str) -> str:
    return f"table {family} {table} {{}}; delete table {family} {table}\n"


def _pairs(holder: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Key and value of each element; a set's have none."""
    for element in holder.get("elem", ()):
        yield (element[0], element[1]) if isinstance(element, list) else (element, None)


def _flat(value: Any) -> tuple[str, ...]:
    """A key or value in nft's JSON as its parts: `{"elem": {"val": {"concat": ["192.168.1.10", 4001]}}}`."""
    match value:
        case None:
            return ()
        case {"elem": {"val": inner}}:
            return _flat(inner)
        case {"concat": [*parts]}:
            return tuple(part for each in parts for part in _flat(each))
        case _:
            return (str(value),)
