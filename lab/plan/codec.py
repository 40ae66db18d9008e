"""A plan as JSON and back, exactly: analysis and reports start from `plan.json` and need no rights.

The JSON follows the dataclasses: objects for them, lists for tuples, an Enum's value for it. Reading is as strict as
the types: what writing could not have produced is refused, with the place where it stands.
"""

from __future__ import annotations

import json
import types
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, cast, get_args, get_origin, get_type_hints

from lab.errors import LabError
from lab.plan.plan import Plan


def plan_to_json(plan: Plan) -> str:
    """The text of `plan.json`."""
    return json.dumps(_plain(plan), indent=1, ensure_ascii=False) + "\n"


def plan_from_json(text: str) -> Plan:
    """The plan of such a text; LabError says where it is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LabError(f"plan.json: not JSON: {error}") from None
    return cast(Plan, _read(value, Plan, "plan"))


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value.value if isinstance(value, Enum) else value


def _read(value: object, kind: Any, where: str) -> object:
    if is_dataclass(kind):
        return _read_object(value, cast(type, kind), where)
    origin = get_origin(kind)
    if origin is tuple:
        return _read_tuple(value, get_args(kind), where)
    if origin is types.UnionType:
        return None if value is None else _read(value, get_args(kind)[0], where)
    if isinstance(kind, type) and issubclass(kind, Enum):
        if value not in [member.value for member in kind]:
            raise _wrong(where, f"one of {', '.join(str(member.value) for member in kind)}")
        return kind(value)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise _wrong(where, kind.__name__)
    return value


def _read_object(value: object, kind: type, where: str) -> object:
    hints = get_type_hints(kind)
    if not isinstance(value, dict) or value.keys() != hints.keys():
        raise _wrong(where, f"an object with {', '.join(hints)}")
    try:
        return kind(**{name: _read(value[name], hint, f"{where}.{name}") for name, hint in hints.items()})
    except ValueError as error:
        raise _wrong(where, str(error)) from None


def _read_tuple(value: object, kinds: tuple[Any, ...], where: str) -> object:
    if not isinstance(value, list):
        raise _wrong(where, "a list")
    each = [kinds[0]] * len(value) if kinds[-1] is Ellipsis else list(kinds)
    if len(each) != len(value):
        raise _wrong(where, f"a list of {len(each)}")
    pairs = zip(value, each, strict=True)
    return tuple(_read(item, kind, f"{where}[{index}]") for index, (item, kind) in enumerate(pairs))


def _wrong(where: str, wanted: str) -> LabError:
    return LabError(f"plan.json: {where} must be {wanted}")
