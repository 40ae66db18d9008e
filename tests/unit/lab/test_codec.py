"""plan.json: what is written is read back exactly, and nothing else is taken for a plan."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.errors import LabError
from lab.model.classical import CLASSICAL, cell_topology
from lab.plan.build import build
from lab.plan.codec import plan_from_json, plan_to_json

TEXT = plan_to_json(build(cell_topology("home", "home"), 1))


@settings(max_examples=30)
@given(st.sampled_from(CLASSICAL), st.sampled_from(CLASSICAL), st.integers())
def test_a_plan_reads_back_exactly(dialer: str, listener: str, seed: int) -> None:
    plan = build(cell_topology(dialer, listener), seed)
    text = plan_to_json(plan)
    assert plan_from_json(text) == plan
    assert plan_to_json(plan_from_json(text)) == text


@pytest.mark.parametrize(
    ("path", "value", "where"),
    [
        (("seed",), "1", "plan.seed must be int"),
        (("seed",), True, "plan.seed must be int"),
        (("spaces", 1, "kind"), "switch", "plan.spaces[1].kind must be one of core, router, host"),
        (("spaces", 0, "sysctls", 0), ["a"], "plan.spaces[0].sysctls[0] must be a list of 2"),
        (("cables", 0, "a"), [], "plan.cables[0].a must be an object with space"),
        (("routers", 0, "nat", "udp_timeout"), 0.5, "plan.routers[0].nat must be a mapping's lifetime"),
        (("launches",), {}, "plan.launches must be a list"),
        (("launches", 0, "router"), 3, "plan.launches[0].router must be str"),
        (("vantages",), ["11.255.1.1"], "plan.vantages must be a list of 2"),
        (("extra",), 1, "plan must be an object with topology"),
    ],
)
def test_a_wrong_part_is_named(path: tuple[str | int, ...], value: object, where: str) -> None:
    plan: Any = json.loads(TEXT)
    inner = plan
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    with pytest.raises(LabError) as caught:
        plan_from_json(json.dumps(plan))
    assert where in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "1", "[" * 100000, TEXT[:-10]])
def test_what_is_no_plan_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(LabError) as caught:
        plan_from_json(text)
    assert len(str(caught.value).splitlines()) == 1
