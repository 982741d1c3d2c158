"""An output is what its name says, also when its job was broken off and continued."""

import argparse
import csv
import dataclasses
import gzip
import io
import json
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker import SamplingParams
from stoker.cli.job_screen import summed_up
from stoker.cli.main import main
from stoker.errors import JobError
from stoker.job.csv_output import write_csv
from stoker.job.job import JobSettings, prepare_job, run_job
from stoker.job.output_format import OutputFormat, output_format
from stoker.job.parquet_output import write_parquet
from stoker.job.report import Report
from stoker.report.outputs import RowFinder, read_output

PARAMS = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
NAMES = [
    "out.csv",
    "out.tsv",
    "out.jsonl.gz",
    "out.gz",
    "out.csv.gz",
    "out.jsonl.zst",
    "out.parquet",
]


@pytest.fixture
def job(tmp_path, text_model):
    """Settings of a job over twelve rows, one of them bad."""
    rows = [
        json.dumps({"prompt": f'hello, "{number}"\nthere', "n": number, "more": {"k": [1.5, None]}})
        for number in range(12)
    ]
    rows[3] = "{bad"
    (tmp_path / "in.jsonl").write_text("\n".join(rows) + "\n")
    return JobSettings(
        tmp_path / "in.jsonl", tmp_path / "out.jsonl", PARAMS, raw=True, model=text_model
    )


def run(llm, job):
    report = prepare_job(job)
    if not report.complete:
        run_job(llm, job, report, lambda report: None)
    return report


def unpacked(path):
    data = path.read_bytes()
    if path.suffix == ".gz":
        return gzip.decompress(data)
    if path.suffix == ".zst":
        return pa.input_stream(io.BytesIO(data), compression="zstd").read()
    return data


def test_names():
    named = {
        "a.jsonl": OutputFormat("jsonl"),
        "a": OutputFormat("jsonl"),
        "a.json": OutputFormat("jsonl"),
        "a.b.CSV": OutputFormat("csv"),
        "a.tsv.gz": OutputFormat("tsv", "gzip"),
        "a.gz": OutputFormat("jsonl", "gzip"),
        "a.jsonl.zstd": OutputFormat("jsonl", "zstd"),
        "a.parquet": OutputFormat("parquet"),
        "-": OutputFormat("jsonl"),
    }
    for name, wanted in named.items():
        assert output_format(Path(name)) == wanted, name
    assert [one.made for one in named.values()] == [False] * 3 + [True] * 5 + [False]


@pytest.mark.parametrize("name", ["a.xlsx", "a.zip", "a.jsonl.bz2", "a.tar.gz", "a.parquet.gz"])
def test_names_of_what_is_not_written_are_refused(job, name):
    """Before the model is loaded: there is none."""
    with pytest.raises(JobError, match=r"name (the output|it) \."):
        prepare_job(dataclasses.replace(job, output=job.output.with_name(name)))


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_a_broken_job_gives_what_an_unbroken_one_does(llm, job, name, ordered):
    job = dataclasses.replace(job, output=job.output.with_name(name), ordered=ordered)
    run(llm, job)
    whole = job.output.read_bytes()
    rows = sorted(unpacked(job.output).splitlines())
    journal = Path(f"{job.output}.stoker") / "rows.jsonl"
    state = json.loads((journal.parent / "job.json").read_text())
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:5]) + b'{"torn')
    (journal.parent / "job.json").write_text(json.dumps({**state, "finished": False}))
    job.output.unlink()
    report = run(llm, job)
    assert report.resumed_rows == 5
    if ordered:
        assert job.output.read_bytes() == whole
    elif "parquet" not in name:
        assert sorted(unpacked(job.output).splitlines()) == rows
    assert run(llm, job).complete


def test_what_the_files_hold(llm, job):
    job = dataclasses.replace(job, ordered=True)
    run(llm, job)
    wanted = job.output.read_bytes()
    rows = [json.loads(line) for line in wanted.splitlines()]
    for name in ("out.jsonl.gz", "out.gz", "out.jsonl.zst"):
        other = dataclasses.replace(job, output=job.output.with_name(name))
        run(llm, other)
        assert unpacked(other.output) == wanted
    for name, delimiter in (("out.csv", ","), ("out.tsv", "\t"), ("out.csv.gz", ",")):
        other = dataclasses.replace(job, output=job.output.with_name(name))
        run(llm, other)
        text = unpacked(other.output).decode()
        found = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter))
        assert list(found[0])[:5] == ["prompt", "n", "more", "line", "result.row"]
        for got, row in zip(found, rows, strict=True):
            result = row.pop("result")
            flat = row | {f"result.{name}": value for name, value in result.items()}
            for column, value in got.items():
                told = flat.get(column, "")
                assert value == (told if isinstance(told, str) else json.dumps(told))
            row["result"] = result
    other = dataclasses.replace(job, output=job.output.with_name("out.parquet"))
    run(llm, other)
    assert pq.read_table(other.output)["prompt"].to_pylist() == [row.get("prompt") for row in rows]


def test_rows_are_retried(llm, job):
    job = dataclasses.replace(job, output=job.output.with_name("out.csv"))
    run(llm, job)
    before = sorted(job.output.read_bytes().splitlines())
    report = run(llm, dataclasses.replace(job, retry=("bad_row",)))
    assert report.resumed_rows == 11
    assert sorted(job.output.read_bytes().splitlines()) == before


@pytest.mark.parametrize("name", ["out.csv", "out.jsonl.gz"])
@pytest.mark.parametrize("complete", [True, False])
def test_a_job_of_the_first_version_goes_on(llm, job, name, complete):
    """It wrote JSON Lines whatever the name was."""
    job = dataclasses.replace(job, output=job.output.with_name(name), ordered=False)
    run(llm, job)
    whole = sorted(unpacked(job.output).splitlines())
    folder = Path(f"{job.output}.stoker")
    lines = (folder / "rows.jsonl").read_bytes().splitlines(keepends=True)
    job.output.write_bytes(b"".join(lines if complete else lines[:5]))
    (folder / "rows.jsonl").unlink()
    assert sum(1 for _ in read_output(job.output)) == (12 if complete else 5)
    report = run(llm, job)
    assert report.resumed_rows == (12 if complete else 5)
    assert sorted(unpacked(job.output).splitlines()) == whole


def test_columns_that_results_would_have(llm, job):
    job.input.write_text('{"prompt": "x"}\n{"prompt": "x", "result.text": "mine"}\n')
    job = dataclasses.replace(job, output=job.output.with_name("out.csv"), ordered=True)
    run(llm, job)
    found = list(csv.DictReader(io.StringIO(job.output.read_text(), newline="")))
    assert [row["result.status"] for row in found] == ["length", "bad_row"]
    assert "column 'result.text' already, where results go" in found[1]["result.error"]


@pytest.mark.parametrize("name", NAMES)
def test_they_are_read_again(llm, job, name, capsys):
    """By `stoker inspect`, and compared with each other."""
    run(llm, job)
    other = dataclasses.replace(job, output=job.output.with_name(name))
    run(llm, other)
    assert main(["inspect", str(other.output), str(job.output)]) == 0
    assert "agreement 100.0% (12 of 12 rows the same)" in capsys.readouterr().out
    with RowFinder(other.output) as rows:
        assert rows[5].fields["prompt"] == 'hello, "4"\nthere'


def test_csv_without_its_journal_is_not_read_again(llm, job, capsys):
    job = dataclasses.replace(job, output=job.output.with_name("out.csv"))
    run(llm, job)
    Path(f"{job.output}.stoker", "rows.jsonl").unlink()
    assert main(["inspect", str(job.output)]) == 1
    assert "out.csv is CSV, where numbers and texts look alike" in capsys.readouterr().err


def test_parquet_holds_what_json_lines_do(tmp_path):
    """Names that UTF-8 cannot hold, and values that come too late for their column's type."""
    first = {"a": 2**60 + 1, "\ud800": 1, "c": {"x": 1}, "result": {"row": 1}}
    last = {"a": 0.5, "d": 10**400, "c": {"y": []}, "result": {"row": 2}}
    lines = [json.dumps(row).encode() for row in [first] * 4096 + [last]]
    write_parquet(lambda: lines, tmp_path / "a.parquet")
    table = pq.read_table(tmp_path / "a.parquet")
    assert table.column_names == ["a", "\\ud800", "c", "result", "d"]
    before, after = table.slice(4095).to_pylist()
    assert (before["a"], before["\\ud800"]) == (str(2**60 + 1), 1)
    assert (before["c"], before["d"]) == ({"x": 1, "y": None}, None)
    assert (after["a"], after["\\ud800"]) == ("0.5", None)
    assert (after["c"], after["d"]) == ({"x": None, "y": []}, str(10**400))


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
VALUE = st.none() | st.integers() | TEXT | st.lists(TEXT, max_size=2)
RESULT = st.fixed_dictionaries({"row": st.integers(1, 9)}, optional={"text": TEXT, "x": VALUE})


@given(
    st.lists(st.tuples(st.dictionaries(TEXT, VALUE, max_size=3), RESULT), min_size=1, max_size=4)
)
@settings(max_examples=200, deadline=None)
def test_csv_holds_any_text(rows):
    lines = [json.dumps({**own, "the result": result}).encode() for own, result in rows]
    file = io.BytesIO()
    write_csv(lambda: lines, file, "the result", ",")
    found = list(csv.reader(io.StringIO(file.getvalue().decode(), newline=""), strict=True))
    header, *records = found
    assert len(records) == len(rows)
    for record, (own, result) in zip(records, rows, strict=True):
        flat = own | {f"the result.{name}": value for name, value in result.items()}
        for name, cell in zip(header, record, strict=True):
            value = flat.get(name)
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            assert cell == ("" if value is None else text)


def test_killed_in_the_middle(tmp_path, text_model):
    """A process that is killed leaves a journal, and no output; the same command finishes it."""
    source = tmp_path / "in.jsonl"
    source.write_text("".join(f'{{"prompt": "hello {n}"}}\n' for n in range(400)))
    outputs = []
    for name in ("whole", "broken"):
        out = tmp_path / name / "out.csv.gz"
        out.parent.mkdir()
        outputs.append(out)
        options = ["-m", text_model, "--threads", "1", "--max-tokens", "20", "-q", "--no-report"]
        command = [sys.executable, "-m", "stoker.cli.main", "run", source, "-o", out, "--ordered"]
        command = [*map(str, command), *options]
        if name == "broken":
            process = subprocess.Popen(command)
            journal = Path(f"{out}.stoker") / "rows.jsonl"
            while not (journal.exists() and journal.stat().st_size > 1000):
                assert process.poll() is None
            process.kill()
            assert process.wait() == -signal.SIGKILL
            assert not out.exists()
            assert 0 < journal.read_bytes().count(b"\n") < 400
        subprocess.run(command, check=True)
    whole, broken = (out.read_bytes() for out in outputs)
    assert whole == broken
    assert gzip.decompress(whole).count(b"\r\n") == 401


def test_a_run_cut_short_says_that_its_output_is_still_to_be_made(tmp_path, capsys):
    args = argparse.Namespace(json_progress=False, quiet=False)
    for name, there in (("out.csv", False), ("out.csv", True), ("out.jsonl", False)):
        wanted = JobSettings(tmp_path / "in.jsonl", tmp_path / name, PARAMS)
        if there:
            wanted.output.touch()
        summed_up(args, wanted, Report(10))
        said = "when all rows are done" in capsys.readouterr().out
        assert said == (name == "out.csv" and not there)
