"""Failures that are known: which checks are expected to fail, for what reason, and where that is explained.

    [failure.js-punches-no-tcp]
    check     = "punch"
    peer      = "js"                     # as dialer or as listener
    transport = "tcp"
    reason    = "js-libp2p dials from a new port each time, so no hole fits"
    see       = "docs/interop.md#two-homes"

A key that is left out fits everything. A verdict is not changed by it: the check is FAILED, and known. What is known to
fail and passes is told, so that its entry goes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lab.files import read_asked
from lab.model.interop import MUXERS, SECURITIES, Check, Setup
from lab.model.presets import PRESETS
from lab.model.tables import Table, read
from lab.model.transport import TRANSPORTS

MAX_FILE: Final = 256 * 1024
"bytes of a file of known failures"
_KEYS: Final = (
    *("check", "peer", "dialer", "listener", "relay", "transport", "security", "muxer", "dialer-nat", "listener-nat"),
    *("reason", "see"),
)


@dataclass(frozen=True, slots=True)
class KnownFailure:
    """One entry; an empty text fits everything."""

    name: str
    reason: str
    see: str
    check: str = ""
    peer: str = ""
    "an implementation, as dialer or as listener"
    dialer: str = ""
    listener: str = ""
    relay: str = ""
    transport: str = ""
    security: str = ""
    muxer: str = ""
    dialer_nat: str = ""
    listener_nat: str = ""

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
        takes_part = self.peer in ("", setup.dialer, setup.listener)
        return takes_part and all(wanted in ("", there) for wanted, there in pairs)

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

    def one(key: str, *allowed: str) -> str:
        return table.choice(key, allowed) if key in table.values else ""

    return KnownFailure(
        name,
        table.text("reason", '"js-libp2p has no TCP hole punching"'),
        table.text("see", '"docs/interop.md#two-homes"'),
        check=one("check", *(check.value for check in Check)),
        transport=one("transport", *TRANSPORTS),
        security=one("security", *SECURITIES),
        muxer=one("muxer", *MUXERS),
        dialer_nat=one("dialer-nat", *PRESETS),
        listener_nat=one("listener-nat", *PRESETS),
        **{key: table.text(key, '"js"', "") for key in ("peer", "dialer", "listener", "relay")},
    )
