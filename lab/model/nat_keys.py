"""How a topology says which NAT it means: the name of a preset, or a table of RFC 4787's words.

nat = "home"
nat = { mapping = "endpoint-independent", filtering = "address", ports = "random", hairpin = true, udp-timeout = "30s" }
nat = { one-to-one = true, filtering = "address-and-port", unsolicited = "reset" }
"""

from __future__ import annotations

from enum import Enum
from typing import Final, TypeVar

from lab.model.nat import (
    BLOCK,
    BLOCK_SIZES,
    LONGEST,
    MAX_ADDRESSES,
    SHORTEST,
    TCP_TIMEOUT,
    TCP_TRANSITORY,
    UDP_TIMEOUT,
    Filtering,
    Hairpinning,
    ImpossibleNat,
    Mapping,
    Nat,
    Pooling,
    Ports,
    Unsolicited,
)
from lab.model.presets import PRESETS
from lab.model.tables import Table, closest
from lab.model.units import format_duration, parse_duration

KEYS: Final = (
    "mapping",
    "filtering",
    "ports",
    "hairpin",
    "udp-timeout",
    "tcp-timeout",
    "udp-new-timeout",
    "tcp-transitory-timeout",
    "unsolicited",
    "public-addresses",
    "pooling",
    "block-size",
    "one-to-one",
)
ALLOWED: Final = f"allowed: {', '.join(PRESETS)}, or a table of {', '.join(KEYS)}"
NO_NAT: Final = ("none", "public", "open", "off")
NO_RULES: Final = "there are no rules for such a NAT"

_E = TypeVar("_E", bound=Enum)


def read_nat(router: Table, key: str = "nat") -> tuple[Nat, str | None]:
    """The NAT of a router's table, and the preset's name if it was given by one."""
    value = router.values.get(key)
    if isinstance(value, dict):
        return _spelled_out(Table(router.places, (*router.path, key), value, prefix=f"{key}.")), None
    if not isinstance(value, str):
        problem = "there is none" if value is None else "must be text or a table"
        raise router.error(key, f"{problem}; {ALLOWED}")
    name = value
    if name in NO_NAT:
        raise router.error(key, "a router always translates; a peer without NAT has at = 'internet'")
    if name not in PRESETS:
        raise router.error(key, f"no such preset{closest(name, PRESETS)}; {ALLOWED}")
    return PRESETS[name].nat, name


def _spelled_out(table: Table) -> Nat:
    table.check_keys(KEYS)
    one_to_one = table.flag("one-to-one", default=False)
    ports = _one_of(table, "ports", Ports, Ports.PRESERVING)
    udp, tcp = _lifetime(table, "udp-timeout", UDP_TIMEOUT), _lifetime(table, "tcp-timeout", TCP_TIMEOUT)
    try:
        return Nat(
            mapping=_behaviour(table, "mapping", Mapping, Mapping.ENDPOINT_INDEPENDENT if one_to_one else None),
            filtering=_behaviour(table, "filtering", Filtering),
            ports=ports,
            hairpin=_hairpin(table),
            udp_timeout=udp,
            tcp_timeout=tcp,
            udp_new_timeout=_shorter(table, "udp-new-timeout", UDP_TIMEOUT, "udp-timeout", udp),
            tcp_transitory_timeout=_shorter(table, "tcp-transitory-timeout", TCP_TRANSITORY, "tcp-timeout", tcp),
            unsolicited=_one_of(table, "unsolicited", Unsolicited, Unsolicited.DROP),
            public_addresses=table.whole("public-addresses", 1, MAX_ADDRESSES, 1),
            pooling=_one_of(table, "pooling", Pooling, Pooling.PAIRED),
            block_size=_block_size(table, ports),
            one_to_one=one_to_one,
        )
    except ImpossibleNat as error:
        raise table.error(error.key, f"{NO_RULES}: {error}") from None


def _behaviour(table: Table, key: str, behaviours: type[_E], default: _E | None = None) -> _E:
    """A behaviour by its name in RFC 4787, with or without its last word."""
    names = {behaviour.value: behaviour for behaviour in behaviours}
    names |= {name.removesuffix("-independent").removesuffix("-dependent"): each for name, each in names.items()}
    return names[table.choice(key, names, default.value if default else None, NO_RULES)]


def _one_of(table: Table, key: str, kinds: type[_E], default: _E) -> _E:
    return kinds(table.choice(key, [kind.value for kind in kinds], default.value, NO_RULES))


def _hairpin(table: Table) -> Hairpinning:
    """A kind of hairpinning; `true` is the one that RFC 4787 asks for."""
    value = table.values.get("hairpin", False)
    if isinstance(value, bool):
        return Hairpinning.EXTERNAL_SOURCE if value else Hairpinning.NONE
    kinds = [kind.value for kind in Hairpinning]
    if value not in kinds:
        raise table.error("hairpin", f"must be true or false, or one of {', '.join(kinds)}")
    return Hairpinning(value)


def _block_size(table: Table, ports: Ports) -> int:
    if "block-size" in table.values and ports is not Ports.BLOCK:
        raise table.error("block-size", f'only ports = "{Ports.BLOCK.value}" come in blocks')
    return table.whole("block-size", BLOCK_SIZES.start, BLOCK_SIZES.stop - 1, BLOCK)


def _shorter(table: Table, key: str, default: float, than: str, limit: float) -> float:
    """The lifetime of what is not assured or established yet: by default no longer than what is, and never longer."""
    seconds = _lifetime(table, key, min(default, limit))
    if seconds > limit:
        raise table.error(key, f"must not be longer than {than}, {format_duration(limit)}")
    return seconds


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
