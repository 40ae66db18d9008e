"""What a peer's table may say of a program of others and of the interface that it looks for.

[peer.alice]
impl      = "upstream"
program   = ["/opt/go-ping", "-v"]     # without arguments a text does
interface = "lan0"
"""

from __future__ import annotations

import re
from typing import Final

from lab.model.tables import Table

ETH: Final = "eth0"
"of a peer that does not say"
MAX_WORDS: Final = 64
"of a program with its arguments"
_INTERFACE: Final = re.compile(r"(?!lo$|all$|default$)[a-z][a-z0-9]{0,14}")


def read_program(table: Table) -> tuple[str, ...]:
    """The key `program`; TopologyError if it is no command, or `impl` is none that is told its program."""
    value = table.values.get("program")
    if value is None:
        return ()
    if table.values.get("impl") != "upstream":
        raise table.error("program", 'only a peer with impl = "upstream" is told its program')
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list) or not 0 < len(words) <= MAX_WORDS or not all(map(_is_word, words)):
        raise table.error(
            "program", f'must be a path, or a list of it and up to {MAX_WORDS - 1} arguments: ["/opt/x", "-v"]'
        )
    return tuple(words)


def read_interface(table: Table) -> str:
    """The key `interface`; TopologyError if Linux has no such names, or the peer has several interfaces."""
    value = table.values.get("interface", ETH)
    if not isinstance(value, str) or not _INTERFACE.fullmatch(value):
        raise table.error(
            "interface", 'must be up to 15 lower-case letters and digits, such as "lan0", and none of lo, all, default'
        )
    if value != ETH and isinstance(table.values.get("at"), list):
        raise table.error("interface", "a peer with several uplinks has eth0, eth1, …; leave the key out")
    return value


def _is_word(value: object) -> bool:
    return isinstance(value, str) and value != "" and "\0" not in value
