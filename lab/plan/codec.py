"""A plan as JSON and back, exactly: analysis and reports start from `plan.json` and need no rights."""

from __future__ import annotations

import json

from lab.errors import LabError
from lab.model.plain import from_plain, to_plain
from lab.plan.plan import Plan


def plan_to_json(plan: Plan) -> str:
    """The text of `plan.json`."""
    return json.dumps(to_plain(plan), indent=1, ensure_ascii=False) + "\n"


def plan_from_json(text: str) -> Plan:
    """The plan of such a text; LabError says where it is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LabError(f"plan.json: not JSON: {error}") from None
    return from_plain(value, Plan, "plan.json: plan")
