"""Every format gives the same rows, packed or not; fingerprints and counts agree with them."""

import csv
import gzip
import io
import json
import os
import subprocess
import sys
import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.job.rows import Row
from stoker.job.sources import open_source

ROWS = [
    {"prompt": 'Grüße, "du"', "mark": "1"},
    {"prompt": "two\nlines", "mark": "007"},
    {"prompt": "", "mark": "3"},
    {"prompt": "{{ x }} 漢字 \u2028", "mark": ""},
]


def fields(source):
    rows = list(source.rows())
    assert all(isinstance(row, Row) for row in rows), rows
    assert [row.number for row in rows] == list(range(1, len(rows) + 1))
    assert source.count() == len(rows)
    assert source.fingerprint() == source.fingerprint()
    return [row.fields for row in rows]


def write_jsonl(path):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS), "utf-8")


def write_json(path):
    path.write_text(json.dumps(ROWS, indent=2), "utf-8")


def write_csv(path, delimiter=","):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["prompt", "mark"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(ROWS)


def write_parquet(path):
    pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=3)


def write_arrow(path, new=pa.ipc.new_stream):
    table = pa.Table.from_pylist(ROWS)
    with new(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=3)


WRITERS = {
    "a.jsonl": write_jsonl,
    "a.json": write_json,
    "a.csv": write_csv,
    "semicolons.csv": lambda path: write_csv(path, ";"),
    "a.tsv": lambda path: write_csv(path, "\t"),
    "a.parquet": write_parquet,
    "stream.arrow": write_arrow,
    "file.arrow": lambda path: write_arrow(path, pa.ipc.new_file),
    "no-extension": write_jsonl,
    "array-without-extension": write_json,
    "wrong.csv": write_parquet,
}


def pack(data, how):
    return {
        "": lambda: data,
        ".gz": lambda: gzip.compress(data),
        ".zst": lambda: pa.Codec("zstd").compress(data).to_pybytes(),
    }[how]()


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
@pytest.mark.parametrize("name", WRITERS)
def test_all_formats_hold_the_same(tmp_path, name, packing):
    WRITERS[name](tmp_path / name)
    path = tmp_path / (name + packing)
    path.write_bytes(pack((tmp_path / name).read_bytes(), packing))
    assert fields(open_source(path)) == ROWS


def test_packed_in_several_pieces(tmp_path):
    lines = [json.dumps({"prompt": str(number)}).encode() + b"\n" for number in range(2000)]
    for how in (".gz", ".zst"):
        path = tmp_path / f"a.jsonl{how}"
        path.write_bytes(
            b"".join(pack(b"".join(lines[at : at + 500]), how) for at in (0, 500, 1000, 1500))
        )
        assert [row["prompt"] for row in fields(open_source(path))] == list(map(str, range(2000)))


def test_plain_text_and_folders_of_it(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\n\n{two}\n  three")
    rows = list(open_source(path).rows())
    assert [(row.number, row.fields["text"], row.text) for row in rows] == [
        (1, "one", "text"),
        (3, "{two}", "text"),
        (4, "  three", "text"),
    ]
    folder = tmp_path / "folder"
    (folder / "b").mkdir(parents=True)
    (folder / "b" / "one.md").write_text("first\nlines\n")
    (folder / "z.txt.gz").write_bytes(gzip.compress(b"packed"))
    (folder / "a.bin").write_bytes(b"\0")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "a.txt").write_text("no")
    source = open_source(folder)
    assert fields(source) == [
        {"file": "b/one.md", "text": "first\nlines\n"},
        {"file": "z.txt.gz", "text": "packed"},
    ]
    before = source.fingerprint()
    (folder / "z.txt.gz").rename(folder / "y.txt.gz")
    assert open_source(folder).fingerprint() != before


def test_folders_of_datasets(tmp_path):
    folder = tmp_path / "saved"
    folder.mkdir()
    names = [f"data-{at:05}-of-00002.arrow" for at in range(2)]
    for name in names:
        write_arrow(folder / name)
    listed = [{"filename": name} for name in names]
    (folder / "state.json").write_text(json.dumps({"_data_files": listed}))
    (folder / "dataset_info.json").write_text("{}")
    assert fields(open_source(folder)) == ROWS * 2
    parquet = tmp_path / "parquet"
    parquet.mkdir()
    write_parquet(parquet / "train-00000.parquet")
    write_parquet(parquet / "train-00001.parquet")
    assert fields(open_source(parquet)) == ROWS * 2


def test_numbers_that_are_none(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"prompt": "x", "a": NaN, "b": [-Infinity, 1e3]}')
    assert fields(open_source(tmp_path / "a.jsonl"))[0]["b"] == [None, 1000]


def test_nested_columns(tmp_path):
    rows = [{"messages": [{"role": "user", "content": "hello"}], "at": None}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert fields(open_source(tmp_path / "a.parquet")) == rows


def test_fingerprints_are_of_the_content(tmp_path):
    one, two = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    write_jsonl(one)
    write_jsonl(two)
    assert open_source(one).fingerprint() == open_source(two).fingerprint()
    two.write_text(two.read_text() + '{"prompt": "more"}\n')
    assert open_source(one).fingerprint() != open_source(two).fingerprint()


CODE = """
import json
from stoker.job.sources import open_source
for _ in range(2):
    source = open_source("-", {form!r})
    print(source.name, source.count(), source.fingerprint())
    print(json.dumps([row.fields for row in source.rows()]))
"""


@pytest.mark.parametrize(
    ("name", "form"), [("a.jsonl", "auto"), ("a.parquet", "auto"), ("a.csv", "csv")]
)
def test_standard_input(tmp_path, name, form):
    WRITERS[name](tmp_path / name)
    with (tmp_path / name).open("rb") as file:
        code = CODE.format(form=form)
        done = subprocess.run(
            [sys.executable, "-c", code], stdin=file, capture_output=True, text=True, check=True
        )
    first, rows, again, rows_again = done.stdout.splitlines()
    assert first == again
    assert first == f"standard input 4 {open_source(tmp_path / name).fingerprint()}"
    assert json.loads(rows) == json.loads(rows_again) == ROWS


def test_pipes_can_be_named(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=write_jsonl, args=(pipe,))
    writer.start()
    assert fields(open_source(pipe)) == ROWS
    writer.join()
    assert fields(open_source(pipe)) == ROWS


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@given(
    st.lists(st.dictionaries(TEXT, VALUE, max_size=3), max_size=6),
    st.sampled_from([None, 1]),
    st.booleans(),
    st.integers(1, 9),
)
@settings(max_examples=300, deadline=None)
def test_arrays_are_cut_right_wherever_the_chunks_end(rows, indent, escaped, chunk):
    from stoker.job.sources import array

    data = json.dumps(rows, indent=indent, ensure_ascii=escaped).encode()

    class Bytes(io.BytesIO):
        def read(self, size=-1):
            return super().read(min(size, chunk))

    found = [json.loads(element) for _, element in array._elements(Bytes(data))]
    assert found == rows


VALUES = st.text(
    st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from("\r\n\t"), max_size=8
)


@given(st.lists(st.lists(VALUES, min_size=2, max_size=2), min_size=1, max_size=6))
@settings(max_examples=200, deadline=None)
def test_csv_gives_back_what_was_written(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([["a", "b"], *rows])
    assert fields(open_source(path)) == [dict(zip("ab", row, strict=True)) for row in rows]


def test_memory_does_not_grow_with_the_file(tmp_path):
    """Formats of 60 MB each, and standard input, are read within 40 MB, in a process of its own."""
    line = json.dumps({"prompt": "x" * 1000}) + "\n"
    (tmp_path / "a.jsonl").write_text(line * 60_000)
    (tmp_path / "a.json").write_text("[" + ",\n".join([line] * 60_000) + "]")
    (tmp_path / "a.csv").write_text("prompt\n" + ("x" * 1000 + "\n") * 60_000)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress((line * 60_000).encode(), 1))
    code = """
import resource, sys
from stoker.job.sources import open_source
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
source = open_source(sys.argv[1])
assert sum(1 for _ in source.rows()) == source.count() == 60_000
source.fingerprint()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    for name in ("a.jsonl", "a.json", "a.csv", "a.jsonl.gz", "-"):
        path = "-" if name == "-" else tmp_path / name
        command = [sys.executable, "-c", code, str(path)]
        with (tmp_path / "a.jsonl").open("rb") as stdin:
            done = subprocess.run(command, stdin=stdin, capture_output=True, check=True)
        assert int(done.stdout) < 40_000, name


def test_parquet_in_many_groups_stays_small(tmp_path):
    schema = pa.schema([("prompt", pa.string())])
    with pq.ParquetWriter(
        tmp_path / "a.parquet", schema, compression="none", use_dictionary=False
    ) as writer:
        for group in range(30):
            texts = [f"{group} {at} " + "x" * 1000 for at in range(2000)]
            writer.write_table(pa.table({"prompt": texts}, schema))
    pool = pa.default_memory_pool()
    before, most = pool.bytes_allocated(), 0
    for row in open_source(tmp_path / "a.parquet").rows():
        if row.number % 500 == 0:
            most = max(most, pool.bytes_allocated() - before)
    assert row.number == 60_000
    assert most < 20 << 20
