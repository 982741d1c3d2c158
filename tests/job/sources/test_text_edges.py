"""Text files as people export them: delimiters, byte order marks, line ends, NUL bytes, numbers."""

import gzip
import json
import math

import pytest

from stoker.engine.request.params import SamplingParams
from stoker.errors import InvalidRequestError, JobError
from stoker.job.journal import encoded
from stoker.job.overrides import Overrides
from stoker.job.prompts import read_template
from stoker.job.rows import BadRow, Row
from stoker.job.sources import open_source, parse_delimiter

BOM = "\ufeff".encode()


def read(tmp_path, name, data, form="auto", delimiter=None):
    (tmp_path / name).write_bytes(data)
    source = open_source(tmp_path / name, form, delimiter)
    found = list(source.rows())
    assert source.count() == len(found)
    return found


def good(tmp_path, name, data, form="auto", delimiter=None):
    found = read(tmp_path, name, data, form, delimiter)
    assert all(isinstance(row, Row) for row in found), found
    return [row.fields for row in found]


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (b'"a, b, c";d\n1;2\n', {"a, b, c": "1", "d": "2"}),
        (b'"a;b ""x"" ;";c,d\n1;2\n', {'a;b "x" ;': "1", "c,d": "2"}),
        (b"a,b;c\n1,2\n", {"a": "1", "b;c": "2"}),
        (b'x\t"a,b,c\n,,,"\n1\t2\n', {"x": "1", "a,b,c\n,,,": "2"}),
        (b"sep=;\na,b,c;d\n1;2\n", {"a,b,c": "1", "d": "2"}),
        (b'\n"SEP=|"\r\n\r\na,b|c\r\n1|2\r\n', {"a,b": "1", "c": "2"}),
        (BOM + b"sep=\t\na b\tc\n1\t2", {"a b": "1", "c": "2"}),
        (b"sep=\na\n", {"sep=": "a"}),
    ],
)
def test_delimiters_are_found(tmp_path, data, wanted):
    assert good(tmp_path, "a.csv", data) == [wanted]


def test_delimiters_are_told(tmp_path):
    data = b"a:b,c\n1:2\n"
    assert good(tmp_path, "a.csv", data, delimiter=":") == [{"a": "1", "b,c": "2"}]
    assert good(tmp_path, "a.dat", data, delimiter=":") == [{"a": "1", "b,c": "2"}]
    assert good(tmp_path, "a.txt", b"a\tb\n1\t2\n", delimiter="tab") == [{"a": "1", "b": "2"}]
    assert good(tmp_path, "a.tsv", b"sep=,\na;b\n1;2\n", delimiter=";") == [{"a": "1", "b": "2"}]
    assert good(tmp_path, "a.csv", b"a b\n1 2\n", "csv", "space") == [{"a": "1", "b": "2"}]
    for name, data in (("a.jsonl", b'{"a": 1}\n'), ("a.dat", b'{"a": 1}\n')):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(JobError, match=r"--delimiter is for CSV, and .* is jsonl; leave it"):
            open_source(tmp_path / name, delimiter=",")
    with pytest.raises(JobError, match="is a folder"):
        open_source(tmp_path, delimiter=",")


def test_delimiters_that_cannot_be():
    assert [parse_delimiter(one) for one in ("tab", "\\t", "\t", "Bar", "§")] == [*"\t\t\t|§"]
    for text in ("", '"', "\n", "ab", "\0"):
        with pytest.raises(JobError, match="one of comma, semicolon, tab, bar, space"):
            parse_delimiter(text)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("packed", [False, True])
def test_line_ends(tmp_path, end, packed):
    files = {
        "a.jsonl": [b'{"text": "one"}', b"", b'{"text": "two"}', b" "],
        "a.csv": [b"text", b"one", b"", b'"two"'],
        "a.txt": [b"one", b"  ", b"two"],
    }
    for name, lines in files.items():
        data = BOM + end.join(lines) + end
        file, data = (f"{name}.gz", gzip.compress(data)) if packed else (name, data)
        assert good(tmp_path, file, data) == [{"text": "one"}, {"text": "two"}], name


def test_a_carriage_return_in_a_line_ends_none(tmp_path):
    assert good(tmp_path, "a.txt", b"10 %\r20 %\nnext\n") == [
        {"text": "10 %\r20 %"},
        {"text": "next"},
    ]
    assert good(tmp_path, "a.csv", b'a,b\r\n"1\r2",3\r\n') == [{"a": "1\r2", "b": "3"}]


def test_large_files_of_carriage_returns(tmp_path):
    lines = [json.dumps({"prompt": f"{at} " * 50}).encode() for at in range(20_000)]
    found = good(tmp_path, "a.jsonl", b"\r".join(lines))
    assert found == [json.loads(line) for line in lines]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt", "folder/a.txt", "a"])
def test_byte_order_marks(tmp_path, name):
    (tmp_path / "folder").mkdir()
    rows = {"a.jsonl": b'{"text": "x"}', "a.json": b'[{"text": "x"}]', "a.csv": b"text\nx\n"}
    (tmp_path / name).write_bytes(BOM + rows.get(name, b"x"))
    source = open_source(tmp_path / (name if name[0] == "a" else "folder"))
    assert [row.fields["text"] for row in source.rows()] == ["x"]


def test_files_put_together_keep_their_marks(tmp_path):
    data = BOM + b'{"a": 1}\n' + BOM + b'{"a": 2}\n'
    assert good(tmp_path, "a.jsonl", data) == [{"a": 1}, {"a": 2}]


def test_byte_order_marks_of_other_files(tmp_path):
    (tmp_path / "prompt.txt").write_bytes(BOM + b"Say {{ word }}")
    assert read_template(str(tmp_path / "prompt.txt")) == "Say {{ word }}"
    from stoker.cli.main import build_parser
    from stoker.cli.sampling import sampling_params

    (tmp_path / "schema.json").write_bytes(BOM + b'{"type": "integer"}')
    args = build_parser().parse_args(["generate", "x", "--schema", str(tmp_path / "schema.json")])
    assert sampling_params(args).json_schema is not None
    shots = tmp_path / "shots.csv"
    shots.write_bytes(BOM + b"prompt,answer\na,b\n")
    assert [row.fields for row in open_source(shots).rows()] == [{"prompt": "a", "answer": "b"}]


@pytest.mark.parametrize("form", ["auto", "csv", "jsonl", "json", "text"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-16-le", "utf-32"])
def test_other_encodings_are_refused_by_name(tmp_path, form, encoding):
    data = "prompt,mark\nhello there,1\n".encode(encoding)
    with pytest.raises(JobError) as refused:
        read(tmp_path, "a.csv", data, form)
    assert f"UTF-{encoding[4:6]}" in str(refused.value)
    assert "iconv -f UTF-" in str(refused.value)


def test_a_file_of_another_encoding_in_a_folder(tmp_path):
    (tmp_path / "a.txt").write_bytes("hello".encode("utf-16"))
    (tmp_path / "b.txt").write_bytes(b"hello")
    bad, fine = open_source(tmp_path).rows()
    assert bad.error.startswith("a.txt is UTF-16 text; convert it")
    assert fine.fields["text"] == "hello"


@pytest.mark.parametrize("place", ["start", "far"])
def test_nul_bytes_are_bad_rows(tmp_path, place):
    """Wherever they stand, and the rows around them are kept."""
    before = 1 if place == "start" else 9000
    files = {
        "a.csv": (b"a,b\n", b"1,2\n", b"1,\0\n", "column 'b' holds a NUL byte, which is no text"),
        "a.txt": (b"", b"hello\n", b"he\0llo\n", "holds a NUL byte, which is no text"),
        "a.jsonl": (b"", b'{"a": "hello"}\n', b'{"a": "\0"}\n', "Invalid control character"),
    }
    for name, (head, line, nul, message) in files.items():
        found = read(tmp_path, name, head + line * before + nul + line * 3)
        assert [row.number for row in found if isinstance(row, BadRow)] == [before + 1]
        assert message in found[before].error
        assert len(found) == before + 4


def test_blocks_of_nul_bytes_that_were_never_written(tmp_path):
    line = b'{"a": "hello"}\n'
    found = read(tmp_path, "a.jsonl", line * 2 + b"\0" * 4000)
    assert [type(row) for row in found] == [Row, Row, BadRow]
    (tmp_path / "b.jsonl").write_bytes(b"\0" * 4000)
    with pytest.raises(JobError, match="neither text nor Parquet"):
        open_source(tmp_path / "b.jsonl")
    with pytest.raises(JobError, match="the header holds a NUL byte"):
        read(tmp_path, "a.csv", b"a,b\0\n1,2\n")


def test_headers_and_rows_with_too_many_commas(tmp_path):
    assert good(tmp_path, "a.csv", b"a,b\n1,2,\n3,4,,,\n") == [
        {"a": "1", "b": "2"},
        {"a": "3", "b": "4"},
    ]
    assert good(tmp_path, "a.csv", b",a\n0,x\n") == [{"": "0", "a": "x"}]
    assert good(tmp_path, "a.csv", b"a,,b,\n1,2,3,\n") == [
        {"a": "1", "column 2": "2", "b": "3", "column 4": ""}
    ]
    found = read(tmp_path, "a.csv", b"a,b\n1\n1,2,3,\n\n   \n,\n5,6\n")
    assert [type(row) for row in found] == [BadRow, BadRow, Row, Row]
    assert "has 3 values and the header has 2" in found[1].error
    assert [row.number for row in found] == [1, 2, 3, 4]
    assert good(tmp_path, "a.csv", b"a\n  \nx\n")[0] == {"a": "  "}


def test_faults_beyond_the_columns(tmp_path):
    """A value too many names no column."""
    found = read(tmp_path, "a.csv", b"a,b\n1,2,\xe9\n1,2,\0\n1,2\n")
    assert found[0].error.startswith("a.csv, line 2 is not UTF-8; convert")
    assert found[1].error.startswith("a.csv, line 3 holds a NUL byte")
    assert isinstance(found[2], Row)


def test_lines_are_counted_from_the_top_of_the_file(tmp_path):
    found = read(tmp_path, "a.csv", b"\nsep=;\n\na;b\n1;2\n1\n")
    assert found[1].error.startswith("a.csv, line 6 has 1 values")
    with pytest.raises(JobError, match=r"line 3: two columns are called 'a'"):
        read(tmp_path, "a.csv", b"\n\na,a\n1,2\n")


def test_numbers_beyond_all_measure_become_null(tmp_path):
    text = b'{"a": 1e999, "b": [-1e999, {"c": NaN}], "d": 1e308, "e": 1' + b"0" * 400 + b".0}"
    wanted = {"a": None, "b": [None, {"c": None}], "d": 1e308, "e": None}
    assert good(tmp_path, "a.jsonl", text + b"\n") == [wanted]
    assert good(tmp_path, "a.json", b"[" + text + b"]") == [wanted]


def test_numbers_of_thousands_of_digits(tmp_path):
    kept = b'{"a": ' + b"7" * 4300 + b"}\n"
    found = read(tmp_path, "a.jsonl", kept + b'{"a": ' + b"7" * 4301 + b'}\n{"a": 1}\n')
    assert [type(row) for row in found] == [Row, BadRow, Row]
    assert found[0].fields == {"a": int("7" * 4300)}
    assert encoded(found[0].fields) == kept
    assert "a whole number in it has more than 4300 digits; write it as text" in found[1].error


def test_results_hold_no_infinity():
    row = {"a": [1.5, math.inf, {"b": (-math.inf, math.nan)}], "c": "\ud800"}
    assert json.loads(encoded(row)) == {"a": [1.5, None, {"b": [None, None]}], "c": "\ud800"}


@pytest.mark.parametrize("text", ["[" * 100_000, '{"seed": ' + "1" * 5000 + "}", '{"a"', "[1]"])
def test_a_rows_own_parameters_that_are_no_json(text):
    with pytest.raises(InvalidRequestError, match=r"sampling must be (a JSON|an) object"):
        Overrides(SamplingParams()).apply(text)
