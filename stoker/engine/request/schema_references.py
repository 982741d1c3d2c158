"""References in a schema: whether some answer to it ends, and how far they lead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from stoker.engine.request.schema_parts import listed, parts_of, schemas_in, types_of
from stoker.errors import InvalidRequestError

LEVELS = 400  # that references may lead down; at some 1,500 a stack of 8 MiB is full
FOLLOWED = frozenset(  # keywords of the library that have schemas below them
    (
        *("allOf", "anyOf", "oneOf", "prefixItems", "items", "additionalItems"),
        *("properties", "patternProperties", "additionalProperties"),
    )
)
SCALARS = {"null", "boolean", "number", "integer", "string"}

Known = Callable[[Any], bool]


def check_references(root: dict[str, Any]) -> None:
    """Check that references leave an answer that ends, and that the library can follow them.

    Raises:
        InvalidRequestError: there is none, or they lead too far down.
    """
    if not any("$ref" in one for one in schemas_in(root)):
        return
    _check_levels(root)
    if not _finite(root):
        raise InvalidRequestError(
            "json_schema has no answer that ends: what it asks for refers to itself ($ref) and "
            "leaves no other choice"
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
        left += [(part, level + 1) for part in parts_of(schema, FOLLOWED)]


def _finite(root: dict[str, Any]) -> bool:
    """Whether some answer ends, as far as references decide it.

    A list of `next` that is required never ends; one that may be null does. What ends is found
    from the inside out, until nothing new is found.
    """
    ends: set[int] = set()  # ids of the schemas that are known to have an answer
    nodes = list(schemas_in(root))

    def known(schema: Any) -> bool:
        return id(schema) in ends if isinstance(schema, dict) else schema is not False

    while True:
        new = {id(one) for one in nodes if id(one) not in ends and _ends(one, root, known)}
        if not new:
            return known(root)
        ends |= new


def _ends(schema: dict[str, Any], root: dict[str, Any], known: Known) -> bool:
    """Whether a schema has an answer, given the schemas that are `known` to have one."""
    if "const" in schema or "enum" in schema:
        return True
    if "$ref" in schema:
        target = _target(schema["$ref"], root)
        if target is not None and not known(target):
            return False
    if not all(map(known, listed(schema, "allOf"))):
        return False
    for key in ("anyOf", "oneOf"):
        if key in schema and not any(map(known, listed(schema, key))):
            return False
    types = set(map(str, types_of(schema)))
    if not types or types & SCALARS:
        return True
    return ("array" in types and _array_ends(schema, known)) or (
        "object" in types and _object_ends(schema, known)
    )


def _array_ends(schema: dict[str, Any], known: Known) -> bool:
    least = schema.get("minItems", 0)
    if not isinstance(least, int):
        return True
    first = listed(schema, "prefixItems") or listed(schema, "items")
    rest = schema.get("additionalItems" if isinstance(schema.get("items"), list) else "items", True)
    return all(map(known, first[:least])) and (least <= len(first) or known(rest))


def _object_ends(schema: dict[str, Any], known: Known) -> bool:
    required, properties = listed(schema, "required"), schema.get("properties")
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
