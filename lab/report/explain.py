"""`punchlab explain RUN`: who was where, one timeline of packets, mappings and events, and why it ended as it did.

Reads the files of a run's folder and nothing else, so a run can be explained on another machine, without rights, later.
What is missing is said and left out: a lab that was killed explains itself as far as it got.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lab.errors import LabError
from lab.model.nat import Nat
from lab.observe.drops import Drop
from lab.observe.facts import Facts, gather, judge
from lab.observe.holepunch import Began, Opening, Punch
from lab.observe.timeline import Entry, Names, timeline
from lab.plan.codec import plan_from_json
from lab.plan.plan import Plan
from lab.plan.replay import plans
from lab.report.interop import is_interop
from lab.report.results import RESULTS, Cell, load
from lab.report.terminal import stdout

CAPTURE, EVENTS, MAPPINGS = "capture.pcapng", "events.jsonl", "conntrack.jsonl"
MAX_BYTES: Final = 256 << 20
"Size of a file of lines that is read."
LAB: Final = "lab"
"the name under which the lab appears in `events.jsonl`"
_STYLES: Final = {
    "drops": "red",
    "established": "green",
    "maps": "magenta",
    "event": "bold yellow",
    "begins": "bold",
    "ends": "bold",
}
"by the first word of an entry"


@dataclass(frozen=True, slots=True)
class Story:
    """Everything that a run's folder tells."""

    folder: Path
    plan: Plan
    facts: Facts
    began: float
    "Unix seconds; the timeline's zero"
    entries: tuple[Entry, ...]
    cell: Cell | None
    "the verdict, if one was reached"
    gaps: tuple[str, ...]
    "files that the folder lacks"


def explain(folder: Path, everything: bool = False) -> None:
    """Print the story of the run in that folder; with `everything` every packet and every change of a mapping."""
    tell(read_story(folder, everything), stdout())


def summarise_capture(folder: Path) -> None:
    """Print what each interface of a run's capture saw."""
    plan = _plan(folder)
    wire = gather(plan, folder / CAPTURE, growing=True).wire
    console = stdout()
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    for title in ("interface", "packets", "flows", "SYNs", "payload bytes"):
        table.add_column(title, justify="left" if title == "interface" else "right")
    for capture in plan.captures:
        flows = wire.flows_at(capture.name)
        packets = [packet for flow in flows for packet in flow.packets]
        numbers = (len(packets), len(flows), sum(p.is_syn for p in packets), sum(p.payload for p in packets))
        table.add_row(capture.name, *(f"{number:,}" for number in numbers))
    console.print(table)
    console.print(f"Open it with: wireshark {folder / CAPTURE}", markup=False, soft_wrap=True)


def read_story(folder: Path, everything: bool = False) -> Story:
    """The story in a folder; `LabError` where it is no run's, or a file in it is damaged."""
    events = _lines(folder / EVENTS)
    theirs = [event for event in events if event.get("who") != LAB]
    ours = [event for event in events if event.get("who") == LAB]
    *former, plan = plans(_plan(folder), ours)
    capture = folder / CAPTURE
    about = _about(folder)
    growing = "finished" not in about  # it still runs, or was killed
    if capture.exists():
        facts = gather(plan, capture, theirs, growing=growing, former=former)
    else:
        facts = judge(plan, (), theirs, former=former)
    began = _began(about, facts)
    entries = timeline(facts, _lines(folder / MAPPINGS), ours, began=began, everything=everything)
    gaps = tuple(name for name in (CAPTURE, EVENTS, MAPPINGS) if not (folder / name).exists())
    return Story(folder, plan, facts, began, tuple(entries), _cell(folder), gaps)


def tell(story: Story, console: Console) -> None:
    """Print a story."""
    for line in _who_is_where(story):
        console.print(line, soft_wrap=True)
    if console.is_terminal:
        console.print(_timeline_table(story.entries))
    else:
        for line in _timeline_lines(story.entries):
            console.print(line, soft_wrap=True)
    console.print()
    for gap in story.gaps:
        console.print(f"The folder has no {gap}.", style="yellow", markup=False)
    for sentence in closing(story):
        console.print(sentence, markup=False, soft_wrap=True)
    console.print(f"Evidence: {story.folder}", style="dim", markup=False, soft_wrap=True)


def closing(story: Story) -> list[str]:
    """Why it ended direct or relayed: what the wire shows of the pair, what the peers say, then the verdict."""
    sentences: list[str] = []
    pair = _pair(story)
    if pair is not None:
        punch = story.facts.punch(*pair)
        sentences = [_outcome(punch, story.began), *_in_the_way(punch, story.began), *_given_up(story, pair)]
    if story.cell is not None:
        cell = story.cell
        sentences.append(
            f"{cell.verdict.value}: predicted {cell.predicted}, seen {cell.seen or 'nothing'}: {cell.why}."
        )
    return sentences


def _outcome(punch: Punch, began: float) -> str:
    first, second = punch.peers
    direct = punch.direct
    if direct is None:
        sent = " and ".join(
            f"{peer}'s first SYN left at {at - began:.3f} s"
            for peer, at in zip(punch.peers, punch.first_syns, strict=True)
            if at is not None
        )
        return f"{first} and {second} did not become direct: {sent or 'neither sent a SYN to the other'}."
    text = f"{first} and {second} talk directly {direct.way.value}, {direct.ends[0]} ↔ {direct.ends[1]}"
    if direct.began is not None:
        text += f": {_opening(direct.began, punch.peers)}"
        text += (
            f"; first SYN at {direct.began.syn - began:.3f} s, established at {direct.began.established - began:.3f} s"
        )
    return f"{text}; first byte at {direct.first_byte - began:.3f} s."


def _opening(began: Began, peers: tuple[str, str]) -> str:
    other = peers[1] if began.opener == peers[0] else peers[0]
    match began.how:
        case Opening.SIMULTANEOUS:
            return "a simultaneous open, both SYNs arrived"
        case Opening.MET:
            return f"{began.opener}'s SYN met {other}'s socket, whose own SYN had opened the way before it was lost"
        case Opening.ACCEPTED:
            return f"{other} accepted {began.opener}'s SYN"


def _in_the_way(punch: Punch, began: float) -> Iterator[str]:
    """One sentence for each router that dropped something, with its first reason and the number of the others."""
    by_router: dict[str, list[Drop]] = {}
    for drop in punch.drops:
        by_router.setdefault(drop.router, []).append(drop)
    for router, drops in by_router.items():
        reasons = dict.fromkeys(re.sub(r"[\d.]+ ms", "some ms", drop.why) for drop in drops)
        first = drops[0]
        text = f"{router} dropped {len(drops)} {first.packet.kind}{'s' if len(drops) > 1 else ''}"
        text += f", the first at {first.at - began:.3f} s: {first.why}"
        yield f"{text}{f' (there are {len(reasons)} reasons in all)' if len(reasons) > 1 else ''}."


def _given_up(story: Story, pair: tuple[str, str]) -> Iterator[str]:
    names = Names(story.plan, story.facts.events)
    for event in story.facts.events:
        if event.get("event") == "punch" and event.get("stage") == "gave-up" and event.get("who") in pair:
            yield f"{event['who']} gave up punching: {names.in_text(str(event.get('why') or 'it did not say why'))}."


def _pair(story: Story) -> tuple[str, str] | None:
    """Dialer and listener: the verdict's, else the first two peers that are no relays."""
    known = [launch.peer for launch in story.plan.launches]
    if story.cell is not None and {story.cell.dialer.name, story.cell.listener.name} <= set(known):
        return story.cell.dialer.name, story.cell.listener.name
    peers = [launch.peer for launch in story.plan.launches if launch.role != "relay"]
    return (peers[0], peers[1]) if len(peers) > 1 else None


def _who_is_where(story: Story) -> Iterator[Text]:
    verdict = f": {story.cell.verdict.value}" if story.cell is not None else ""
    yield Text(f"{story.plan.topology}, seed {story.plan.seed}{verdict}", style="bold")
    for router in (*story.plan.routers, *story.plan.routers6):
        yield Text(f"{router.name:<15} {router.wan:<15} {router.lan:<18} {_nat(router.nat)}")
    for launch in story.plan.launches:
        for way in launch.ways:
            place = f"behind {way.router}" if way.router else "on the internet"
            yield Text(f"{way.peer:<15} {way.address:<15} {place:<18} {way.role}, {way.impl}")
    yield Text("")


def _nat(nat: Nat) -> str:
    text = f"mapping {nat.mapping.value}, filtering {nat.filtering.value}, ports {nat.ports.value}"
    return f"{text}, hairpin {nat.hairpin.value}" if nat.hairpin else text


def _rows(entries: tuple[Entry, ...]) -> Iterator[tuple[Text, ...]]:
    for entry in entries:
        style = _STYLES.get(entry.what.partition(" ")[0], "")
        yield tuple(Text(column, style) for column in (f"{entry.at:.4f}", entry.who, entry.what, entry.detail))


def _timeline_table(entries: tuple[Entry, ...]) -> Table:
    """For people: details wrap in their own column."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for justify in ("right", "left", "left"):
        table.add_column(justify=justify, no_wrap=True)
    table.add_column(overflow="fold")
    for row in _rows(entries):
        table.add_row(*row)
    return table


def _timeline_lines(entries: tuple[Entry, ...]) -> Iterator[Text]:
    """For `grep` and files: one line each, however long."""
    who = max((len(entry.who) for entry in entries), default=0)
    what = max((len(entry.what) for entry in entries), default=0)
    for entry in entries:
        yield Text(f"{entry.at:9.4f}  {entry.who:<{who}}  {entry.what:<{what}}  {entry.detail}".rstrip())


def _plan(folder: Path) -> Plan:
    path = folder / "plan.json"
    try:
        return plan_from_json(path.read_text("utf-8"))
    except FileNotFoundError:
        raise LabError(
            f"{folder} has no plan.json: it is not the folder of a run, or of a matrix (name a cell)"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise LabError(f"{path}: cannot read: {error}") from None


def _lines(path: Path) -> list[Mapping[str, Any]]:
    """The objects of a file of JSON lines; none if there is no file. A last line that was cut off is left out."""
    if not path.exists():
        return []
    if path.stat().st_size > MAX_BYTES:
        raise LabError(f"{path}: larger than {MAX_BYTES >> 20} MiB")
    lines = path.read_bytes().split(b"\n")
    values: list[Mapping[str, Any]] = []
    for number, line in enumerate(lines, 1):
        try:
            value = json.loads(line) if line.strip() else {}
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                break
            raise LabError(f"{path}:{number}: not JSON: {error}") from None
        if not isinstance(value, dict):
            raise LabError(f"{path}:{number}: not a JSON object")
        if value:
            values.append(value)
    return values


def _began(about: Mapping[str, Any], facts: Facts) -> float:
    """When the run began: as `run.json` has it, else with the first event or packet."""
    started = about.get("started")
    if isinstance(started, int | float):
        return float(started)
    moments = [float(e["at"]) for e in facts.events if isinstance(e.get("at"), int | float)]
    return min([*moments, *(packet.at for packet in facts.packets[:1])], default=0.0)


def _about(folder: Path) -> Mapping[str, Any]:
    path = folder / "run.json"
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise LabError(f"{path}: not JSON: {error}") from None
    return value if isinstance(value, dict) else {}


def _cell(folder: Path) -> Cell | None:
    """This folder's verdict: in its own results, or in those of the matrix of NATs that it is a cell of."""
    for home in (folder, *folder.parents[:2]):
        if is_interop(home):
            return None  # a matrix of implementations has marks for checks, and no predictions
        if (home / RESULTS).exists():
            cells = load(home).cells
            mine = [cell for cell in cells if (home / cell.capture).parent.resolve() == folder.resolve()]
            return mine[0] if mine else None
    return None
