"""The journal: any cut is recovered to whole rows, damage is refused, full disks tear nothing."""

import json
import os
import resource
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.errors import JobError
from stoker.job.journal import Journal, RowSet, count_lines, encoded, entries

FIELDS = st.dictionaries(
    st.text(max_size=4).filter(lambda name: name != "result"),
    st.one_of(st.none(), st.integers(), st.text(st.characters(), max_size=8), st.booleans()),
    max_size=3,
)


def line(number, fields=None, **more):
    return encoded({**(fields or {}), "result": {"row": number, "status": "done", **more}})


@given(st.lists(FIELDS, max_size=8), st.data())
def test_any_prefix_is_recovered_to_whole_rows(tmp_path_factory, rows, data):
    lines = [line(number, fields) for number, fields in enumerate(rows, 1)]
    whole = b"".join(lines)
    cut = data.draw(st.integers(0, len(whole)))
    path = tmp_path_factory.mktemp("cut") / "rows.jsonl"
    path.write_bytes(whole[:cut])
    found = list(entries(path, "result"))
    fit = sum(len(b"".join(lines[:n])) <= cut for n in range(1, len(lines) + 1))
    assert [one.number for one in found] == list(range(1, fit + 1))
    assert [one.fields for one in found] == rows[:fit]
    size = found[-1].end if found else 0
    assert size == len(b"".join(lines[:fit]))
    journal = Journal(path, size)  # and it goes on from there as if nothing had happened
    for rest in lines[fit:]:
        journal.append(rest)
    journal.close()
    assert path.read_bytes() == whole


@given(st.sets(st.integers(0, 5000)))
def test_row_sets(numbers):
    rows = RowSet()
    for number in [*numbers, *numbers]:
        rows.add(number)
    assert len(rows) == len(numbers)
    assert [n for n in range(5010) if n in rows] == sorted(numbers)


def test_half_a_surrogate_can_be_written():
    text = json.loads('"\\ud800"')
    assert json.loads(encoded({"prompt": text, "more": "é"})) == {"prompt": text, "more": "é"}


def test_zeros_after_a_crash_are_a_torn_end(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(line(1) + bytes(700) + b"\n" + bytes(9))
    assert [one.number for one in entries(path, "result")] == [1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (line(1) + b'{"a": 1}\n' + line(2), "line 2 is no result"),
        (line(1) + b"\n" + line(2), "line 2 is no result"),
        (line(1) + line(2) + line(1), "row 1 comes twice"),
    ],
)
def test_damage_in_the_middle_is_refused(tmp_path, content, message):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(JobError, match=message):
        list(entries(path, "result"))


@contextmanager
def small_files():
    """Files can't grow beyond 10,000 bytes, those of the tests' own output neither."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_does_not_fit_leaves_nothing_torn(tmp_path):
    path = tmp_path / "rows.jsonl"
    journal = Journal(path, 0)
    number = 0

    def fill():
        nonlocal number
        while True:
            for _ in range(7):
                number += 1
                journal.append(line(number, text="x" * 100))
            journal.flush()

    full = r"cannot write .*rows.jsonl: File too large; .* same comm"
    with small_files(), pytest.raises(JobError, match=full):
        fill()
    with small_files(), pytest.raises(JobError, match="File too large"):
        journal.close()
    assert path.read_bytes().endswith(b"}}\n")
    found = [one.number for one in entries(path, "result")]
    assert found == list(range(1, len(found) + 1))
    assert 10_000 // 170 - 8 < len(found) < number
    assert count_lines(path) == len(found)


def test_an_interruption_between_two_writes_leaves_nothing_torn(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    journal = Journal(path, 0)
    for number in (1, 2, 3):
        journal.append(line(number))
    write = os.write

    def interrupted(fd, data):
        write(fd, data[:50])
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        journal.flush()
    assert path.read_bytes() == b""
    monkeypatch.setattr(os, "write", write)
    journal.close()
    assert path.read_bytes() == line(1) + line(2) + line(3)


def test_a_failed_fsync_is_not_silent(tmp_path, monkeypatch):
    journal = Journal(tmp_path / "rows.jsonl", 0)
    journal.append(line(1))

    def fails(fd):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(JobError, match="Input/output error"):
        journal.close()


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_is_gone_is_noticed(tmp_path, replaced):
    path = tmp_path / "rows.jsonl"
    journal = Journal(path, 0)
    path.unlink()
    if replaced:
        path.write_text("")
    journal.append(line(1))
    with pytest.raises(JobError, match="has been removed or replaced"):
        journal.close()
