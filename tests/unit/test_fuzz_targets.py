"""The fuzzer knows every reader of strangers' bytes, and its seeds are what those readers take."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings

from node.errors import DecodeError
from tests.fuzz.__main__ import fuzz
from tests.fuzz.mutations import broken
from tests.fuzz.targets import TARGETS, Target, accept

ROOT = Path(__file__).resolve().parents[2]
READER = re.compile(r"(decode|parse|from_bytes|read_message|receive_data|receive_datagram|open_)(_\w+)?|open_\w+record")


def readers() -> Iterator[str]:
    """What reads bytes, by its name, in the rings that read; of the lab, where programs under test may send any."""
    for folder in ("node/wire", "node/names", "lab/services"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if not path.name.endswith("_pb2.py"):
                module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                yield from (f"{module}:{name}" for name in _functions(ast.parse(path.read_text("utf-8"))))


def _functions(tree: ast.AST, prefix: str = "") -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef):
            if "Protocol" not in {ast.unparse(base) for base in node.bases}:
                yield from _functions(node, f"{node.name}.")
        elif isinstance(node, ast.FunctionDef) and READER.fullmatch(node.name):
            yield prefix + node.name


def test_every_reader_has_a_target() -> None:
    covered = {name for target in TARGETS for name in target.covers}
    found = set(readers())
    assert len(found) > 20
    assert sorted(found - covered) == [], "give it a target in tests/fuzz/targets.py"
    assert sorted(covered - found) == [], "a target names what there is not"


def test_an_escape_is_found_and_told_with_the_input_that_causes_it() -> None:
    def careless(data: bytes) -> None:
        if b"!" in data:
            raise DecodeError("refused as it should be")
        if b"x" in data:
            raise KeyError("nobody expects this")

    fed, escape = fuzz(Target("careless", (), careless, lambda: [b"a valid message"]), 60.0)
    assert escape is not None
    what, _, cause = escape.partition("; by ")
    assert what == "KeyError: 'nobody expects this'"
    with pytest.raises(KeyError):
        careless(ast.literal_eval(cause))
    assert fed > 1


def test_what_escapes_nowhere_is_fed_until_the_time_is_over() -> None:
    seen: list[bytes] = []
    assert fuzz(Target("careful", (), seen.append, lambda: [b"seed"]), 0.01) == (len(seen), None)
    assert len(seen) > 1


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_some_seed_is_taken(target: Target) -> None:
    assert any(accept(target, seed) for seed in target.seeds)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_broken_input_raises_typed_errors_only(target: Target) -> None:
    @settings(max_examples=50, deadline=None)
    @given(broken(target.seeds))
    def feed(data: bytes) -> None:
        accept(target, data)

    feed()
