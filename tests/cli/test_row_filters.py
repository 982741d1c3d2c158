"""The rows that `stoker inspect` lists and counts, chosen by --where, --match and --wrong."""

import json

import pytest

from stoker.cli.main import main

ROWS = [
    {"prompt": "One plus one", "want": "2", "level": 1, "result": {"text": "2"}},
    {"prompt": "One plus two", "want": "3", "level": 2, "result": {"text": "4"}},
    {"prompt": "The capital", "want": "Rome", "result": {"text": "rome"}},
    {"prompt": "x", "level": 10, "result": {"status": "failed", "error": "It Broke"}},
]
TOKENS = [1, 9, 30, 0]


@pytest.fixture
def out(tmp_path):
    path = tmp_path / "out.jsonl"
    rows = []
    for number, (row, tokens) in enumerate(zip(ROWS, TOKENS, strict=True), 1):
        counts = {"row": number, "status": "done", "prompt_tokens": 3, "output_tokens": tokens}
        rows.append({**row, "result": {**counts, **row["result"]}})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def inspect(capsys, *args, code=0):
    assert main(["inspect", *map(str, args)]) == code
    printed = capsys.readouterr()
    return printed.err if code else printed.out


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        ([], [1, 2, 3, 4]),
        (["--where", "level=2"], [2]),
        (["--where", "level!=2"], [1, 3, 4]),
        (["--where", "level>=2", "--where", "level<10"], [2]),
        (["--where", "output_tokens>1"], [2, 3]),
        (["--where", "status=failed"], [4]),
        (["--where", "want=Rome"], [3]),
        (["--match", "ONE PLUS"], [1, 2]),
        (["--match", "broke"], [4]),
        (["--match", "rome"], [3]),
        (["--wrong", "--expect", "want"], [2, 3]),
        (["--wrong", "--expect", "want", "--expect-mode", "normalized"], [2]),
        (["--wrong", "--expect", "want", "--match", "capital"], [3]),
    ],
)
def test_rows_that_are_chosen(out, capsys, options, numbers):
    listed = inspect(capsys, out, "--rows", *options)
    shown = [int(line.split()[1]) for line in listed.splitlines() if line.startswith("row ")]
    assert shown == numbers
    total = sum(TOKENS[number - 1] for number in numbers)
    summary = inspect(capsys, out, *options)
    assert f"rows      {len(numbers)} of" in summary
    assert f"+ {total} output" in summary


def test_with_an_expected_answer_it_is_listed(out, capsys):
    assert "  answer  4\n  expect  3\n" in inspect(capsys, out, "--rows", "--expect", "want")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--where", "level"], "'level' is no condition; write NAME=VALUE"),
        (["--where", "level>many"], "'many' is no number to compare with"),
        (["--where", "levl=1"], "no row has 'levl'; did you mean 'level'?"),
        (["--wrong"], "--wrong needs --expect COLUMN"),
        (["--html", "--match", "x"], "the report of all rows"),
        (["{out}", "--match", "x"], "are for one run"),
    ],
)
def test_conditions_without_sense_are_refused(out, capsys, options, message):
    options = [str(out) if one == "{out}" else one for one in options]
    assert message in inspect(capsys, out, *options, code=1)
