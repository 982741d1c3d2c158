"""A JSON schema as the library of grammars can honour it, and what it can't, by place and value.

    {"type": "string", "format": "color"}            ->  {"type": "string"}: an annotation
    {"type": "integer", "maximum": 2**64}            ->  2**63 - 1024: bounds have 64 bits
    {"enum": [9007199254740993]}                     ->  refused: as a float it is another number
    {"$ref": "#"}                                    ->  refused: no answer ends

By JSON Schema (2020-12, 7.2.1) a format that is not known is an annotation, which asks for nothing.
Knows schemas as plain data. Called by constraint.py.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping
from decimal import Decimal
from typing import Any, TypeGuard
from urllib.parse import unquote

from stoker.errors import InvalidRequestError

NESTED = 100  # levels of objects and lists; the library reads 127, answers are as deep
FORMATS = frozenset(  # those that answers follow
    ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
)
MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
LISTS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
DATA = frozenset(("const", "enum", "default", "examples", "example", "x-guidance"))
FOLLOWED = frozenset(  # keywords of the library that have schemas below them
    (
        *("allOf", "anyOf", "oneOf", "prefixItems", "items", "additionalItems"),
        *("properties", "patternProperties", "additionalProperties"),
    )
)
BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
FARTHEST = (1 << 63) - 1024  # of whole numbers with bounds from 0: a float below 2^63
LEVELS = 400  # that references may lead down; at some 1,500 a stack of 8 MiB is full
OPTIONAL = 3000  # properties of an object, which make a grammar of two seconds
REMAINDERS = 1 << 16  # that make a grammar of multiples take a quarter of a second
SCALARS = {"null", "boolean", "number", "integer", "string"}


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
    _check_multiples(found)
    if not _refers(found):
        return found
    _check_levels(found)
    if not _finite(found):
        raise InvalidRequestError(
            "json_schema has no answer that ends: what it asks for refers to itself ($ref) and "
            "leaves no other choice"
        )
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
                _check_numbers(value, at)
            made[key] = value
        else:  # a keyword, or a place of its own that references point to
            made[key] = _prepared(value, at)
    properties = made.get("properties")
    optional = len(properties) if isinstance(properties, dict) else 0
    optional -= len(_listed(made, "required"))
    if optional > OPTIONAL:
        raise InvalidRequestError(
            f"json_schema: {place} has {optional} properties that are not required, and "
            f"{OPTIONAL} can be followed; require some, or divide them among objects"
        )
    types = _types(schema)
    return _whole_bounds(made, place) if "integer" in types and "number" not in types else made


def _types(schema: Mapping[str, Any]) -> list[Any]:
    types = schema.get("type", [])
    return list(types) if isinstance(types, list | tuple) else [types]


def _exact(value: int | float) -> bool:
    """Whether a float of 64 bits holds the number."""
    try:
        return int(float(value)) == value
    except OverflowError:
        return False


def _whole_bounds(schema: dict[str, Any], place: str) -> dict[str, Any]:
    """A schema of whole numbers with bounds that become no others on the way.

    The library has bounds as floats and makes 64-bit integers of these. So those beyond 2^53 are
    drawn in, which no answer can tell but the few numbers between:

        minimum -2^63                  ->  -2^63 + 1024
        exclusiveMaximum 2^64          ->  maximum 2^63 - 1024
        minimum 2^53 + 1               ->  2^53 + 2

    Raises:
        InvalidRequestError: no number is left.
    """
    given = {key: schema[key] for key in BOUNDS if _is_number(schema.get(key))}
    if all(abs(value) < 1 << 53 for value in given.values()):
        return schema
    if any(isinstance(value, float) and not math.isfinite(value) for value in given.values()):
        raise InvalidRequestError(f"json_schema: a bound of {place} is infinite; leave it out")
    least = [math.ceil(given["minimum"])] if "minimum" in given else []
    if "exclusiveMinimum" in given:
        least.append(math.floor(given["exclusiveMinimum"]) + 1)
    elif schema.get("exclusiveMinimum") is True:  # as draft 4 has it
        least = [math.floor(given["minimum"]) + 1 for _ in least]
    most = [math.floor(given["maximum"])] if "maximum" in given else []
    if "exclusiveMaximum" in given:
        most.append(math.ceil(given["exclusiveMaximum"]) - 1)
    elif schema.get("exclusiveMaximum") is True:
        most = [math.ceil(given["maximum"]) - 1 for _ in most]
    # the library wants both ends where one is far out
    low, high = max([-FARTHEST, *least]), min([FARTHEST, *most])
    while low <= high and not _exact(low):
        low += 1
    while low <= high and not _exact(high):
        high -= 1
    if low > high:
        bounds = ", ".join(f"{key} {value}" for key, value in given.items())
        raise InvalidRequestError(
            f"json_schema: {place} has {bounds}, and whole numbers beyond {FARTHEST} can't be "
            "given, nor be told from those beside them beyond 2^53; ask for a string with a pattern"
        )
    kept = {key: value for key, value in schema.items() if key not in BOUNDS}
    return {**kept, "minimum": low, "maximum": high}


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_numbers(value: Any, place: str) -> None:
    """Refuse whole numbers that are other numbers as floats of 64 bits."""
    if isinstance(value, Mapping | list | tuple):
        parts = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, one in parts:
            _check_numbers(one, f"{place}/{key}")
    elif isinstance(value, int) and (not _exact(value) or value == -(1 << 63)):
        raise InvalidRequestError(
            f"json_schema: {place} is {value}, which can't be told from the numbers beside it "
            "beyond 2^53; write it as a string"
        )


def _check_multiples(root: dict[str, Any]) -> None:
    """Refuse multiples that have too many remainders, each of which is a state of the grammar.

    Of a multiple of 250 it is 25: zeros at its end are another thing. Multiples may come
    together (`allOf`), as their least common one.
    """
    states = 1
    for schema in _nodes(root):
        value = schema.get("multipleOf")
        if _is_number(value) and 0 < abs(value) < math.inf:
            digits = Decimal(str(value)).normalize().as_tuple().digits
            states = math.lcm(states, int("".join(map(str, digits))))
    if states > REMAINDERS:
        raise InvalidRequestError(
            f"json_schema: multipleOf asks for {states} remainders to be told apart, and "
            f"{REMAINDERS} can be; take a rounder one"
        )


def _check_levels(root: dict[str, Any]) -> None:
    """Refuse references that lead to references too often: the library calls itself at each.

    Goes the way that it goes, from a part to what it refers to, there once.
    """
    seen: set[int] = set()
    left: list[tuple[Any, int]] = [(root, 0)]
    while left:
        schema, level = left.pop()
        if not isinstance(schema, dict):
            continue
        if level > LEVELS:
            raise InvalidRequestError(
                f"json_schema has more than {LEVELS} levels where references ($ref) are followed; "
                "refer to fewer parts from within others"
            )
        target = _target(schema.get("$ref"), root)
        if target is not None and id(target) not in seen:
            seen.add(id(target))
            left.append((target, level + 1))
        left += [(part, level + 1) for part in _parts(schema, FOLLOWED)]


# -- whether an answer ends ------------------------------------------------------------------


def _refers(schema: Any) -> bool:
    return any("$ref" in one for one in _nodes(schema))


def _nodes(schema: Any) -> Iterator[dict[str, Any]]:
    """The schema's parts that are schemas and no booleans, itself among them."""
    if not isinstance(schema, dict):
        return
    yield schema
    for part in _parts(schema, schema.keys() - DATA):
        yield from _nodes(part)


def _parts(schema: dict[str, Any], keys: Container[str]) -> Iterator[Any]:
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


def _finite(root: dict[str, Any]) -> bool:
    """Whether some answer ends, as far as references decide it.

    A list of `next` that is required never ends; one that may be null does. What ends is found
    from the inside out, until nothing new is found.
    """
    ends: set[int] = set()  # ids of the schemas that are known to have an answer
    nodes = list(_nodes(root))

    def known(schema: Any) -> bool:
        return id(schema) in ends if isinstance(schema, dict) else schema is not False

    while True:
        new = {id(one) for one in nodes if id(one) not in ends and _ends(one, root, known)}
        if not new:
            return known(root)
        ends |= new


def _ends(schema: dict[str, Any], root: dict[str, Any], known: Any) -> bool:
    """Whether a schema has an answer, given the schemas that are `known` to have one."""
    if "const" in schema or "enum" in schema:
        return True
    if "$ref" in schema:
        target = _target(schema["$ref"], root)
        if target is not None and not known(target):
            return False
    if not all(map(known, _listed(schema, "allOf"))):
        return False
    for key in ("anyOf", "oneOf"):
        if key in schema and not any(map(known, _listed(schema, key))):
            return False
    types = set(map(str, _types(schema)))
    if not types or types & SCALARS:
        return True
    return ("array" in types and _array_ends(schema, known)) or (
        "object" in types and _object_ends(schema, known)
    )


def _listed(schema: dict[str, Any], key: str) -> list[Any]:
    value = schema.get(key)
    return value if isinstance(value, list) else []


def _array_ends(schema: dict[str, Any], known: Any) -> bool:
    least = schema.get("minItems", 0)
    if not isinstance(least, int):
        return True
    first = _listed(schema, "prefixItems") or _listed(schema, "items")
    rest = schema.get("additionalItems" if isinstance(schema.get("items"), list) else "items", True)
    return all(map(known, first[:least])) and (least <= len(first) or known(rest))


def _object_ends(schema: dict[str, Any], known: Any) -> bool:
    required, properties = _listed(schema, "required"), schema.get("properties")
    named = properties if isinstance(properties, dict) else {}
    return all(known(named[name]) for name in required if name in named)


def _target(reference: Any, root: dict[str, Any]) -> Any:
    """What a reference within the schema points to; None if that is not found."""
    if not isinstance(reference, str) or (reference != "#" and not reference.startswith("#/")):
        return None
    found: Any = root
    for part in reference[1:].split("/")[1:]:
        name = unquote(part).replace("~1", "/").replace("~0", "~")
        if isinstance(found, dict) and name in found:
            found = found[name]
        elif isinstance(found, list) and name.isdigit() and int(name) < len(found):
            found = found[int(name)]
        else:
            return None
    return found
