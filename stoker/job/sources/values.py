"""Values of Arrow columns as JSON can hold them.

What JSON has no place for becomes text: times as ISO 8601, decimals as they are written, bytes as
UTF-8 or else base64. A map is an object where its keys are text, else a list of pairs. What Arrow
stores in a roundabout way (dictionaries, runs, unions, extensions) is the value it stands for.
"""

from __future__ import annotations

import base64
import datetime
import math
import numbers
from dataclasses import dataclass
from typing import Any

from stoker.job.sources.iso_times import UNITS, date_text, duration_text, time_text, timestamp_text
from stoker.job.sources.streams import arrow

PLAIN = (str, bool, int)


@dataclass(frozen=True)
class Unreadable:
    """Stands for a value that cannot be read, and says why."""

    reason: str


def column_values(column: Any) -> list[Any]:
    """The values of an Arrow array, `Unreadable` in place of each that cannot be read."""
    pa = arrow("these files")
    kind = column.type
    if _is_direct(kind):
        try:
            found = column.to_pylist()
        except (pa.ArrowException, ValueError, OverflowError):  # one at least; see which
            pass
        else:
            simple = pa.types.is_string(kind) or pa.types.is_integer(kind)
            return found if simple else [plain(value) for value in found]
    return [_read(scalar) for scalar in column]


def _read(scalar: Any) -> Any:
    pa = arrow("these files")
    try:
        return scalar_value(scalar)
    except UnicodeDecodeError:
        return Unreadable("text that is not UTF-8; store it as text")
    except (pa.ArrowException, ValueError, OverflowError) as problem:
        return Unreadable(f"a value that cannot be read ({problem}); store it as text")


def _is_direct(kind: Any) -> bool:
    """Whether pyarrow's own Python values are what is wanted, short of `plain`."""
    types = arrow("these files").types
    if types.is_struct(kind):
        return all(_is_direct(kind.field(at).type) for at in range(kind.num_fields))
    if types.is_dictionary(kind) or _is_list(kind):
        return _is_direct(kind.value_type)
    if types.is_timestamp(kind) or types.is_time(kind):
        return bool(kind.unit != "ns")
    return not (
        types.is_duration(kind)
        or types.is_interval(kind)
        or types.is_map(kind)
        or types.is_union(kind)
        or types.is_run_end_encoded(kind)
        or hasattr(kind, "extension_name")
    )


def _is_list(kind: Any) -> bool:
    types = arrow("these files").types
    tests = ("list", "large_list", "fixed_size_list", "list_view", "large_list_view")
    return any(getattr(types, f"is_{name}")(kind) for name in tests)


def scalar_value(scalar: Any) -> Any:
    """An Arrow scalar of any type as a value for JSON.

    Raises:
        UnicodeDecodeError: its text is no UTF-8.
        ValueError, OverflowError, ArrowException: pyarrow has no Python value for it.
    """
    pa: Any = arrow("these files")
    types, kind = pa.types, scalar.type
    if isinstance(scalar, pa.UnionScalar | pa.RunEndEncodedScalar):
        return None if scalar.value is None else scalar_value(scalar.value)
    if not scalar.is_valid:
        return None
    if isinstance(scalar, pa.ExtensionScalar):
        if kind.extension_name in ("arrow.uuid", "arrow.bool8"):
            return plain(scalar.as_py())
        return scalar_value(scalar.value)
    if isinstance(scalar, pa.DictionaryScalar):
        return scalar_value(scalar.value)
    if types.is_struct(kind):
        names = [kind.field(at).name for at in range(kind.num_fields)]
        return {name: scalar_value(scalar[at]) for at, name in enumerate(names)}
    if types.is_map(kind):
        pairs = [[scalar_value(pair[0]), scalar_value(pair[1])] for pair in scalar.values]
        keys = {key for key, _ in pairs if isinstance(key, str)}
        texts = types.is_string(kind.key_type) or types.is_large_string(kind.key_type)
        return dict(pairs) if texts and len(keys) == len(pairs) else pairs
    if _is_list(kind):
        return [scalar_value(one) for one in scalar.values]
    if types.is_timestamp(kind):
        zone = None if kind.tz is None else _zone(kind.tz)
        return timestamp_text(scalar.value * UNITS[kind.unit], zone)
    if types.is_time(kind):
        return time_text(scalar.value * UNITS[kind.unit])
    if types.is_date(kind):
        return date_text(scalar.value if types.is_date32(kind) else scalar.value // 86_400_000)
    if types.is_duration(kind):
        return duration_text(scalar.value * UNITS[kind.unit])
    if types.is_interval(kind):
        months, days, rest = scalar.as_py()
        return duration_text(rest, days, months)
    return plain(scalar.as_py())


def _zone(name: str) -> datetime.tzinfo:
    """The time zone of this name; UTC if it is not known here."""
    pa: Any = arrow("these files")
    try:
        zone: datetime.tzinfo = pa.lib.string_to_tzinfo(name)
    except Exception:  # by which package it looks depends on what is installed
        return datetime.UTC
    return zone


def plain(value: Any) -> Any:
    """A Python value as JSON can hold it; what is not a number becomes null."""
    if value is None or isinstance(value, PLAIN):
        return value
    if isinstance(value, numbers.Real):  # NumPy's too
        return float(value) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return base64.b64encode(value).decode()
    return str(value)
