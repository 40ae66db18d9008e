"""Frozen dataclasses as plain JSON values and back, exactly: the dataclasses are the schema.

Objects stand for dataclasses, lists for tuples, an Enum's value for it. Reading is as strict as the types: what writing
could not have produced is refused, with the place where it stands.
"""

from __future__ import annotations

import types
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from lab.errors import LabError

T = TypeVar("T")


def to_plain(value: object) -> Any:
    """A value as `json.dumps` takes it."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple):
        return [to_plain(item) for item in value]
    return value.value if isinstance(value, Enum) else value


def from_plain(value: object, kind: type[T], where: str) -> T:
    """A value of that type as `json.loads` gave it; LabError begins with `where` and says what is wrong."""
    return cast(T, _read(value, kind, where))


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
    return LabError(f"{where} must be {wanted}")
