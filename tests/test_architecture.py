"""The arrows between the parts, as rules with their reasons. The reason is what a failing test says."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

IO = ("asyncio", "socket", "subprocess", "threading", "select", "selectors", "ssl")
CHANCE = ("random", "secrets")
CLOCK = ("time", "datetime")

RULES: list[tuple[str, tuple[str, ...], str]] = [
    ("node", ("lab",), "the node is a program of its own; the lab sees it as it sees go's"),
    ("lab", ("node",), "the lab sees our node as a program and its output, or its verdicts would favour it"),
    ("node/names", ("node.wire", "node.logic", "node.net", "node.protocols"), "names are the innermost ring"),
    ("node/wire", ("node.logic", "node.net", "node.protocols"), "wire turns bytes into values and knows nobody above"),
    ("node/logic", ("node.net", "node.protocols"), "logic decides from events and a time; awaiting is net's"),
    ("node/net", ("node.protocols", "node.host", "node.control"), "net serves every protocol and knows none"),
    (
        "node/protocols",
        ("node.control", "node.__main__"),
        "protocols are driven by the host, not by the control channel",
    ),
    ("node/names", (*IO, *CLOCK), "names are values: no IO, no clock"),
    ("node/wire", (*IO, *CLOCK, *CHANCE), "machines get bytes, time and chance as arguments"),
    ("node/logic", (*IO, *CLOCK, *CHANCE), "decisions are repeatable: clock and chance come in as arguments"),
    (
        "lab/model",
        ("lab.plan", "lab.kernel", "lab.peers", "lab.observe", "lab.run", "lab.report"),
        "model is the innermost ring",
    ),
    (
        "lab/plan",
        ("lab.kernel", "lab.peers", "lab.observe", "lab.run", "lab.report"),
        "a plan says what must exist, not how",
    ),
    ("lab/plan", (*IO, *CLOCK), "same topology and seed, same plan"),
    (
        "lab/kernel",
        ("lab.peers", "lab.observe", "lab.run", "lab.report"),
        "kernel makes plans exist and judges nothing",
    ),
    (
        "lab/services",
        ("lab.peers", "lab.observe", "lab.run", "lab.report", "lab.lab"),
        "services are part of the network, like its NATs; who uses them and who judges is not theirs to know",
    ),
    ("lab/kernel", ("lab.services",), "the kernel makes a network; what runs in it comes after"),
    ("lab/peers", ("lab.kernel", "lab.observe", "lab.run", "lab.report"), "a peer is a process and its lines"),
    (
        "lab/observe",
        ("lab.kernel", "lab.peers", "lab.run", "lab.report"),
        "observe works on files alone, without rights",
    ),
    ("lab/observe", (*IO, *CLOCK, *CHANCE), "files in, facts out: judging again gives the same"),
    ("lab/report", ("lab.kernel", "lab.peers", "lab.run", "lab.lab"), "reports read results, they make none"),
]

ONLY_IN: list[tuple[str, str, str]] = [
    ("pyroute2", "lab/kernel/link.py", "netlink has one door"),
    ("scapy", "lab/observe/packets.py", "packets are dissected in one place"),
    ("aioquic", "node/net/quic/machine.py", "private parts of it are used, which one file has to know"),
    ("docker", "lab/kernel/container.py", "the engine has one door"),
]


def modules(folder: str) -> list[Path]:
    """All modules below a folder, except generated ones."""
    return [path for path in sorted((ROOT / folder).rglob("*.py")) if not path.name.endswith("_pb2.py")]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that a module imports when it runs, at whatever depth."""
    tree = ast.parse(path.read_text("utf-8"))
    for node in _running(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute, so that the arrow shows in every line"
            yield node.lineno, node.module or ""
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those only type checkers look at."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child
        yield from _running(child)


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


@pytest.mark.parametrize(("folder", "forbidden", "why"), RULES, ids=[f"{f}-not-{b[0]}" for f, b, _ in RULES])
def test_a_part_imports_only_what_it_may(folder: str, forbidden: tuple[str, ...], why: str) -> None:
    paths = modules(folder)
    assert paths, f"{folder} holds no modules: the rule guards nothing"
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in paths
        for line, name in imports(path)
        if any(within(name, package) for package in forbidden)
    ]
    assert not wrong, f"{why}:\n" + "\n".join(wrong)


@pytest.mark.parametrize(("library", "door", "why"), ONLY_IN, ids=[library for library, _, _ in ONLY_IN])
def test_a_library_is_imported_in_one_place(library: str, door: str, why: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}"
        for folder in ("node", "lab")
        for path in modules(folder)
        if path != ROOT / door
        for line, name in imports(path)
        if within(name, library)
    ]
    assert not wrong, f"{why} ({door}), but it is imported in:\n" + "\n".join(wrong)
