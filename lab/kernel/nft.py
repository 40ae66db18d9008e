"""Rule sets, loaded and listed by the `nft` program.

The program and not libnftables in our process, because that aborts the process on some rules (nft 1.0.6, IPv6 maps) and
on descriptors beyond 1023. Those rules are not even given to the program (`lab.kernel.map_updates`). Loading replaces:
the table is declared, deleted and made again in one transaction, so there is no moment without rules, and its maps
start empty.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from typing import Any

from lab.errors import KernelError, MissingCapability
from lab.kernel import map_updates
from lab.kernel.namespace import Namespace

_TABLE = re.compile(r"^table\s+(\w+)\s+([\w-]+)\s*\{", re.MULTILINE)
_WITHIN = 20.0
"Seconds for one run of `nft`; it needs 0.01 to 0.03."


class Loading:
    """A rule set on its way into the kernel; several can be under way at once. `finish()` must be called."""

    def __init__(self, ns: Namespace, text: str) -> None:
        """Start `nft`. Raises MissingCapability where there is none, KernelError where `text` cannot be rules."""
        self._ns = ns
        text, self._updates = map_updates.split(text)
        # A file and not a pipe: a pipe holds 64 KiB, and a writer that waits cannot start the next one.
        source = os.memfd_create("ruleset", os.MFD_CLOEXEC)
        with os.fdopen(source, "w+b") as file:
            file.write((_fresh(text) + text).encode())
            file.seek(0)
            self._nft = _start(ns, ["-f", "-"], source)

    def finish(self) -> None:
        """Wait until the rules are in force. Raises KernelError with nft's first complaint."""
        _finish(self._nft, self._ns.name)
        map_updates.append(self._ns, self._updates)

    def abandon(self) -> None:
        """Give up: nobody will ask how it ended."""
        self._nft.kill()
        self._nft.communicate()


def load(ns: Namespace, text: str) -> None:
    """Replace the tables that `text` names by what it says. Raises KernelError, MissingCapability."""
    Loading(ns, text).finish()


def command(ns: Namespace, text: str) -> None:
    """Have nft do what `text` says, all of it or nothing. Raises KernelError, MissingCapability."""
    source = os.memfd_create("commands", os.MFD_CLOEXEC)
    with os.fdopen(source, "w+b") as file:
        file.write(text.encode())
        file.seek(0)
        _finish(_start(ns, ["-f", "-"], source), ns.name)


def as_json(ns: Namespace, *what: str) -> list[dict[str, Any]]:
    """What nft lists, such as `sets` or `maps`, as its JSON objects. Raises KernelError, MissingCapability."""
    listed = json.loads(_finish(_start(ns, ["-j", "list", *what], subprocess.DEVNULL), ns.name))
    return [entry for entry in listed["nftables"] if "metainfo" not in entry]


def listing(ns: Namespace) -> str:
    """Return all rules, maps and sets in force, as nft prints them. Raises KernelError, MissingCapability."""
    return _finish(_start(ns, ["list", "ruleset"], subprocess.DEVNULL), ns.name)


def _fresh(text: str) -> str:
    tables = (f"{family} {name}" for family, name in _TABLE.findall(text))
    # On the first line, so that nft's complaints keep the text's line numbers.
    return "".join(f"table {table} {{}}; delete table {table}; " for table in tables)


def _start(ns: Namespace, arguments: list[str], stdin: int) -> subprocess.Popen[str]:
    try:
        with ns.entered():
            return subprocess.Popen(
                ["nft", *arguments], stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
    except FileNotFoundError as error:
        raise MissingCapability("there is no `nft` program; install the package nftables") from error


def _finish(nft: subprocess.Popen[str], space: str) -> str:
    try:
        output, complaint = nft.communicate(timeout=_WITHIN)
    except subprocess.TimeoutExpired as error:
        nft.kill()
        nft.communicate()
        raise KernelError(f"{space}: nft did not end within {_WITHIN:.0f} s") from error
    if nft.returncode != 0:
        first = next((line for line in complaint.splitlines() if "Error" in line), complaint.strip())
        raise KernelError(f"{space}: nft: {first or f'status {nft.returncode}'}")
    return output
