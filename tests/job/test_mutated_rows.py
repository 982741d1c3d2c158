"""Damaged rows of any format: one outcome each, nothing worse than a clear error.

The short forms are seconds long. The long ones take a hundred thousand rows in all.
"""

import io
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from mutations import (
    damaged,
    lines_of_json,
    table_of_columns,
    table_of_text,
    write_columns,
)

from stoker import LLM, SamplingParams
from stoker.errors import InvalidRequestError, JobError
from stoker.job.batch_format import output_row
from stoker.job.csv_output import write_csv
from stoker.job.job import JobSettings, prepare_job, run_job
from stoker.job.journal import encoded, entries
from stoker.job.parquet_output import write_parquet
from stoker.job.prompts import PromptBuilder, PromptSettings
from stoker.job.rows import BadRow, Row
from stoker.job.sources import open_source

TEMPLATE = "{{ prompt }}{{ n * 2 }}{{ more.a }}{{ row | tojson }}"
DONE = {"status": "done", "text": "x", "finish_reason": "stop", "output_tokens": 1}

short_and_long = pytest.mark.parametrize(
    "size", [pytest.param(1, id="short"), pytest.param(30, id="long", marks=pytest.mark.slow)]
)


def refuse(constant):
    raise AssertionError(f"{constant} is no JSON")


def outcome(row, builders):
    """The line that a job would write for a row, if the model answered what can be asked."""
    if isinstance(row, BadRow):
        return encoded(output_row(row, failed(row, row.error), "result", False))
    asked = []
    for builder in builders:
        try:
            asked.append(builder.ask(row))
        except InvalidRequestError as problem:
            asked.append(problem)
    if isinstance(asked[0], InvalidRequestError):
        return encoded(output_row(row, failed(row, str(asked[0])), "result", False))
    result = {"row": row.number, "prompt_tokens": 1, **DONE}
    return encoded(output_row(row, result, "result", False))


def failed(row, error):
    assert error
    return {"row": row.number, "status": "bad_row", "error": error}


def check_outputs(tmp_path, lines):
    """The lines are read again, and made into the other formats."""
    journal = tmp_path / "rows.jsonl"
    journal.write_bytes(b"".join(lines))
    assert sum(1 for _ in entries(journal, "result")) == len(lines)
    for line in lines:
        json.loads(line, parse_constant=refuse)
    write_csv(lambda: lines, io.BytesIO(), "result", ",")
    write_parquet(lambda: lines, tmp_path / "out.parquet")
    rows = open_source(tmp_path / "out.parquet").rows()
    assert sum(isinstance(row, Row) for row in rows) == len(lines)


@short_and_long
def test_json_lines_and_requests(tmp_path, size):
    """With blank lines of any kind left out, there is a row for each line."""
    settings = [PromptSettings(), PromptSettings(), PromptSettings(TEMPLATE)]
    builders = [
        PromptBuilder(one, SamplingParams(), chat)
        for one, chat in zip(settings, (True, False, True), strict=True)
    ]
    for seed in range(size):
        data = b"\n".join(lines_of_json(random.Random(seed), 1000))
        (tmp_path / "a.jsonl").write_bytes(data)
        source = open_source(tmp_path / "a.jsonl", "jsonl")
        rows = list(source.rows())
        filled = [at for at, line in enumerate(data.split(b"\n"), 1) if line.strip()]
        assert [row.number for row in rows] == filled
        assert source.count() == len(rows)
        check_outputs(tmp_path, [outcome(row, builders) for row in rows])


@short_and_long
def test_arrays_of_json(tmp_path, size):
    for seed in range(size * 3):
        rng = random.Random(seed)
        good = [json.dumps({"prompt": f"hello {at}"}).encode() for at in range(200)]
        lines = [damaged(rng, line) if rng.random() < 0.02 else line for line in good]
        (tmp_path / "a.json").write_bytes(b"[" + b",\n".join(lines) + b"]")
        source = open_source(tmp_path / "a.json", "json")
        rows = list(source.rows())
        assert [row.number for row in rows] == list(range(1, len(rows) + 1))
        assert source.count() == len(rows)
        for row in rows:
            json.loads(encoded(row.fields), parse_constant=refuse)


@short_and_long
def test_tables_of_text(tmp_path, size):
    for seed in range(size * 20):
        rng = random.Random(seed)
        data, delimiter = table_of_text(rng, 50)
        (tmp_path / "a.csv").write_bytes(data)
        form = rng.choice(["csv", "csv", "auto", "tsv", "json", "text", "jsonl"])
        told = rng.choice([None, delimiter]) if form in ("csv", "tsv", "auto") else None
        try:
            source = open_source(tmp_path / "a.csv", form, told)
            rows = list(source.rows())
        except JobError:  # of the whole file, such as a header with a quote that is not closed
            continue
        numbers = [row.number for row in rows]
        assert numbers == sorted({*numbers})
        assert source.count() == len(rows)
        for row in rows:
            json.loads(encoded(row.fields), parse_constant=refuse)


READ = """
import json, random, sys
from pathlib import Path
from mutations import table_of_columns, with_wrong_bits, write_columns
from stoker.errors import JobError
from stoker.job.journal import encoded
from stoker.job.sources import open_source

folder, first, last = Path(sys.argv[1]), *map(int, sys.argv[2:])
read = refused = 0
for seed in range(first, last):
    rng = random.Random(seed)
    path = folder / f"{seed}{rng.choice(['.parquet', '.parquet', '.arrow', '.feather'])}"
    write_columns(rng, table_of_columns(rng, 100), path)
    path.write_bytes(with_wrong_bits(rng, path.read_bytes()))
    print(path.name, file=sys.stderr)
    try:
        for row in open_source(path).rows():
            json.loads(encoded(row.fields))
            read += 1
    except JobError as problem:
        assert path.name in str(problem)
        refused += 1
    path.unlink()
print(read, refused)
"""


@short_and_long
def test_tables_of_columns(tmp_path, size):
    """In a process of its own, which a damaged file could end. Undamaged files are read whole."""
    rng = random.Random(0)
    for name in ("a.parquet", "a.arrow", "a.feather"):
        write_columns(rng, table_of_columns(rng, 100), tmp_path / name)
        assert all(isinstance(row, Row) for row in open_source(tmp_path / name).rows())
    files = size * 40
    command = [sys.executable, "-c", READ, tmp_path, "0", str(files)]
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, cwd=Path(__file__).parent, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    read, refused = map(int, done.stdout.split())
    assert refused > files // 4
    assert read > files


@pytest.fixture(scope="module")
def llm(text_model):
    with LLM(text_model, max_context=96, max_running=16) as one:
        yield one


@short_and_long
@pytest.mark.parametrize("name", ["out.jsonl", "out.csv.gz", "out.parquet"])
def test_jobs(llm, tmp_path, size, name):
    """Through the model: each line has one result, whatever is asked for."""
    data = b"\n".join(lines_of_json(random.Random(size), 200 * size))
    (tmp_path / "in.jsonl").write_bytes(data)
    params = SamplingParams(temperature=0, max_tokens=2)
    job = JobSettings(tmp_path / "in.jsonl", tmp_path / name, params, format="jsonl")
    report = prepare_job(job)
    run_job(llm, job, report, lambda report: None)
    lines = sum(1 for line in data.split(b"\n") if line.strip())
    assert report.rows == lines
    assert report.statuses["failed"] == 0
    assert min(report.statuses[status] for status in ("bad_row", "length")) > lines // 20
    assert job.output.exists()
