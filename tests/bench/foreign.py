"""Nodes of other implementations, installed on demand below `.bench/`, in the versions that `compose/peers` pins.

Their programs share one shape:

    PROGRAM listen [ADDRESS]             prints an address, answers until its stdin ends
    PROGRAM dial ADDRESS UP DOWN TIMES   prints TIMES lines {"upload_seconds": …, "download_seconds": …}
    PROGRAM greet ADDRESS TIMES          prints {"dials_per_second": …}; where handshakes are compared
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.bench.program import ROOT, BenchError

SOURCES: Final = ROOT / "compose" / "peers"
PLACE: Final = ROOT / ".bench"
INSTALL_WITHIN: Final = 600.0
"Seconds for one implementation: dozens of packages, some of them compiled."
NODE_MAJOR: Final = 20
"The oldest Node.js in which js-libp2p runs, with the polyfill."


@dataclass(frozen=True, slots=True)
class Foreign:
    """An implementation that is ready to be run: the command before `listen` or `dial`."""

    name: str
    command: tuple[str, ...]


def py() -> Foreign:
    """py-libp2p in a virtual environment of its own; raises `BenchError` saying why it cannot be had."""
    home, wanted = PLACE / "py", SOURCES / "py" / "requirements.txt"
    version = wanted.read_text("utf-8").strip().partition("==")[2]
    if not list(home.glob(f"lib/python*/site-packages/libp2p-{version}.dist-info")):
        _run([sys.executable, "-m", "venv", "--clear", str(home)])
        _run([str(home / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", "-r", str(wanted)])
    return Foreign(f"py-libp2p {version}", (str(home / "bin" / "python"), str(SOURCES / "py" / "perf.py")))


def js() -> Foreign:
    """js-libp2p with the Node.js of this machine; raises `BenchError` saying why it cannot be had."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise BenchError("no `node` and `npm` here: install Node.js 20 or newer")
    if (major := _major(node)) < NODE_MAJOR:
        raise BenchError(f"Node.js {major} is too old, js-libp2p needs {NODE_MAJOR} or newer")
    home = PLACE / "js"
    home.mkdir(parents=True, exist_ok=True)
    # Modules are looked up from the folder of the program that imports them.
    for file in ("package.json", "perf.mjs", "polyfill.mjs"):
        shutil.copyfile(SOURCES / "js" / file, home / file)
    wanted: dict[str, str] = json.loads((home / "package.json").read_text("utf-8"))["dependencies"]
    if any(_installed(home, package) != version for package, version in wanted.items()):
        _run([npm, "install", "--prefix", str(home), "--no-audit", "--no-fund", "--no-package-lock"])
    polyfill = ("--import", str(home / "polyfill.mjs")) if major < 22 else ()
    return Foreign(f"js-libp2p {wanted['libp2p']} (node {major})", (node, *polyfill, str(home / "perf.mjs")))


def available() -> tuple[list[Foreign], list[str]]:
    """Those that can be run here, and a line for each that cannot."""
    found, missing = [], []
    for name, install in (("py-libp2p", py), ("js-libp2p", js)):
        try:
            found.append(install())
        except BenchError as error:
            missing.append(f"{name} is left out: {error}")
    return found, missing


def _installed(home: Path, package: str) -> str | None:
    about = home / "node_modules" / package / "package.json"
    return str(json.loads(about.read_text("utf-8"))["version"]) if about.is_file() else None


def _major(node: str) -> int:
    said = re.match(r"v(\d+)\.", _run([node, "--version"]))
    return int(said[1]) if said else 0


def _run(argv: Sequence[str]) -> str:
    """Run a command to its end; returns what it printed. Raises `BenchError` with its last words."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=INSTALL_WITHIN, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BenchError(f"{Path(argv[0]).name}: {error}") from None
    if done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines()
        raise BenchError(f"{' '.join(argv[:3])} failed: {words[-1] if words else done.returncode}")
    return done.stdout
