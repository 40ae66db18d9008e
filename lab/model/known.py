"""Failures that are known: which checks are expected to fail, for what reason, and where that is explained.

    [failure.js-punches-no-tcp]
    check     = "punch"
    peer      = "js"                     # as dialer or as listener
    transport = ["tcp", "ws"]            # either
    reason    = "js-libp2p dials from a new port each time, so no hole fits"
    see       = "docs/interop.md#two-homes"

A key that is left out fits everything. A verdict is not changed by it: the check is FAILED, and known. What is known to
fail and passes is told, so that its entry goes; unless it says `sometimes = true`, for what chance has a part in.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lab.files import read_asked
from lab.model.interop import MUXERS, SECURITIES, Check, Setup
from lab.model.presets import PRESETS
from lab.model.tables import Table, closest, read
from lab.model.transport import TRANSPORTS

MAX_FILE: Final = 256 * 1024
"bytes of a file of known failures"
_KEYS: Final = (
    *("check", "peer", "dialer", "listener", "relay", "transport", "security", "muxer", "dialer-nat", "listener-nat"),
    *("reason", "see", "sometimes"),
)
Words = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class KnownFailure:
    """One entry. Of several words any fits, and of none at all every one."""

    name: str
    reason: str
    see: str
    check: Words = ()
    peer: Words = ()
    "implementations, as dialer or as listener"
    dialer: Words = ()
    listener: Words = ()
    relay: Words = ()
    transport: Words = ()
    security: Words = ()
    muxer: Words = ()
    dialer_nat: Words = ()
    listener_nat: Words = ()
    sometimes: bool = False
    "chance has a part in it, so that it passes now and then is no cure"

    def fits(self, setup: Setup, check: Check) -> bool:
        """Whether it speaks of this check."""
        pairs = (
            (self.check, check.value),
            (self.dialer, setup.dialer),
            (self.listener, setup.listener),
            (self.relay, setup.relay),
            (self.transport, setup.stack.transport),
            (self.security, setup.stack.security),
            (self.muxer, setup.stack.muxer),
            (self.dialer_nat, setup.nats[0]),
            (self.listener_nat, setup.nats[1]),
        )
        takes_part = not self.peer or setup.dialer in self.peer or setup.listener in self.peer
        return takes_part and all(not wanted or there in wanted for wanted, there in pairs)

    def __str__(self) -> str:
        return f"{self.name}: {self.reason} ({self.see})"


def load_known(path: Path) -> tuple[KnownFailure, ...]:
    """The entries of a file; TopologyError names the line of what is wrong."""
    return parse_known(read_asked(path, MAX_FILE, "a file of known failures"), str(path))


def parse_known(text: str, filename: str) -> tuple[KnownFailure, ...]:
    """The entries of a text; TopologyError names the line of what is wrong."""
    top = read(text, filename)
    top.check_keys(("failure",))
    return tuple(_entry(name, table) for name, table in top.tables("failure"))


def _entry(name: str, table: Table) -> KnownFailure:
    table.check_keys(_KEYS)

    return KnownFailure(
        name,
        table.text("reason", '"js-libp2p has no TCP hole punching"'),
        table.text("see", '"docs/interop.md#two-homes"'),
        check=_words(table, "check", [check.value for check in Check]),
        transport=_words(table, "transport", TRANSPORTS),
        security=_words(table, "security", SECURITIES),
        muxer=_words(table, "muxer", MUXERS),
        dialer_nat=_words(table, "dialer-nat", PRESETS),
        listener_nat=_words(table, "listener-nat", PRESETS),
        sometimes=table.flag("sometimes", default=False),
        **{key: _words(table, key) for key in ("peer", "dialer", "listener", "relay")},
    )


def _words(table: Table, key: str, allowed: Iterable[str] | None = None) -> Words:
    """One text or a list of them, each of those allowed (None: any); nothing if the key is not there."""
    value = table.values.get(key, [])
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise table.error(key, "must be text or a list of texts")
    if key in table.values and not found:
        raise table.error(key, "fits nothing; without the key it fits everything")
    known = None if allowed is None else list(allowed)
    for each in found:
        if known is not None and each not in known:
            raise table.error(key, f"not known{closest(each, known)}; allowed: {', '.join(known)}")
    return tuple(found)
