"""Where the schemas lie in a schema, as plain data. Used by the checks of it (`schema.py`)."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from typing import Any

MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
LISTS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
DATA = frozenset(("const", "enum", "default", "examples", "example", "x-guidance"))


def schemas_in(schema: Any) -> Iterator[dict[str, Any]]:
    """The schema's parts that are schemas and no booleans, itself among them."""
    if not isinstance(schema, dict):
        return
    yield schema
    for part in parts_of(schema, schema.keys() - DATA):
        yield from schemas_in(part)


def parts_of(schema: dict[str, Any], keys: Container[str]) -> Iterator[Any]:
    """What may be schemas in one, under `keys`."""
    for key, value in schema.items():
        if key not in keys:
            continue
        if key in MAPS and isinstance(value, dict):
            yield from value.values()
        elif key in LISTS and isinstance(value, list):
            yield from value
        else:
            yield value


def types_of(schema: Mapping[str, Any]) -> list[Any]:
    """The types that a schema names; none if it names none."""
    types = schema.get("type", [])
    return list(types) if isinstance(types, list | tuple) else [types]


def listed(schema: dict[str, Any], key: str) -> list[Any]:
    """A keyword's value if it is a list, else none."""
    value = schema.get(key)
    return value if isinstance(value, list) else []
