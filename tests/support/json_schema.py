"""The part of JSON Schema (draft 2020-12) that our own schema uses; a keyword that it does not know is an error."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_NOTES = {"$schema", "$defs", "title", "description", "default", "examples"}
_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict, "array": list, "string": str, "integer": int, "boolean": bool,
}  # fmt: skip


def complaints(value: Any, schema: dict[str, Any]) -> list[str]:
    """What is wrong with `value`, as `path: keyword`; empty if it is valid."""
    return list(_check(value, schema, schema, "$"))


def _check(value: Any, schema: dict[str, Any], root: dict[str, Any], path: str) -> Iterator[str]:
    for keyword, wanted in schema.items():
        if keyword in _NOTES:
            continue
        yield from _KEYWORDS[keyword](value, wanted, root, path, schema)


def _ref(value: Any, wanted: str, root: dict[str, Any], path: str, _: Any) -> Iterator[str]:
    yield from _check(value, root["$defs"][wanted.removeprefix("#/$defs/")], root, path)


def _type(value: Any, wanted: str, _: Any, path: str, __: Any) -> Iterator[str]:
    if not isinstance(value, _TYPES[wanted]) or (wanted == "integer" and isinstance(value, bool)):
        yield f"{path}: type"


def _properties(value: Any, wanted: dict[str, Any], root: dict[str, Any], path: str, _: Any) -> Iterator[str]:
    for name, schema in wanted.items():
        if isinstance(value, dict) and name in value:
            yield from _check(value[name], schema, root, f"{path}.{name}")


def _additional(value: Any, wanted: Any, root: dict[str, Any], path: str, schema: dict[str, Any]) -> Iterator[str]:
    for name in value if isinstance(value, dict) else ():
        if name not in schema.get("properties", {}):
            if wanted is False:
                yield f"{path}.{name}: additionalProperties"
            else:
                yield from _check(value[name], wanted, root, f"{path}.{name}")


def _names(value: Any, wanted: dict[str, Any], root: dict[str, Any], path: str, _: Any) -> Iterator[str]:
    for name in value if isinstance(value, dict) else ():
        yield from _check(name, wanted, root, f"{path} (name {name!r})")


def _required(value: Any, wanted: list[str], _: Any, path: str, __: Any) -> Iterator[str]:
    yield from (f"{path}.{name}: required" for name in wanted if isinstance(value, dict) and name not in value)


def _dependent(value: Any, wanted: dict[str, list[str]], root: dict[str, Any], path: str, schema: Any) -> Iterator[str]:
    for name, needed in wanted.items():
        if isinstance(value, dict) and name in value:
            yield from _required(value, needed, root, path, schema)


def _items(value: Any, wanted: dict[str, Any], root: dict[str, Any], path: str, _: Any) -> Iterator[str]:
    for n, member in enumerate(value if isinstance(value, list) else ()):
        yield from _check(member, wanted, root, f"{path}[{n}]")


def _any_of(value: Any, wanted: list[dict[str, Any]], root: dict[str, Any], path: str, _: Any) -> Iterator[str]:
    if all(any(True for _ in _check(value, schema, root, path)) for schema in wanted):
        yield f"{path}: anyOf"


def _not(value: Any, wanted: dict[str, Any], root: dict[str, Any], path: str, _: Any) -> Iterator[str]:
    if not any(True for _ in _check(value, wanted, root, path)):
        yield f"{path}: not"


def _fails(keyword: str, is_wrong: Any) -> Any:
    def check(value: Any, wanted: Any, _: Any, path: str, __: Any) -> Iterator[str]:
        if is_wrong(value, wanted):
            yield f"{path}: {keyword}"

    return check


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_KEYWORDS = {
    "$ref": _ref,
    "type": _type,
    "properties": _properties,
    "additionalProperties": _additional,
    "propertyNames": _names,
    "required": _required,
    "dependentRequired": _dependent,
    "items": _items,
    "anyOf": _any_of,
    "not": _not,
    "enum": _fails("enum", lambda value, wanted: value not in wanted),
    "const": _fails("const", lambda value, wanted: value != wanted),
    "pattern": _fails("pattern", lambda v, wanted: isinstance(v, str) and re.search(wanted, v) is None),
    "minLength": _fails("minLength", lambda v, wanted: isinstance(v, str) and len(v) < wanted),
    "minItems": _fails("minItems", lambda v, wanted: isinstance(v, list) and len(v) < wanted),
    "minimum": _fails("minimum", lambda v, wanted: _is_number(v) and v < wanted),
    "maximum": _fails("maximum", lambda v, wanted: _is_number(v) and v > wanted),
}
