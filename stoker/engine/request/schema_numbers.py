"""Numbers in a schema that the library of grammars would take for others.

It has them as floats of 64 bits, and makes 64-bit integers of bounds of whole numbers. So bounds
beyond 2^53 are drawn in, which no answer can tell but the few numbers between:

    minimum -2^63                  ->  -2^63 + 1024
    exclusiveMaximum 2^64          ->  maximum 2^63 - 1024
    minimum 2^53 + 1               ->  2^53 + 2
    const 2^53 + 1                 ->  refused
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, TypeGuard

from stoker.engine.request.schema_parts import schemas_in, types_of
from stoker.errors import InvalidRequestError

BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
FARTHEST = (1 << 63) - 1024  # of numbers from 0: a float below 2^63
NEXT_TO_0 = 1e-12
REMAINDERS = 1 << 16  # that make a grammar of multiples take a quarter of a second


def honoured_bounds(schema: dict[str, Any], place: str) -> dict[str, Any]:
    """A schema with bounds that become no others on the way.

    Raises:
        InvalidRequestError: no number is left.
    """
    types = types_of(schema)
    if "integer" in types and "number" not in types:
        return _whole_bounds(schema, place)
    return _number_bounds(schema, place)


def _whole_bounds(schema: dict[str, Any], place: str) -> dict[str, Any]:
    """Of whole numbers, for which every bound can be made one that they may reach."""
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


def _number_bounds(schema: dict[str, Any], place: str) -> dict[str, Any]:
    if _is_number(schema.get("exclusiveMaximum")) and schema["exclusiveMaximum"] == 0:
        # the library would take -0 for less than 0
        schema = {key: value for key, value in schema.items() if key != "exclusiveMaximum"}
        most = schema.get("maximum")
        if not _is_number(most) or most > -NEXT_TO_0:
            schema["maximum"] = -NEXT_TO_0
    for key, inclusive, sign in (
        ("minimum", "minimum", 1),
        ("exclusiveMinimum", "minimum", 1),
        ("maximum", "maximum", -1),
        ("exclusiveMaximum", "maximum", -1),
    ):
        value = schema.get(key)
        if _is_number(value) and abs(value) >= 1 << 53:
            schema = _drawn_in(schema, key, inclusive, sign, place)
    return schema


def _drawn_in(
    schema: dict[str, Any], key: str, inclusive: str, sign: int, place: str
) -> dict[str, Any]:
    """The schema with the bound `key` as the next float that the numbers may reach.

    A greatest bound is worked on as a least one, with the other `sign`.
    """
    flag = f"exclusive{inclusive.capitalize()}"  # yes or no in draft 4, else a bound
    above = key == flag or schema.get(flag) is True
    value = sign * schema[key]
    if value > FARTHEST:
        raise InvalidRequestError(
            f"json_schema: {place} has {key} {schema[key]}, and numbers beyond {FARTHEST} can't be "
            "given where there are bounds; ask for a string with a pattern"
        )
    least = float(max(value, -FARTHEST))
    if least < value or (above and least == value):
        least = math.nextafter(least, math.inf)
    kept = {
        name: one
        for name, one in schema.items()
        if name != key and not (name == flag and one is True)
    }
    if _is_number(kept.get(inclusive)):
        least = max(least, float(sign * kept[inclusive]))
    kept[inclusive] = sign * int(least) if least.is_integer() else sign * least
    other = "maximum" if sign == 1 else "minimum"
    if least > 0 and not kept.keys() & {other, f"exclusive{other.capitalize()}"}:
        kept[other] = sign * FARTHEST  # the library wants both ends where one is far out
    return kept


def _exact(value: int | float) -> bool:
    """Whether a float of 64 bits holds the number."""
    try:
        return isinstance(value, float) or int(float(value)) == value
    except OverflowError:
        return False


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_numbers(value: Any, place: str) -> None:
    """Refuse whole numbers that are other numbers as floats of 64 bits."""
    if isinstance(value, Mapping | list | tuple):
        parts = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, one in parts:
            check_numbers(one, f"{place}/{key}")
    elif _is_number(value) and (abs(value) > FARTHEST or not _exact(value)):
        raise InvalidRequestError(
            f"json_schema: {place} is {value}, which can't be told from the numbers beside it "
            "beyond 2^53; write it as a string"
        )


def check_multiples(root: dict[str, Any]) -> None:
    """Refuse multiples that have too many remainders, each of which is a state of the grammar.

    Of a multiple of 250 it is 25: zeros at its end are another thing. Multiples may come
    together (`allOf`), as their least common one.
    """
    states = 1
    for schema in schemas_in(root):
        value = schema.get("multipleOf")
        if _is_number(value) and 0 < abs(value) < math.inf:
            digits = Decimal(str(value)).normalize().as_tuple().digits
            states = math.lcm(states, int("".join(map(str, digits))))
    if states > REMAINDERS:
        raise InvalidRequestError(
            f"json_schema: multipleOf asks for {states} remainders to be told apart, and "
            f"{REMAINDERS} can be; take a rounder one"
        )
