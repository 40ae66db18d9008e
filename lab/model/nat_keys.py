"""How a topology says which NAT it means: the name of a preset, or a table of RFC 4787's words.

nat = "home"
nat = { mapping = "endpoint-independent", filtering = "address", ports = "random", hairpin = true, udp-timeout = "30s" }
"""

from __future__ import annotations

from enum import Enum
from typing import Final, TypeVar

from lab.model.nat import LONGEST, SHORTEST, TCP_TIMEOUT, UDP_TIMEOUT, Filtering, Mapping, Nat, Ports
from lab.model.presets import PRESETS
from lab.model.tables import Table, closest
from lab.model.units import format_duration, parse_duration

KEYS: Final = ("mapping", "filtering", "ports", "hairpin", "udp-timeout", "tcp-timeout")
ALLOWED: Final = f"allowed: {', '.join(PRESETS)}, or a table of {', '.join(KEYS)}"
NO_NAT: Final = ("none", "public", "open", "off")
NO_RULES: Final = "there are no rules for such a NAT"

_E = TypeVar("_E", bound=Enum)


def read_nat(router: Table) -> tuple[Nat, str | None]:
    """The NAT of a router's table, and the preset's name if it was given by one."""
    value = router.values.get("nat")
    if isinstance(value, dict):
        return _spelled_out(Table(router.places, (*router.path, "nat"), value, prefix="nat.")), None
    if not isinstance(value, str):
        problem = "there is none" if value is None else "must be text or a table"
        raise router.error("nat", f"{problem}; {ALLOWED}")
    name = value
    if name in NO_NAT:
        raise router.error("nat", "a router always translates; a peer without NAT has at = 'internet'")
    if name not in PRESETS:
        raise router.error("nat", f"no such preset{closest(name, PRESETS)}; {ALLOWED}")
    return PRESETS[name].nat, name


def _spelled_out(table: Table) -> Nat:
    table.check_keys(KEYS)
    return Nat(
        mapping=_behaviour(table, "mapping", Mapping),
        filtering=_behaviour(table, "filtering", Filtering),
        ports=Ports(table.choice("ports", [ports.value for ports in Ports], Ports.PRESERVING.value, NO_RULES)),
        hairpin=table.flag("hairpin", default=False),
        udp_timeout=_lifetime(table, "udp-timeout", UDP_TIMEOUT),
        tcp_timeout=_lifetime(table, "tcp-timeout", TCP_TIMEOUT),
    )


def _behaviour(table: Table, key: str, behaviours: type[_E]) -> _E:
    """A behaviour by its name in RFC 4787, with or without its last word."""
    names = {behaviour.value: behaviour for behaviour in behaviours}
    names |= {name.removesuffix("-independent").removesuffix("-dependent"): each for name, each in names.items()}
    return names[table.choice(key, names, problem=NO_RULES)]


def _lifetime(table: Table, key: str, default: float) -> float:
    text = table.text(key, '"30s"', format_duration(default))
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise table.error(key, str(error)) from None
    if not (SHORTEST <= seconds <= LONGEST and seconds.is_integer()):
        bounds = f"{format_duration(SHORTEST)} to {format_duration(LONGEST)}"
        raise table.error(key, f"a mapping's lifetime is whole seconds, {bounds}")
    return seconds
