"""Checks of what users pass, each with a message that names the parameter and the value.

Knows no parameter in particular. Called by the dataclasses that users make.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

from stoker.engine.request.other_names import hint
from stoker.errors import InvalidRequestError


def known_names(cls: type, given: Iterable[str], what: str) -> None:
    """Refuse a keyword that the dataclass `cls` has no field for."""
    known = [field.name for field in dataclasses.fields(cls)]
    for name in given:
        if name not in known:
            raise InvalidRequestError(f"unknown {what} {name!r}; {hint(name, known)}")


def items(name: str, value: Any) -> tuple[Any, ...]:
    """`value` as a tuple; None is the empty one."""
    if value is None:
        return ()
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise InvalidRequestError(f"{name} must be a list, not {value!r}")
    return tuple(map(plain, value))


def plain(value: Any) -> Any:
    """A number of NumPy or torch, such as np.int64(3), as Python's own; others as they are."""
    return value.item() if getattr(value, "ndim", None) == 0 else value


def whole(name: str, value: Any, least: int | None, advice: str = "") -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidRequestError(f"{name} must be a whole number, not {value!r}{advice}")
    if least is not None and value < least:
        raise InvalidRequestError(f"{name} must be at least {least}, not {value}{advice}")


def at_most(name: str, value: int, most: int) -> None:
    if value > most:
        raise InvalidRequestError(f"{name} must be at most {most}, not {value}")


def number(name: str, value: Any) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not _finite(value):
        raise InvalidRequestError(f"{name} must be a finite number, not {value!r}")


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond every float
        return False


def yes_or_no(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise InvalidRequestError(f"{name} must be True or False, not {value!r}")


def between(name: str, value: Any, low: float, high: float, advice: str = "") -> None:
    """A number from `low` to `high`, both included."""
    number(name, value)
    if not low <= value <= high:
        raise InvalidRequestError(
            f"{name} must lie between {low:g} and {high:g}, not {value!r}{advice}"
        )


def share(name: str, value: Any) -> None:
    """A probability above 0, where 1 switches the filter off."""
    number(name, value)
    if not 0 < value <= 1:
        raise InvalidRequestError(f"{name} must lie in (0, 1], not {value!r}; 1 is off")
