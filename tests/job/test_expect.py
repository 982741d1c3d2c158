"""Answers compared with a column, in four ways."""

import time

import pytest

from stoker.errors import ConfigError
from stoker.job.expect import MODES, Accuracy, Expect, last_number
from stoker.job.report import Report
from stoker.job.result_texts import answers, as_text, own_columns


@pytest.mark.parametrize(
    ("mode", "answer", "expected", "agrees"),
    [
        ("exact", " yes\n", "yes", True),
        ("exact", "Yes", "yes", False),
        ("exact", "a  b", "a b", False),
        ("exact", "", "", True),
        ("normalized", "The  Cat, sat!", "cat SAT", True),
        ("normalized", "Straße", "STRASSE", True),
        ("normalized", "«un café» …", "un cafe\u0301", True),
        ("normalized", "another", "other", False),
        ("normalized", "a cat", "cats", False),
        ("numeric", "So 3 + 4 makes 7.", "7", True),
        ("numeric", "It costs $1,234.50", "1234.5", True),
        ("numeric", "7.0", "#### 7", True),
        ("numeric", "1,000,000", "1e6", True),
        ("numeric", "the answer is -3", "-3", True),
        ("numeric", "the answer is −3", "-3", True),
        ("numeric", "10-3", "3", True),
        ("numeric", "0.1", "0.10000001", False),
        ("numeric", "none", "7", False),
        ("numeric", "none", "none", False),
        ("numeric", "12 %", 12, True),
        ("regex", "the answer is 42.", r"\b42\b", True),
        ("regex", "the answer is 421.", r"\b42\b", False),
        ("regex", "Yes, of course", "^(?i:yes)", True),
    ],
)
def test_modes(mode, answer, expected, agrees):
    assert Expect("want", mode).agree({"want": expected}, [answer]) == [agrees]


def test_numbers():
    texts = ["1,23", "12,345,6", ".5", "5e3", "1 2", "x=-4", "v-4", "1e999999999"]
    found = [str(last_number(text)) for text in texts]
    assert found[:7] == ["23", "6", "0.5", "5E+3", "2", "-4", "4"]
    assert last_number("no number") is None


def test_accuracy_by_group_and_rows_without_the_column():
    accuracy = Accuracy(Expect("want", "exact", "kind"))
    report = Report(5, accuracy=accuracy)
    seen = []
    report.watchers.append(lambda fields, result, agrees: seen.append(agrees))
    done = {"status": "done", "text": "x"}
    report.add({"want": "x", "kind": "a"}, done)
    report.add({"want": "y", "kind": "a"}, done)
    report.add({"want": "x"}, done)
    report.add({"kind": "a"}, done)
    report.add({"want": "x", "kind": 7}, {"status": "failed", "error": "no"})
    assert seen == [True, False, True, None, False]
    assert report.lines()[-4:] == [
        "accuracy  50.0% (2 of 4 as expected)",
        "          7       0.0%  (1)",
        "          a      50.0%  (2)",
        "          none  100.0%  (1)",
    ]


def test_a_column_that_is_not_there_and_patterns_that_are_none():
    accuracy = Accuracy(Expect("want", "regex"))
    accuracy.add({}, {"text": "x"})
    assert accuracy.lines() == ["accuracy  no row has a column 'want' to compare with"]
    accuracy.add({"want": "(("}, {"text": "x"})
    told = "accuracy  1 rows not compared: their column 'want' holds no valid regular expression"
    assert accuracy.lines() == [told]
    accuracy.add({"want": "x"}, {"text": "x"})
    assert accuracy.rate == 1.0


def test_a_pattern_that_backtracks_without_end_holds_nothing_up():
    """Such a pattern takes Python's own matcher longer than the age of the universe."""
    accuracy = Accuracy(Expect("want", "regex"))
    endless, answer = r"^(a+)+$", "a" * 5000 + "b"
    began = time.monotonic()
    assert accuracy.add({"want": endless}, {"text": answer}) is None
    assert accuracy.add({"want": endless}, {"text": "aaa"}) is True
    assert time.monotonic() - began < 2
    told = "accuracy  1 rows not compared: their column 'want' holds a pattern that takes over"
    assert accuracy.lines()[0] == "accuracy  100.0% (1 of 1 as expected)"
    assert accuracy.lines()[1].startswith(told)
    assert sum(accuracy.as_json()["not_compared"].values()) == 1


def test_options_without_expect_are_refused():
    from stoker.cli.main import build_parser
    from stoker.cli.progress_options import expect_of

    def asked(*more):
        return expect_of(build_parser().parse_args(["run", "in", "-o", "out", *more]))

    assert asked() is None
    assert asked("--expect", "x") == Expect("x", "exact", None)
    assert asked("--expect", "x", "--expect-mode", "numeric", "--group", "g").group == "g"
    with pytest.raises(ConfigError, match="--group has no effect without --expect"):
        asked("--group", "g")
    with pytest.raises(ConfigError, match="--expect-mode has no effect"):
        asked("--expect-mode", "exact")
    assert set(MODES) == {"exact", "normalized", "numeric", "regex"}


def test_each_sample_counts():
    accuracy = Accuracy(Expect("want"))
    result = {"samples": [{"text": "yes"}, {"text": "no"}, {"text": " yes "}]}
    assert accuracy.add({"want": "yes"}, result) is False
    assert accuracy.add({"want": "yes"}, {"samples": [{"text": "yes"}] * 2}) is True
    assert (accuracy.correct["all"], accuracy.compared["all"]) == (4, 5)


def test_answers_of_a_batch_file():
    """Read again, a row is its response; the answers are there and not in the result."""
    chat = [{"message": {"content": "a"}}, {"message": {"content": "b"}}]
    for choices in (chat, [{"text": "a"}, {"text": "b"}]):
        response = {"status_code": 200, "body": {"choices": choices}}
        fields = {"id": "r", "custom_id": "1", "response": response, "error": None}
        assert answers(fields, {"row": 1, "status": "done"}) == ["a", "b"]
        assert as_text(fields, {}) == "[1] a\n\n[2] b"
        assert own_columns(fields) == {"id": "r", "custom_id": "1"}
    failed = {"custom_id": "1", "response": {"body": {"error": {}}}}
    assert answers(failed, {"status": "failed"}) == []
    assert as_text({}, {"text": "x"}) == "x"
