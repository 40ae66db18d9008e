"""The plans of a run, one for each time that an event changed who is where, from the lab's lines in `events.jsonl`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lab.errors import EventError
from lab.model.event import parse
from lab.plan.amend import after
from lab.plan.plan import Plan


def plans(plan: Plan, events: Iterable[Mapping[str, Any]]) -> tuple[Plan, ...]:
    """The plan that the run began with, then what each event made of it; the last one holds at the end.

    An event that failed changed nothing; one that this version does not know is left out, as is what cannot have been.
    """
    found = [plan]
    for event in events:
        match event:
            case {"event": "event", "target": str() as target, "what": str() as what, **more} if "error" not in more:
                try:
                    now = after(found[-1], target, parse(what))
                except EventError:
                    continue
                if now != found[-1]:
                    found.append(now)
            case _:
                continue
    return tuple(found)
