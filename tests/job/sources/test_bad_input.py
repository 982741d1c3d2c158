"""What is wrong with an input is said with its file, its line, its field and what to do."""

import gzip
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stoker.errors import JobError
from stoker.job.rows import BadRow, Row
from stoker.job.sources import base, lines, open_source, require_rows
from stoker.job.sources.base import require_apart

ZSTD = pa.Codec("zstd")


def rows(tmp_path, name, data, form="auto"):
    path = tmp_path / name
    path.write_bytes(data)
    source = open_source(path, form)
    found = list(source.rows())
    assert source.count() == len(found)
    return found


def errors(found):
    return {row.number: row.error for row in found if isinstance(row, BadRow)}


def refused(path, *words, form="auto"):
    def read():
        source = open_source(path, form)
        require_rows(source)
        list(source.rows())

    with pytest.raises(JobError) as stop:
        read()
    for word in words:
        assert word in str(stop.value), stop.value
    return str(stop.value)


def test_missing_files(tmp_path):
    refused(tmp_path / "rows.jsonl", "cannot read", "rows.jsonl", "No such file", "check the path")
    (tmp_path / "row.jsonl").write_text("")
    refused(tmp_path / "rows.jsonl", "did you mean 'row.jsonl'?")
    refused(tmp_path / "no" / "rows.jsonl", f"there is no folder {tmp_path / 'no'}")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_files_one_may_not_read(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("{}")
    path.chmod(0)
    refused(path, "Permission denied", "chmod u+r")


def test_folders(tmp_path):
    refused(tmp_path, "without text files (.txt, .md, .text)", "it is empty")
    (tmp_path / "a.png").write_bytes(b"x")
    refused(tmp_path, "what is there ends in .png")
    refused(tmp_path, "is a folder where a csv file is expected", form="csv")
    refused(tmp_path, "without .parquet files", form="parquet")
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    refused(tmp_path, f"several splits; name one of {tmp_path / 'train'}, {tmp_path / 'test'}")
    (tmp_path / "dataset_dict.json").unlink()
    (tmp_path / "state.json").write_text('{"_data_files": [{"filename": "data-0.arrow"}]}')
    refused(tmp_path, "lacks data-0.arrow", "fetch it again")
    (tmp_path / "state.json").write_text("{")
    refused(tmp_path, "cannot read", "state.json", "save the dataset again")


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt", "a", "a.parquet"])
@pytest.mark.parametrize("data", [b"", b"\n \n", b"\xef\xbb\xbf"])
def test_empty_files(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    refused(
        tmp_path / name, "a holds no rows" if name == "a" else name, "give a file with a prompt"
    )


def test_files_without_rows(tmp_path):
    (tmp_path / "a.csv").write_text("prompt,mark\n")
    refused(tmp_path / "a.csv", "a.csv holds no rows")
    (tmp_path / "a.json").write_text("[ ]")
    refused(tmp_path / "a.json", "a.json holds no rows")
    pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), tmp_path / "a.parquet")
    refused(tmp_path / "a.parquet", "a.parquet holds no rows")


def test_binary_junk(tmp_path):
    for name in ("a.jsonl", "a.csv", "a"):
        (tmp_path / name).write_bytes(random.Random(0).randbytes(5000))
        refused(tmp_path / name, name, "neither text nor Parquet nor Arrow; give jsonl, json, csv")
    (tmp_path / "a.xlsx").write_bytes(b"PK\x03\x04\0\0")
    refused(tmp_path / "a.xlsx", "a.xlsx is a zip archive", "save it as CSV")
    (tmp_path / "a.csv").write_bytes("prompt\nhello\n".encode("utf-16"))
    refused(tmp_path / "a.csv", "a.csv is UTF-16 text", "iconv -f UTF-16 -t UTF-8")
    (tmp_path / "a.txt").write_bytes("漢字仮名交じり文".encode("gbk", "ignore") * 20)
    refused(tmp_path / "a.txt", "a.txt is no text in UTF-8", "iconv")


def test_junk_in_the_midst_of_rows(tmp_path):
    junk = random.Random(1).randbytes(100).replace(b"\n", b"")
    found = rows(
        tmp_path, "a.jsonl", b'{"prompt": "x"}\n' * 20 + junk + b"\n" + b'{"prompt": "y"}\n'
    )
    assert list(errors(found)) == [21]
    assert isinstance(found[-1], Row)


def test_invalid_utf8_is_a_bad_row(tmp_path):
    found = rows(tmp_path, "a.jsonl", b'{"prompt": "a"}\n{"prompt": "\xe9t\xe9"}\n{"prompt": "b"}')
    assert errors(found).keys() == {2}
    error = errors(found)[2]
    assert "a.jsonl, line 2 is not UTF-8: byte 0xe9 at position 13; convert the file" in error
    found = rows(tmp_path, "a.csv", b"prompt,mark\na,1\nb,\xe9\nc,3\n")
    assert errors(found)[2].startswith("a.csv, line 3, column 'mark' is not UTF-8; convert")
    assert found[1].fields == {"prompt": "b", "mark": "\ufffd"}
    found = rows(tmp_path, "a.txt", b"a\n\xe9\nb\n")
    assert errors(found)[2].startswith("a.txt, line 2 is not UTF-8")
    found = rows(tmp_path, "a.json", b'[{"prompt": "a"},\n{"prompt": "\xe9"}, {"prompt": "b"}]')
    assert errors(found)[2].startswith("a.json, element 2 (line 2) is not UTF-8")
    (tmp_path / "folder").mkdir()
    rows(tmp_path, "folder/a.txt", b"good")
    (tmp_path / "folder" / "b.txt").write_bytes(b"\xe9")
    found = list(open_source(tmp_path / "folder").rows())
    assert errors(found)[2].startswith("b.txt is not UTF-8")
    texts = pa.array([b"a", b"\xe9", b"c"], pa.binary())
    column = pa.StringArray.from_buffers(3, texts.buffers()[1], texts.buffers()[2])
    pq.write_table(pa.table({"prompt": column}), tmp_path / "a.parquet")
    found = list(open_source(tmp_path / "a.parquet").rows())
    assert errors(found)[2].startswith("a.parquet, row 2, column 'prompt' holds text that is")
    assert [row.number for row in found] == [1, 2, 3]


def test_lines_that_are_no_json(tmp_path):
    data = (
        b'{"prompt": "a"}\n{"prompt": \n"text"\n[1]\n'
        + b"[" * 100_000
        + b'\n{"prompt": "\\ud83d"}\n'
    )
    found = errors(rows(tmp_path, "a.jsonl", data))
    assert found[2].startswith("a.jsonl, line 2 is not valid JSON: Expecting value")
    assert 'line 3 holds a single value; it must be an object such as {"prompt": "..."}' in found[3]
    assert "line 4 holds a list; it must be" in found[4]
    assert "nested too deeply" in found[5]
    assert "half a surrogate pair" in found[6]


def test_arrays_with_faults(tmp_path):
    data = b'[{"prompt": "a"},\n {"prompt": b},\n 7,\n {"prompt": "c"},]'
    found = rows(tmp_path, "a.json", data)
    assert errors(found).keys() == {2, 3}
    assert errors(found)[2].startswith("a.json, element 2 (line 2) is not valid JSON")
    assert "element 3 (line 3) holds a single value" in errors(found)[3]
    found = rows(tmp_path, "cut.json", b'[{"prompt": "a"}, {"prompt": "b')
    assert "element 2 (line 1) is not valid JSON: Unterminated string" in errors(found)[2]
    found = rows(tmp_path, "chats.jsonl", b'[{"role": "user"}]\n[{"role": "user"}]\n')
    assert 'make each an object ({"messages": [...]})' in errors(found)[2]


def test_one_object_over_several_lines(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"prompt": "x"}, indent=2))
    refused(tmp_path / "a.json", "a JSON object that goes over several lines", "jq -c . FILE")


def test_ragged_csv(tmp_path):
    found = rows(tmp_path, "a.csv", b'a,b\n1,2\n3\n"4\n4",5,6\n\n7,8\n')
    assert [row.number for row in found] == [1, 2, 3, 4]
    assert errors(found)[2].startswith(
        "a.csv, line 3 has 1 values and the header has 2 columns (a, b); put values"
    )
    assert errors(found)[3].startswith("a.csv, line 4 has 3 values")
    assert found[1].fields == {"a": "3"}
    assert found[3].fields == {"a": "7", "b": "8"}


def test_csv_quotes_and_headers(tmp_path):
    found = rows(tmp_path, "a.csv", b'a,b\n1,2\n"3" x,4\n5,6\n"7,8\n9,10\n')
    assert "a.csv, line 3" in errors(found)[2]
    assert "inside a quoted value twice" in errors(found)[2]
    assert found[2].fields == {"a": "5", "b": "6"}
    assert errors(found)[4].startswith("a.csv, line 5: the double quote that opens here is not")
    (tmp_path / "b.csv").write_text("a,b,a\n1,2,3\n")
    refused(tmp_path / "b.csv", "b.csv, line 1: two columns are called 'a'; rename")


def test_rows_beyond_all_measure(tmp_path, monkeypatch):
    for module in (base, lines):
        monkeypatch.setattr(module, "LARGEST", 1000)
    long = b"x" * 5000
    data = b'{"prompt": "a"}\n{"prompt": "' + long + b'"}\n{"prompt": "b"}\n'
    found = rows(tmp_path, "a.jsonl", data)
    assert "line 2 is longer than" in errors(found)[2]
    assert len(found[1].fields["line"]) == 200
    assert [row.number for row in found] == [1, 2, 3]
    found = rows(tmp_path, "a.txt", b"a\n" + long + b"\nb\n" + long)
    assert errors(found).keys() == {2, 4}


@pytest.mark.parametrize("how", [".gz", ".zst"])
def test_cut_off_files(tmp_path, how):
    data = random.Random(0).randbytes(40_000).hex().encode()
    whole = b'{"prompt": "' + data + b'"}\n'
    packed = gzip.compress(whole) if how == ".gz" else ZSTD.compress(whole).to_pybytes()
    path = tmp_path / f"a.jsonl{how}"
    path.write_bytes(packed[: len(packed) // 2])
    message = refused(path)
    assert path.name in message
    path.write_bytes(packed[:100] + b"\xff" * 9000 + packed[9100:])
    if how == ".gz":  # pyarrow writes zstd without a checksum
        assert path.name in refused(path)


def test_damaged_parquet_and_arrow(tmp_path):
    table = pa.table({"prompt": ["a"] * 1000})
    pq.write_table(table, tmp_path / "a.parquet")
    data = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(data[:-20])
    refused(tmp_path / "a.parquet", "a.parquet is damaged or cut off", "make or fetch it again")
    with pa.ipc.new_stream(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table)
    data = (tmp_path / "a.arrow").read_bytes()
    (tmp_path / "a.arrow").write_bytes(data[: len(data) // 2])
    refused(tmp_path / "a.arrow", "a.arrow is damaged or cut off")
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["x", "x"])
    pq.write_table(twice, tmp_path / "b.parquet")
    with pytest.raises(JobError, match="two columns are called 'x'"):
        list(open_source(tmp_path / "b.parquet").rows())


def test_outputs_that_would_be_input(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(JobError, match="are the same file; give the output another name"):
        require_apart(tmp_path / "a.txt", tmp_path / "a.txt")
    with pytest.raises(JobError, match=r"lies in the input folder .* put it elsewhere"):
        require_apart(tmp_path, tmp_path / "new" / ".." / "out.txt")
    require_apart(tmp_path / "a.txt", tmp_path / "out.txt")
    require_apart(Path("-"), tmp_path / "a.txt")


def test_unknown_formats(tmp_path):
    refused(tmp_path, "unknown format 'jsnol'; did you mean 'jsonl'?", form="jsnol")


def test_without_pyarrow(tmp_path):
    """Text needs no pyarrow; the other formats name it."""
    (tmp_path / "a.jsonl").write_text('{"prompt": "x"}\n')
    pq.write_table(pa.table({"prompt": ["a"]}), tmp_path / "a.parquet")
    (tmp_path / "a.jsonl.zst").write_bytes(ZSTD.compress(b'{"prompt": "x"}\n').to_pybytes())
    code = """
import sys
sys.modules["pyarrow"] = None
from stoker.job.sources import open_source
try:
    print(len(list(open_source(sys.argv[1]).rows())))
except Exception as problem:
    print(type(problem).__name__, problem)
"""
    said = {}
    for name in ("a.jsonl", "a.parquet", "a.jsonl.zst"):
        command = [sys.executable, "-c", code, str(tmp_path / name)]
        said[name] = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said["a.jsonl"] == "1\n"
    for name in ("a.parquet", "a.jsonl.zst"):
        assert said[name].startswith("JobError")
        assert "pip install pyarrow" in said[name]
