"""What implementations can do, as people read it: a table of what was proved, and the reasons for what was not."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from lab.model.capabilities import Capabilities, Having

_STYLES = {Having.PROVED: "green", Having.BROKEN: "bold red", Having.ABSENT: "dim"}


def peers_table(everybody: Sequence[Capabilities]) -> Table:
    """Capabilities down, implementations across: yes, no, or broken."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("proved", style="bold", no_wrap=True)
    for each in everybody:
        table.add_column(escape(f"{each.impl}\n{each.implementation or _nobody(each)}\n{each.version}"))
    names = dict.fromkeys(capability.name for each in everybody for capability in each.found)
    for name in names:
        table.add_row(name, *(_field(each, name) for each in everybody))
    return table


def _nobody(each: Capabilities) -> str:
    return "not heard" if each.unheard else "not here"


def _field(each: Capabilities, name: str) -> Text:
    found = each.of(name)
    return Text("") if found is None else Text(found.having.value, _STYLES[found.having])


def reasons(everybody: Sequence[Capabilities]) -> list[str]:
    """Why something was not proved, a line for each reason."""
    lines = [each.missing or each.unheard for each in everybody if each.missing or each.unheard]
    for each in everybody:
        whys: dict[tuple[Having, str], list[str]] = {}
        for capability in each.found:
            if capability.why:
                whys.setdefault((capability.having, capability.why), []).append(capability.name)
        lines += [f"{each.impl}: {having.value}: {', '.join(names)}: {why}" for (having, why), names in whys.items()]
    return lines
