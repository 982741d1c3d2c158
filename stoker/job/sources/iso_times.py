"""Dates, times and durations as ISO 8601, to the nanosecond and in any year.

    timestamp of 1704153600123456789 ns    2024-01-02T00:00:00.123456789
    timestamp of 253402300800 s            +10000-01-01T00:00:00
    duration of -93784005 ms               -P1DT2H3M4.005S

Python's datetime ends at microseconds and at the year 9999. Within these the texts are those of its
`isoformat`: a fraction has no digits, six, or nine where six would lose some.
"""

from __future__ import annotations

import datetime

SECOND = 10**9  # in nanoseconds, which all counts here are of
DAY = 86_400 * SECOND
UNITS = {"s": SECOND, "ms": 10**6, "us": 10**3, "ns": 1}  # nanoseconds in each
EPOCH = datetime.date(1970, 1, 1).toordinal()
CYCLE, YEARS = 146_097, 400  # days and years after which the calendar repeats


def date_text(days: int) -> str:
    """The date so many days after 1970-01-01.

    A year beyond four digits has a sign, as ISO 8601 expands them; 1 BC is 0000.
    """
    # 1970-01-01 is day 719,162 after 0001-01-01: cycle 4, day 134,774 of it, year 370 + 4 * 400
    cycles, day = divmod(days + EPOCH - 1, CYCLE)
    date = datetime.date.fromordinal(day + 1)
    year = date.year + cycles * YEARS
    shown = f"{year:04}" if 0 <= year <= 9999 else f"{year:+05}"
    return f"{shown}-{date.month:02}-{date.day:02}"


def time_text(count: int) -> str:
    """The time of day so many nanoseconds after midnight."""
    seconds, rest = divmod(count, SECOND)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{_fraction(rest)}"


def timestamp_text(count: int, zone: datetime.tzinfo | None = None) -> str:
    """The date and time so many nanoseconds after 1970-01-01T00:00:00.

    Args:
        count: since then, in UTC if there is a zone.
        zone: the time zone to write it in; None writes none. Beyond the years that Python's
            zones know it is written in UTC.
    """
    days, rest = divmod(count, DAY)
    plain = f"{date_text(days)}T{time_text(rest)}"
    if zone is None:
        return plain
    seconds, rest = divmod(count, SECOND)
    try:
        utc = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(0, seconds)
        local = utc.astimezone(zone).isoformat()
    except (OverflowError, ValueError):
        return f"{plain}+00:00"
    end = len("2024-01-02T00:00:00")
    return local[:end] + _fraction(rest) + local[end:]


def duration_text(count: int, days: int = 0, months: int = 0) -> str:
    """A duration of so many nanoseconds, and of days and months that have no fixed length.

    A sign stands before the whole; where parts differ in sign, each has its own.
    """
    signs = {part > 0 for part in (count, days, months) if part}
    if signs == {False}:
        return "-" + duration_text(-count, -days, -months)
    if len(signs) < 2 and not months:  # a day is a day
        days, count = days + count // DAY, count % DAY
    sign = "-" if count < 0 else ""
    seconds, rest = divmod(abs(count), SECOND)
    fraction = f".{rest:09}".rstrip("0") if rest else ""
    parts = [(months, "M"), (days, "D")]
    clock = [(seconds // 3600, "H"), (seconds // 60 % 60, "M")]
    date = "".join(f"{value}{letter}" for value, letter in parts if value)
    time = "".join(f"{sign}{value}{letter}" for value, letter in clock if value)
    if seconds % 60 or rest or not (date or time):
        time += f"{sign}{seconds % 60}{fraction}S"
    return f"P{date}T{time}" if time else f"P{date}"


def _fraction(rest: int) -> str:
    """Nanoseconds after a decimal point."""
    if rest % 1000:
        return f".{rest:09}"
    return f".{rest // 1000:06}" if rest else ""
