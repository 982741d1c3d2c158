"""Seeded generators of small skills whose answers can be checked.

Makes (prompt, answer) pairs and decides which prompts are held out for evaluation.
Does not tokenise, does not know the chat template and reads no file.
"""

from __future__ import annotations

import datetime
import json
import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from words import SORTABLE, WORDS

HELD_OUT_ONE_IN = 50
MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
LEVELS = ("INFO", "WARNING", "ERROR", "DEBUG")


@dataclass(frozen=True)
class Case:
    """One question with its only right answer."""

    skill: str
    prompt: str
    answer: str


def is_held_out(prompt: str) -> bool:
    """True for the one prompt in fifty that training never sees."""
    return zlib.crc32(prompt.encode()) % HELD_OUT_ONE_IN == 0


def ordinal(number: int) -> str:
    """1 -> 1st, 22 -> 22nd, 13 -> 13th."""
    if 11 <= number % 100 <= 13:
        return f"{number}th"
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th') }"


def _month_spelling(rng: random.Random, month: int) -> str:
    name = MONTHS[month - 1]
    short = name if month == 5 else name[:3]
    return rng.choice([name, name, short, short, short + ".", name.upper(), name.lower()])


def spell_date(rng: random.Random, day: datetime.date) -> str:
    """One of many unambiguous ways in which people write a date."""
    month = _month_spelling(rng, day.month)
    number = rng.choice([str(day.day), ordinal(day.day)])
    year = str(day.year)
    forms = [
        f"{number} {month} {year}",
        f"{number} of {month}, {year}",
        f"the {ordinal(day.day)} of {month} {year}",
        f"{month} {number}, {year}",
        f"{month} {number} {year}",
        f"{year} {month} {number}",
        f"{day.day}-{month}-{year}",
        f"{year}/{day.month:02d}/{day.day:02d}",
        f"{year}.{day.month}.{day.day}",
        f"{day:%A}, {number} {month} {year}",
        f"{day:%a} {month} {number}, {year}",
        f"{number} {month} '{year[2:]}",
        f"{month} {number}, '{year[2:]}",
    ]
    return rng.choice(forms)


def dates(rng: random.Random, size: int) -> Case:
    """A messy date to ISO 8601; years 1950 to 2049, so that two digits are unambiguous."""
    first = datetime.date(1950, 1, 1).toordinal()
    last = datetime.date(2049, 12, 31).toordinal()
    day = datetime.date.fromordinal(rng.randint(first, last))
    text = spell_date(rng, day)
    noun = rng.choice(["invoice", "letter", "order", "report", "ticket", "contract"])
    prompt = rng.choice(
        [
            f"Write this date as YYYY-MM-DD: {text}",
            f"Convert to an ISO date: {text}",
            f"ISO 8601: {text}",
            f"Normalise the date: {text}",
            f"The {noun} is dated {text}. Which date is that in ISO format?",
        ]
    )
    return Case("dates", prompt, day.isoformat())


def _value(rng: random.Random) -> str:
    kind = rng.randrange(4)
    if kind == 0:
        return rng.choice(WORDS)
    if kind == 1:
        return str(rng.randint(100, 99999))
    if kind == 2:
        return f"{rng.choice(WORDS)} {rng.randint(10, 999)}"
    return "".join(rng.choice("abcdefghjkmnpqrstuvwxyz") for _ in range(rng.randint(3, 5)))


def recall(rng: random.Random, size: int) -> Case:
    """The value that belongs to a key in a list of `size` lines."""
    keys = rng.sample(WORDS, min(size, len(WORDS)))
    values = {key: _value(rng) for key in keys}
    lines = "\n".join(f"{key}: {value}" for key, value in values.items())
    key = rng.choice(keys)
    prompt = rng.choice(
        [
            f"{lines}\n\nWhat is the value of {key}?",
            f"Here is a list.\n{lines}\n\nWhich value belongs to {key}?",
            f"Records:\n{lines}\n\nLook up {key}",
            f"Find the value of {key} in this list.\n{lines}\n\nValue of {key}:",
        ]
    )
    return Case("recall", prompt, values[key])


def _item(rng: random.Random, kind: int) -> str:
    if kind == 0:
        return rng.choice(WORDS)
    if kind == 1:
        return str(rng.randint(0, 9999))
    if kind == 2:
        return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(2, 5)))
    return _item(rng, rng.randrange(3))


def copy(rng: random.Random, size: int) -> Case:
    """Repeat `size` items exactly."""
    kind = rng.choice([0, 0, 1, 2, 3])
    separator = rng.choice([" ", " ", ", ", "-", "\n"])
    text = separator.join(_item(rng, kind) for _ in range(size))
    prompt = rng.choice(
        [f"Repeat exactly: {text}", f"Copy this text.\n{text}", f"Say this again: {text}"]
    )
    return Case("copy", prompt, text)


def sort(rng: random.Random, size: int) -> Case:
    """Three to eight words or numbers in rising order."""
    separator = rng.choice([" ", ", "])
    if rng.random() < 0.5:
        items = rng.sample(WORDS[:SORTABLE], size)
        answer = separator.join(sorted(items))
        order = rng.choice(["Sort these words", "Put in alphabetical order", "Sort from A to Z"])
    else:
        top = rng.choice([99, 99, 999])
        items = [str(number) for number in rng.sample(range(top + 1), size)]
        answer = separator.join(sorted(items, key=int))
        order = rng.choice(["Sort these numbers", "Put in rising order", "Sort ascending"])
    return Case("sort", f"{order}: {separator.join(items)}", answer)


def arithmetic(rng: random.Random, size: int) -> Case:
    """Sums and differences of numbers below 1000, products of one-digit numbers."""
    kind = rng.randrange(5)
    top = rng.choice([20, 99, 999])
    left, right = rng.randint(0, top), rng.randint(0, top)
    if kind == 0:
        left, right = rng.randint(2, 12), rng.randint(2, 9)
        expression, result = f"{left} * {right}", left * right
    elif kind <= 2:
        expression, result = f"{left} + {right}", left + right
    else:
        left, right = max(left, right), min(left, right)
        expression, result = f"{left} - {right}", left - right
    prompt = rng.choice([f"What is {expression}?", f"Calculate: {expression}", f"{expression} ="])
    return Case("arithmetic", prompt, str(result))


def extract(rng: random.Random, size: int) -> Case:
    """Named fields of a log line as one line of JSON."""
    fields: dict[str, str | int] = {
        "time": f"{rng.randrange(24):02d}:{rng.randrange(60):02d}:{rng.randrange(60):02d}",
        "level": rng.choice(LEVELS),
        "service": rng.choice(WORDS),
        "user": rng.choice(WORDS),
        "status": rng.choice([200, 201, 204, 301, 400, 401, 403, 404, 429, 500, 502, 503]),
        "ms": rng.randint(1, 9999),
    }
    line = rng.choice(
        [
            "{time} {level} [{service}] user={user} status={status} took {ms} ms",
            "{level} {time} {service}: {user} got {status} after {ms} ms",
            "[{time}] {service} {level} status {status} for user {user} in {ms} ms",
        ]
    ).format(**fields)
    wanted = rng.sample(list(fields), rng.randint(1, 4))
    answer = json.dumps({name: fields[name] for name in wanted})
    prompt = rng.choice(
        [f"Extract {', '.join(wanted)} as JSON.\n{line}", f"{line}\nJSON with {', '.join(wanted)}:"]
    )
    return Case("extract", prompt, answer)


def sequence(rng: random.Random, size: int) -> Case:
    """The next element of an arithmetic or a periodic sequence."""
    if rng.random() < 0.5:
        step = rng.choice([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 20, 25, 50, 100])
        count, start = rng.randint(4, 7), rng.randint(0, 99)
        items = [str(start + step * i) for i in range(count + 1)]
        if rng.random() < 0.3:
            items.reverse()
    else:
        period = rng.sample(WORDS, rng.randint(2, 4))
        count = rng.randint(2 * len(period), 3 * len(period))
        items = [period[i % len(period)] for i in range(count + 1)]
    text = ", ".join(items[:-1])
    prompt = rng.choice([f"What comes next: {text}", f"Continue the sequence: {text}"])
    return Case("sequence", prompt, items[-1])


SKILLS: dict[str, Callable[[random.Random, int], Case]] = {
    "dates": dates,
    "recall": recall,
    "copy": copy,
    "sort": sort,
    "arithmetic": arithmetic,
    "extract": extract,
    "sequence": sequence,
}
# Smallest and largest `size` that evaluation asks for (recall: some 40 to 512 tokens).
EVALUATION_SIZES = {"recall": (4, 60), "copy": (3, 24), "sort": (3, 8)}


def make_case(skill: str, rng: random.Random, sizes: tuple[int, int], held_out: bool) -> Case:
    """A case on the asked side of the split; `sizes` is the range of list lengths."""
    while True:
        case = SKILLS[skill](rng, rng.randint(*sizes))
        if is_held_out(case.prompt) is held_out:
            return case


def evaluation_cases(skill: str, count: int, seed: int) -> list[Case]:
    """`count` different held-out cases of one skill."""
    rng = random.Random(f"{skill}-{seed}")
    cases: dict[str, Case] = {}
    for _ in range(200 * count):
        case = make_case(skill, rng, EVALUATION_SIZES.get(skill, (1, 1)), held_out=True)
        cases.setdefault(case.prompt, case)
        if len(cases) == count:
            return list(cases.values())
    raise ValueError(f"{skill}: only {len(cases)} different held-out cases")
