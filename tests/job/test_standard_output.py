"""`-o -`: rows on standard output and nothing else there, everything said on standard error."""

import json
import os
import subprocess
import sys

import pytest

from stoker.cli.main import main

ROWS = [json.dumps({"prompt": f"hello {number}", "n": number}) for number in range(40)]
ROWS[7] = "{bad"


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(ROWS) + "\n")
    return path


@pytest.fixture
def stoker(source, text_model, capfdbinary):
    """Runs the job in this process; gives exit code, standard output and standard error."""

    def run(*options):
        args = ["run", source, "-m", text_model, "--threads", 1, "--max-tokens", 6, *options]
        code = main([str(one) for one in args])
        return code, *(text.decode() for text in capfdbinary.readouterr())

    return run


def process(source, text_model, *options, **pipes):
    command = [sys.executable, "-m", "stoker.cli.main", "run", str(source), "-o", "-"]
    command += ["-m", text_model, "--threads", "1", "--max-tokens", "6", "--no-dedup", *options]
    return subprocess.Popen(command, **pipes)


def test_rows_go_to_standard_output(stoker, source):
    out = source.with_name("out.jsonl")
    assert stoker("-o", out, "--ordered", "-q")[0] == 3
    files = sorted(os.listdir(source.parent))
    for options in ([], ["--ordered"]):
        code, rows, said = stoker("-o", "-", *options)
        assert code == 3
        same = (lambda text: text) if options else (lambda text: sorted(text.splitlines()))
        assert same(rows) == same(out.read_text())
        assert "rows      40 of 40" in said
        assert "report" not in said
    assert sorted(os.listdir(source.parent)) == files


def test_from_a_pipe_to_a_pipe(stoker, source, text_model, tmp_path):
    _, wanted, _ = stoker("-o", "-", "--ordered", "-q")
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    job = process("-", text_model, "--ordered", "--json-progress", cwd=tmp_path, **pipes)
    rows, said = job.communicate("\n".join(ROWS).encode())
    assert job.returncode == 3
    assert rows.decode().replace("standard input", "in.jsonl") == wanted
    events = [json.loads(line) for line in said.splitlines()]
    assert events[-1]["event"] == "end"
    assert (events[-1]["output"], events[-1]["report"]) == ("-", None)


def test_a_reader_that_leaves(source, text_model):
    """As `| head -1` does: the job ends, without a traceback."""
    pipes = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
    source.write_text("\n".join(ROWS * 20))
    job = process(source, text_model, "-q", **pipes)
    assert json.loads(job.stdout.readline())["result"]["row"] > 0
    job.stdout.close()
    assert job.stderr.read() == b""
    assert job.wait() == 1


def test_no_room_where_it_goes(source, text_model):
    with open("/dev/full", "wb") as full:
        job = process(source, text_model, "-q", stdout=full, stderr=subprocess.PIPE)
        said = job.stderr.read().decode()
    assert job.wait() == 1
    assert said == "stoker: cannot write to standard output: No space left on device\n"


def test_what_has_no_place_there(stoker):
    code, rows, said = stoker("-o", "-", "--retry", "failed")
    assert (code, rows) == (1, "")
    assert "nothing is kept of standard output, so no row" in said


def test_a_strict_job_leaves_what_it_has(stoker, source):
    source.write_text("\n".join([*ROWS[:7], *ROWS[8:], "{bad"] * 10))
    code, rows, said = stoker("-o", "-", "--strict", "-q")
    assert code == 1
    assert "row 40 is bad_row" in said
    for line in rows.splitlines():
        assert json.loads(line)["result"]["status"] == "length"
