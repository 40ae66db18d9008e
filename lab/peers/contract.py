"""The four kinds of line that the lab and a peer exchange on the peer's stdin and stdout, one JSON object each.

    lab → peer   {"id": 7, "do": "dial", "addr": "/ip4/…/p2p/12D3…"}
    peer → lab   {"id": 7, "ok": {"path": "direct", …}}      {"id": 8, "error": "refused", "why": "…"}
                 {"id": 9, "unsupported": "webrtc"}           {"event": "connected", "at": 1763…, …}

`docs/contract.md` has every command, answer and event. A line that is none of these is kept as `Nonsense`: the run
goes on, and the verdict says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_LINE = 1 << 20
"Bytes of one line; a peer that sends longer ones is talking nonsense."


@dataclass(frozen=True, slots=True)
class Event:
    """Something a peer says has happened, at Unix seconds `at`."""

    who: str
    name: str
    at: float
    fields: Mapping[str, Any] = field(default_factory=dict)

    def get(self, key: str, default: object = None) -> Any:
        """The event's own field `key`."""
        return self.fields.get(key, default)

    def to_json(self) -> dict[str, Any]:
        """As a line of `events.jsonl`."""
        return {"at": self.at, "who": self.who, "event": self.name, **self.fields}


@dataclass(frozen=True, slots=True)
class Answer:
    """A command was done."""

    id: int
    ok: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A command was tried and failed."""

    id: int
    error: str
    why: str


@dataclass(frozen=True, slots=True)
class Unsupported:
    """The peer does not know the command or a feature it needs."""

    id: int
    what: str


@dataclass(frozen=True, slots=True)
class Nonsense:
    """A line that is not of the contract."""

    line: str
    why: str


Line = Answer | Refusal | Unsupported | Event | Nonsense


def command(id: int, do: str, arguments: Mapping[str, Any]) -> bytes:
    """One line that asks a peer for something."""
    return json.dumps({"id": id, "do": do, **arguments}, separators=(",", ":")).encode() + b"\n"


def parse(who: str, raw: bytes) -> Line:
    """What a peer's line means; never raises."""
    text = raw.decode("utf-8", "replace").strip()
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return Nonsense(text[:400], f"not JSON: {error}")
    if not isinstance(value, dict):
        return Nonsense(text[:400], "not a JSON object")
    if "event" in value:
        return _event(who, value, text)
    id = value.get("id")
    if not isinstance(id, int) or isinstance(id, bool):
        return Nonsense(text[:400], "neither an event nor an answer with an id")
    if isinstance(value.get("ok"), dict):
        return Answer(id, value["ok"])
    if isinstance(value.get("error"), str):
        return Refusal(id, value["error"], str(value.get("why", "")))
    if isinstance(value.get("unsupported"), str):
        return Unsupported(id, value["unsupported"])
    return Nonsense(text[:400], "an answer needs `ok`, `error` or `unsupported`")


def _event(who: str, value: dict[str, Any], text: str) -> Event | Nonsense:
    name, at = value.pop("event"), value.pop("at", None)
    if not isinstance(name, str) or not isinstance(at, int | float) or isinstance(at, bool):
        return Nonsense(text[:400], "an event needs a name and a numeric `at`")
    return Event(who, name, float(at), value)
