"""A JSON schema as the library of grammars can honour it, and what it can't, by place and value.

    {"type": "string", "format": "color"}            ->  {"type": "string"}: an annotation
    {"type": "integer", "maximum": 2**64}            ->  2**63 - 1024: bounds have 64 bits
    {"enum": [9007199254740993]}                     ->  refused: as a float it is another number
    {"$ref": "#"}                                    ->  refused: no answer ends

By JSON Schema (2020-12, 7.2.1) a format that is not known is an annotation, which asks for nothing.
Knows schemas as plain data. Called by constraint.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stoker.engine.request.schema_numbers import check_multiples, check_numbers, honoured_bounds
from stoker.engine.request.schema_parts import DATA, LISTS, MAPS, listed
from stoker.engine.request.schema_references import check_references
from stoker.errors import InvalidRequestError

NESTED = 100  # levels of objects and lists; the library reads 127, answers are as deep
FORMATS = frozenset(  # those that answers follow
    ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
)
OPTIONAL = 3000  # properties of an object, which make a grammar of two seconds


def prepare_schema(schema: Any) -> dict[str, Any]:
    """The schema without formats that are annotations; true is the schema without keywords.

    Raises:
        InvalidRequestError: it is nested too deeply, no answer is possible, or a number in it
            would not be honoured.
    """
    if schema is False:
        raise InvalidRequestError("json_schema is false, so no answer is possible")
    _check_depth(schema)
    found: dict[str, Any] = {} if schema is True else _prepared(schema, "#")
    check_multiples(found)
    check_references(found)
    return found


def _check_depth(schema: Any) -> None:
    level: list[Any] = [schema] if isinstance(schema, Mapping) else []
    depth = 0
    while level:  # each part once, for it may be a part of itself
        if depth == NESTED:
            raise InvalidRequestError(
                f"json_schema is nested more than {NESTED} levels deep; put parts of it into $defs"
            )
        parts = [
            part
            for one in level
            for part in (one.values() if isinstance(one, Mapping) else one)
            if isinstance(part, Mapping | list | tuple)
        ]
        level = list({id(part): part for part in parts}.values())
        depth += 1


def _prepared(schema: Any, place: str) -> Any:
    if not isinstance(schema, Mapping):
        return schema  # a boolean, or what the library refuses
    made: dict[str, Any] = {}
    for key, value in schema.items():
        at = f"{place}/{key}"
        if key == "format" and isinstance(value, str) and value not in FORMATS:
            continue
        if key in MAPS and isinstance(value, Mapping):
            made[key] = {name: _prepared(one, f"{at}/{name}") for name, one in value.items()}
        elif key in LISTS and isinstance(value, list | tuple):
            made[key] = [_prepared(one, f"{at}/{index}") for index, one in enumerate(value)]
        elif key in DATA or not isinstance(value, Mapping):
            if key in ("const", "enum"):
                check_numbers(value, at)
            made[key] = value
        else:  # a keyword, or a place of its own that references point to
            made[key] = _prepared(value, at)
    properties = made.get("properties")
    optional = len(properties) if isinstance(properties, dict) else 0
    optional -= len(listed(made, "required"))
    if optional > OPTIONAL:
        raise InvalidRequestError(
            f"json_schema: {place} has {optional} properties that are not required, and "
            f"{OPTIONAL} can be followed; require some, or divide them among objects"
        )
    return honoured_bounds(made, place)
