"""An image's part of the lock: all that its program imports, nothing that only developers need."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Callable
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
LOCK = (ROOT / "requirements.lock").read_text("utf-8")


def load() -> Callable[[str, list[str]], str]:
    spec = importlib.util.spec_from_file_location("requirements", ROOT / "compose/requirements.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Callable[[str, list[str]], str] = module.part
    return found


part = load()


def names(lock: str) -> set[str]:
    return set(re.findall(r"(?m)^([a-z0-9.-]+)==", lock))


def imported(*folders: str) -> set[str]:
    """The top-level packages that modules of ours import, wherever they do."""
    trees = [ast.parse(path.read_text("utf-8")) for folder in folders for path in (ROOT / folder).rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return {name.partition(".")[0] for name in plain} | {
        (node.module or "").partition(".")[0] for node in nodes if isinstance(node, ast.ImportFrom)
    }


@pytest.mark.parametrize(
    ("image", "folders", "apart"), [("node", ["node"], set()), ("controller", ["node", "lab"], {"pytest"})]
)
def test_an_image_has_what_its_program_imports(image: str, folders: list[str], apart: set[str]) -> None:
    wanted = (ROOT / "compose" / image / "packages").read_text("utf-8").split()
    there = names(part(LOCK, wanted))
    homes = packages_distributions()
    foreign = imported(*folders) - set(sys.stdlib_module_names) - {"node", "lab", "_pytest", ""}
    needed = {re.sub(r"[._]", "-", home).lower() for name in foreign for home in homes.get(name, [name])}
    assert needed - apart <= there
    assert not there & {"pytest", "ruff", "mypy", "hypothesis"}


def test_what_a_package_needs_comes_with_it() -> None:
    assert names(part(LOCK, ["wsproto"])) == {"wsproto", "h11"}
    assert "--hash=sha256:" in part(LOCK, ["wsproto"])


def test_a_package_that_the_lock_does_not_have_is_named() -> None:
    with pytest.raises(LookupError, match="no numpy in the lock"):
        part(LOCK, ["numpy"])
