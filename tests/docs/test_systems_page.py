"""docs/systems.md names tests and result files that exist, for each system once."""

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "systems.md").read_text("utf-8")
MARKS = ["option", "exact", "measured"]
WAITING = "\n# Waiting for a GPU\n"


@functools.cache
def names_of_tests(path):
    """The names of a file's tests, those of a class as Class::test."""
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    for group in tree.body:
        if isinstance(group, ast.ClassDef):
            names |= {f"{group.name}::{x.name}" for x in group.body if hasattr(x, "name")}
    return {name for name in names if name.split("::")[-1].startswith("test_")}


def problems(page):
    """What is wrong with the page, a line each."""
    holding, _, waiting = page.partition(WAITING)
    rows = [re.split(r"^## ", part, flags=re.M)[1:] for part in (holding, waiting)]
    found, seen = [], []
    for number, section in enumerate(rows[0] + rows[1]):
        title, _, body = section.partition("\n")
        row = title.split()[0]
        seen.append(row)
        if not re.fullmatch(r"S\d{3} \S.*", title):
            found.append(f"{row}: the heading must be an id such as S003 and a name")
        statement, *parts = re.split(r"^- \*(\w+)\*: ", body, flags=re.M)
        marks = dict(zip(parts[::2], parts[1::2], strict=True))
        if parts[::2] != MARKS or not statement.strip():
            found.append(f"{row}: it must have a statement, then {MARKS}, not {parts[::2]}")
            continue
        found += [f"{row}: {line}" for line in bad_tests(marks["exact"])]
        measured = marks["measured"]
        files = re.findall(r"`(benchmarks/results/[^`]+)`", measured)
        if not files and not re.match(r"- \w", measured):
            found.append(f"{row}: measured must name a result file, or say '- why there is none'")
        if measured.startswith("- needs a GPU") != (number >= len(rows[0])):
            found.append(f"{row}: what needs a GPU waits for one, and nothing else does")
        # every other path in backticks too: scripts, pages
        paths = re.findall(r"`((?:benchmarks|docs|stoker|tests)/[^`:\s]+)", body)
        found += [f"{row}: no file {path}" for path in paths if not (ROOT / path).is_file()]
    found += [f"{row} is there twice" for row in set(seen) if seen.count(row) > 1]
    parts = seen[: len(rows[0])], seen[len(rows[0]) :]
    if any(part != sorted(part) for part in parts):
        found.append("the rows are not in order")
    return found


def bad_tests(exact):
    named = re.findall(r"`(tests/[^`]+\.py)::([^`\[]+)(?:\[[^`]*\])?`", exact)
    if not named:
        yield "exact must name at least one test as `tests/path.py::test_name`"
    for path, name in named:
        if (ROOT / path).is_file() and name not in names_of_tests(path):
            yield f"no test {name} in {path}"


def test_what_the_page_names_exists():
    assert PAGE.count("\n## S") >= 5
    assert problems(PAGE) == []


ROW = """## S001 Thing

It holds.

- *option*: `x`
- *exact*: `tests/docs/test_systems_page.py::test_what_the_page_names_exists`
- *measured*: - no speed
"""


def test_a_right_row_is_accepted():
    assert problems(ROW) == []
    assert problems(ROW.replace("exists`", "exists[a-1]`")) == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("S001", "S1", "an id such as"),
        (" Thing", "", "an id such as"),
        ("It holds.", "", "must have a statement"),
        ("- *option*: `x`\n", "", "must have a statement"),
        ("_exists`", "_exist`", "no test test_what_the_page_names_exist in"),
        ("page.py", "pages.py", "no file tests/docs/test_systems_pages.py"),
        ("`tests/", "`test/", "at least one test"),
        ("- no speed", "fast", "must name a result file"),
        ("- no speed", "`benchmarks/results/none.json`", "no file benchmarks/results/none.json"),
    ],
)
def test_a_wrong_row_is_told(old, new, message):
    (problem, *_) = problems(ROW.replace(old, new))
    assert message in problem


def test_rows_that_wait_for_a_gpu():
    other = ROW.replace("S001", "S000")
    waiting = other.replace("- no speed", "- needs a GPU: no speed")
    assert problems(ROW + WAITING + waiting) == []
    message = "S000: what needs a GPU waits for one, and nothing else does"
    assert problems(waiting + ROW) == problems(ROW + WAITING + other) == [message]


def test_order_and_doubles():
    assert problems(ROW + ROW) == ["S001 is there twice"]
    assert problems(ROW.replace("S001", "S002") + ROW) == ["the rows are not in order"]
