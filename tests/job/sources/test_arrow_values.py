"""Every type of Arrow column gives what JSON can hold; a value that cannot be read is a bad row."""

import datetime
import decimal
import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.errors import JobError
from stoker.job.rows import BadRow, Row
from stoker.job.sources import open_source
from stoker.job.sources.iso_times import date_text, duration_text, timestamp_text
from stoker.job.sources.values import column_values, plain

NANOSECONDS = 1704153600123456789  # 2024-01-02T00:00:00.123456789
STAMP = pa.timestamp("ns")


def union(values, other):
    return pa.UnionArray.from_sparse(pa.array([0, 1], pa.int8()), [pa.array(values), other])


COLUMNS = {
    "ns": (pa.array([NANOSECONDS], STAMP), "2024-01-02T00:00:00.123456789"),
    "ns, no digits lost": (pa.array([1704153600123456000], STAMP), "2024-01-02T00:00:00.123456"),
    "ns, whole": (pa.array([1704153600 * 10**9], STAMP), "2024-01-02T00:00:00"),
    "us": (pa.array([1704153600123456], pa.timestamp("us")), "2024-01-02T00:00:00.123456"),
    "zone": (
        pa.array([NANOSECONDS], pa.timestamp("ns", "Europe/Berlin")),
        "2024-01-02T01:00:00.123456789+01:00",
    ),
    "unknown zone": (
        pa.array([1704153600123], pa.timestamp("ms", "Nowhere/There")),
        "2024-01-02T00:00:00.123000+00:00",
    ),
    "year 10000": (pa.array([253402300800], pa.timestamp("s")), "+10000-01-01T00:00:00"),
    "year 10000 in a zone": (
        pa.array([253402300800], pa.timestamp("s", "Europe/Berlin")),
        "+10000-01-01T00:00:00+00:00",
    ),
    "before our era": (pa.array([-800_000], pa.date32()), "-0221-09-04"),
    "date of milliseconds": (pa.array([253402300800000], pa.date64()), "+10000-01-01"),
    "time ns": (pa.array([1234567891], pa.time64("ns")), "00:00:01.234567891"),
    "duration ns": (pa.array([1234567891], pa.duration("ns")), "PT1.234567891S"),
    "duration s": (pa.array([-93784], pa.duration("s")), "-P1DT2H3M4S"),
    "interval": (pa.array([pa.MonthDayNano([1, 2, -3])]), "P1M2DT-0.000000003S"),
    "decimal256": (pa.array([decimal.Decimal("1.50")], pa.decimal256(50, 2)), "1.50"),
    "dictionary": (pa.array(["a"]).dictionary_encode(), "a"),
    "dictionary of times": (
        pa.array([NANOSECONDS], STAMP).dictionary_encode(),
        "2024-01-02T00:00:00.123456789",
    ),
    "runs": (pa.compute.run_end_encode(pa.array([7])), 7),
    "map": (pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())), {"a": 1}),
    "map with a key twice": (
        pa.array([[("a", 1), ("a", 2)]], pa.map_(pa.string(), pa.int64())),
        [["a", 1], ["a", 2]],
    ),
    "map with other keys": (pa.array([[(1, 2)]], pa.map_(pa.int8(), pa.int8())), [[1, 2]]),
    "union": (union([5, 6], pa.array(["x", "y"])), 5),
    "union of times": (union([None, 6], pa.array([1, 1], STAMP)), None),
    "fixed-size binary": (pa.array([b"abc"], pa.binary(3)), "abc"),
    "fixed-size binary that is no text": (pa.array([b"\xff\xfe"], pa.binary(2)), "//4="),
    "large string": (pa.array(["x"], pa.large_string()), "x"),
    "string view": (pa.array(["x"], pa.string_view()), "x"),
    "half float": (pa.array([1.5], pa.float16()), 1.5),
    "infinity": (pa.array([-np.inf], pa.float16()), None),
    "null": (pa.array([None]), None),
    "uint64": (pa.array([2**64 - 1], pa.uint64()), 2**64 - 1),
    "uuid": (pa.array([b"0123456789abcdef"], pa.uuid()), "30313233-3435-3637-3839-616263646566"),
    "bool8": (pa.array([1], pa.bool8()), True),
    "tensor": (
        pa.FixedShapeTensorArray.from_numpy_ndarray(np.arange(4.0).reshape(1, 2, 2)),
        [0.0, 1.0, 2.0, 3.0],
    ),
    "list of times": (pa.array([[1], [2]], pa.list_(STAMP)), ["1970-01-01T00:00:00.000000001"]),
    "list of fixed size": (
        pa.array([[1, None]], pa.list_(pa.duration("s"), 2)),
        ["PT1S", None],
    ),
    "nested": (
        pa.array(
            [[{"a": 1, "b": {"k": [1.5]}}]],
            pa.list_(
                pa.struct([("a", STAMP), ("b", pa.map_(pa.string(), pa.list_(pa.float16())))])
            ),
        ),
        [{"a": "1970-01-01T00:00:00.000000001", "b": {"k": [1.5]}}],
    ),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_types_of_columns(name):
    column, wanted = COLUMNS[name]
    found = column_values(column)
    assert found[0] == wanted
    assert type(found[0]) is type(wanted)
    json.dumps(found, allow_nan=False)
    nulls = column_values(pa.nulls(2, column.type))
    assert nulls == [None, None]


@pytest.mark.parametrize("name", COLUMNS)
def test_types_of_columns_in_files(tmp_path, name):
    """What an Arrow file can hold comes out of it, and what Parquet can hold out of Parquet."""
    column, wanted = COLUMNS[name]
    table = pa.table({"prompt": ["x"] * len(column), "t": column})
    with pa.ipc.new_stream(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table)
    assert next(open_source(tmp_path / "a.arrow").rows()).fields == {"prompt": "x", "t": wanted}
    try:
        pq.write_table(table, tmp_path / "a.parquet")
    except pa.ArrowNotImplementedError:
        return
    assert next(open_source(tmp_path / "a.parquet").rows()).fields == {"prompt": "x", "t": wanted}


def test_values_that_json_lacks():
    assert plain(datetime.datetime(2024, 5, 6, 7, 8)) == "2024-05-06T07:08:00"
    assert plain(datetime.date(2024, 5, 6)) == "2024-05-06"
    assert plain(decimal.Decimal("1.50")) == "1.50"
    assert plain({"a": [float("nan"), 1.5, b"x", b"\xff", (1, True)]}) == {
        "a": [None, 1.5, "x", "/w==", [1, True]]
    }


def test_one_value_that_cannot_be_read_is_one_bad_row(tmp_path):
    texts = pa.array([b"a", b"\xe9", b"c"], pa.binary())
    column = pa.StringArray.from_buffers(3, texts.buffers()[1], texts.buffers()[2])
    listed = pa.ListArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), column)
    pq.write_table(pa.table({"n": [1, 2, 3], "prompt": listed}), tmp_path / "a.parquet")
    rows = list(open_source(tmp_path / "a.parquet").rows())
    assert [type(row) for row in rows] == [Row, BadRow, Row]
    assert rows[1].error.startswith(
        "a.parquet, row 2, column 'prompt' holds text that is not UTF-8; store it as text"
    )
    assert rows[1].fields == {"n": 2}


def test_arrow_files_with_texts_that_are_no_utf8(tmp_path):
    """One bad row each; offsets that lead nowhere end the reading, and not the process."""
    texts = pa.array([b"a", b"\xe9", b"c"], pa.binary())
    column = pa.StringArray.from_buffers(3, texts.buffers()[1], texts.buffers()[2])
    with pa.ipc.new_stream(str(tmp_path / "a.arrow"), pa.schema([("prompt", pa.string())])) as file:
        file.write_table(pa.table({"prompt": column}))
    rows = list(open_source(tmp_path / "a.arrow").rows())
    assert [type(row) for row in rows] == [Row, BadRow, Row]
    offsets = pa.array([0, 1 << 30, 2], pa.int32()).buffers()[1]
    wrong = pa.StringArray.from_buffers(2, offsets, texts.buffers()[2])
    with pa.ipc.new_file(str(tmp_path / "b.arrow"), pa.schema([("prompt", pa.string())])) as file:
        file.write_batch(pa.record_batch({"prompt": wrong}))
    with pytest.raises(JobError, match="is damaged or cut off"):
        list(open_source(tmp_path / "b.arrow").rows())


def test_structures_with_a_field_twice_are_refused(tmp_path):
    twice = pa.struct([pa.field("x", pa.int8()), pa.field("x", pa.int8())])
    array = pa.StructArray.from_buffers(
        twice, 1, [None], children=[pa.array([1], pa.int8()), pa.array([2], pa.int8())]
    )
    table = pa.table({"prompt": ["a"], "s": pa.ListArray.from_arrays([0, 1], array)})
    with pa.ipc.new_stream(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(JobError, match="column 's' has two fields called 'x'; rename one"):
        list(open_source(tmp_path / "a.arrow").rows())


def test_a_table_without_columns_is_refused(tmp_path):
    pq.write_table(pa.table({"a": [1, 2]}).select([]), tmp_path / "a.parquet")
    with pytest.raises(JobError, match="has no columns; give a file with a prompt in"):
        list(open_source(tmp_path / "a.parquet").rows())


@given(st.datetimes(timezones=st.none()), st.integers(0, 999))
@settings(max_examples=300, deadline=None)
def test_times_are_those_of_python_where_it_has_them(moment, nanoseconds):
    since = moment - datetime.datetime(1970, 1, 1)
    count = ((since.days * 86400 + since.seconds) * 10**6 + since.microseconds) * 1000
    assert timestamp_text(count) == moment.isoformat()
    text = timestamp_text(count + nanoseconds)
    assert np.datetime64(text, "ns" if nanoseconds else "us") is not None
    if nanoseconds:
        assert text == f"{moment.isoformat(timespec='microseconds')}{nanoseconds:03}"


@given(st.integers(-(10**8), 10**8))
@settings(max_examples=300, deadline=None)
def test_dates_are_those_of_numpy_in_any_year(days):
    year, month, day = str(np.datetime64(days, "D")).rsplit("-", 2)
    found = date_text(days)
    assert (int(found[: -len("-01-01")]), found[-5:]) == (int(year), f"{month}-{day}")


@given(st.integers(-(10**15), 10**15))
@settings(max_examples=300, deadline=None)
def test_durations_have_their_length(microseconds):
    """A reader written after ISO 8601's grammar gives the same length."""
    text = duration_text(microseconds * 1000)
    found = re.fullmatch(r"(-?)P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:([\d.]+)S)?)?", text)
    days, hours, minutes = (int(part or 0) for part in found.groups()[1:4])
    seconds = decimal.Decimal(found[5] or 0) + 60 * (minutes + 60 * (hours + 24 * days))
    assert (-seconds if found[1] else seconds) * 10**6 == microseconds
    assert minutes < 60
    assert hours < 24
