"""The programs of examples/ run, and what they print is right."""

import ast
import csv
import json
import re
import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples"
PROGRAMS = sorted(path.stem for path in FOLDER.glob("*.py"))
FORMS = (  # of the lines of logs.csv
    r"{time} {level} \[\w+\] user={user} status={status} took {ms} ms",
    r"{level} {time} \w+: {user} got {status} after {ms} ms",
    r"\[{time}\] \w+ {level} status {status} for user {user} in {ms} ms",
)
FIELDS = {"time": r"[\d:]+", "level": r"[A-Z]+", "user": r"\w+", "status": r"\d+", "ms": r"\d+"}
PATTERNS = [
    form.format(**{name: f"(?P<{name}>{kind})" for name, kind in FIELDS.items()}) for form in FORMS
]


@pytest.fixture
def printed(capsys):
    """Runs a program of the folder and returns what it prints."""

    def run(name):
        runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    return run


def logs():
    """The fields of each line of logs.csv, by number."""
    with (FOLDER / "logs.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            (found,) = filter(None, (re.fullmatch(form, row["line"]) for form in PATTERNS))
            fields = found.groupdict()
            numbers = {name: int(fields[name]) for name in ("status", "ms")}
            yield row["id"], fields | numbers


def test_classify_csv(printed):
    rows = list(csv.reader(printed("classify_csv").splitlines()))
    assert rows == [["id", "level"], *([row, fields["level"]] for row, fields in logs())]


def test_extract_json(printed):
    found = [json.loads(line) for line in printed("extract_json").splitlines()]
    wanted = [{key: f[key] for key in ("time", "user", "status", "ms")} for _, f in logs()]
    right = sum(found[row] == wanted[row] for row in range(len(wanted)))
    assert len(found) == len(wanted)
    assert right >= 0.9 * len(wanted)


def test_score_answers(printed):
    firsts = re.findall(r"^\S.*\n +-\d+\.\d\d  (.*)$", printed("score_answers"), re.M)
    assert firsts == ["1987-05-03", "7, 19, 41", "24", "check supply bar"]


def test_best_of_n(printed):
    greedy, best = (int(n) for n in re.findall(r"(\d+) of 30 right", printed("best_of_n")))
    assert greedy < best <= 30


def test_nearest_rows(printed):
    (alike,) = re.findall(r"(\d+) of 100 rows", printed("nearest_rows"))
    assert int(alike) >= 90


def test_resume(printed):
    text = printed("resume")
    (killed,) = re.findall(r"killed with (\d+) rows", text)
    assert 40 <= int(killed) <= 300
    assert "300 rows in the end, equal to those of a run that was not broken" in text


def test_every_program_is_tested_and_listed():
    tests = {
        node.name.removeprefix("test_")
        for node in ast.parse(Path(__file__).read_text("utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }
    assert {*PROGRAMS} <= tests
    listed = re.findall(r"\[(\w+)\.py\]", (FOLDER / "README.md").read_text("utf-8"))
    assert sorted(listed) == PROGRAMS


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_is_short(name):
    assert len((FOLDER / f"{name}.py").read_text("utf-8").splitlines()) <= 60
