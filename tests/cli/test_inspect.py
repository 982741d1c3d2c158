"""`stoker inspect`: earlier runs read again from their files, and two side by side."""

import json
import os
import subprocess
import sys

import pytest

from stoker.cli.main import main
from stoker.engine.request.params import SamplingParams
from stoker.errors import JobError
from stoker.job.made_output import make_output
from stoker.job.settings import JobSettings
from stoker.report.compare import same_value
from stoker.report.files import figures_path, page_path, read_figures
from stoker.report.outputs import RowFinder, read_output


def row(number, text="x", status="done", **fields):
    result = {"row": number, "status": status, "text": text}
    counts = {"prompt_tokens": 3, "cached_tokens": 0, "output_tokens": 2}
    return {"prompt": f"p{number}", **fields, "result": {**result, **counts}}


def write(path, rows, form="jsonl"):
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in rows))
    if form == "parquet":
        parquet = path.with_suffix(".parquet")
        make_output(path, JobSettings(path, parquet, SamplingParams()))
        return parquet
    return path


FORMS = pytest.mark.parametrize("form", ["jsonl", "parquet"])
PAIRS = pytest.mark.parametrize(
    "forms", [("jsonl", "jsonl"), ("parquet", "jsonl"), ("jsonl", "parquet"), ("parquet",) * 2]
)


def run(capsys, *args):
    code = main(["inspect", *map(str, args)])
    out = capsys.readouterr()
    assert code == 0, out.err
    return out.out


@FORMS
def test_summary_of_a_run(text_model, tmp_path, capsys, form):
    source, out = tmp_path / "in.jsonl", tmp_path / f"out.{form}"
    lines = [json.dumps({"prompt": "hello", "want": "no", "kind": k}) for k in ("a", "b")]
    source.write_text("\n".join([*lines, "{"]) + "\n")
    command = [
        "run",
        source,
        "-o",
        out,
        "-m",
        text_model,
        "--max-tokens",
        3,
        "--seed",
        5,
        "--timings",
        "--no-dedup",
    ]
    command += ["--expect", "want", "--expect-mode", "normalized", "--group", "kind"]
    assert main([str(one) for one in command]) == 3
    printed = capsys.readouterr().out
    figures = read_figures(out)
    assert figures["rows"] == {
        "total": 3,
        "written": 3,
        "statuses": {"bad_row": 1, "length": 2},
    }
    assert figures["settings"]["max_tokens"] == 3
    assert figures["settings"]["expect"] == "want normalized kind"
    assert sum(figures["series"]["decode_tokens"]) + 2 == 6  # the first ones come with the prompt
    assert sum(figures["series"]["rows"]) == 3
    # the same summary from the files alone
    assert run(capsys, out) == printed
    assert "accuracy  0.0% (0 of 2 as expected)" in printed
    # and the same page, but for what is of the moment
    page = page_path(out).read_text()
    page_path(out).unlink()
    assert "none; --html writes one" in run(capsys, out)
    assert str(page_path(out)) in run(capsys, out, "--html")
    assert page_path(out).read_text() == page
    assert read_figures(out) == figures


def test_a_run_without_its_figures(tmp_path, capsys):
    out = write(tmp_path / "out.jsonl", [row(2, want="x"), row(1, "y", "length", want="x")])
    printed = run(capsys, out, "--expect", "want", "--html")
    assert "rows      2 of 2 (1 done, 1 length)" in printed
    assert "speed" not in printed
    assert "accuracy  50.0%" in printed
    assert json.loads(figures_path(out).read_text())["begun"].endswith("Z")


@FORMS
def test_rows_by_status(tmp_path, capsys, form):
    rows = [row(1), row(2, "a\n\x1b[2Jb" + "c" * 500, "length"), row(3, status="failed")]
    rows[2]["result"]["error"] = "it broke"
    out = write(tmp_path / "out.jsonl", rows, form)
    printed = run(capsys, out, "--rows", "length,failed")
    assert printed.count("row ") == 2
    assert "  answer  a [2Jbccc" in printed
    assert "\x1b" not in printed
    assert "  error   it broke" in printed
    assert max(map(len, printed.splitlines())) < 180
    assert run(capsys, out, "--rows").count("row ") == 3
    assert run(capsys, out, "--rows", "--limit", 1).count("row ") == 1
    assert main(["inspect", str(out), "--rows", "done,lenght"]) == 1
    assert "'lenght' is no status; did you mean 'length'?" in capsys.readouterr().err


@pytest.mark.parametrize("replicas", [1, 2])
def test_prompts_are_shown_as_they_were_made(text_model, tmp_path, capsys, replicas):
    """While it runs and read again: with the figures beside the output, which name the template."""
    if replicas > len(os.sched_getaffinity(0)):
        pytest.skip("there is one core")
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"word": "hello"}\n{"wort": "x"}\n{"word": "hello again"}\n')
    command = ["run", source, "-o", out, "-m", text_model, "--max-tokens", 3]
    command += ["--prompt", "Say: {{ word | upper }}", "--replicas", replicas]
    assert main([str(one) for one in command]) == 3
    prompts = ["Say: HELLO", '{"wort": "x"}', "Say: HELLO AGAIN"]
    assert [entry["prompt"] for entry in read_figures(out)["sample"]] == prompts
    run(capsys, out, "--html")
    assert [entry["prompt"] for entry in read_figures(out)["sample"]] == prompts
    assert "  prompt  Say: HELLO\n" in run(capsys, out, "--rows")
    other = tmp_path / "other.jsonl"
    other.write_text(out.read_text().replace("length", "done"))
    assert "  prompt  Say: HELLO AGAIN\n" in run(capsys, out, other)
    figures_path(out).unlink()
    assert '  prompt  {"word": "hello"}\n' in run(capsys, out, "--rows")


@PAIRS
def test_two_runs_side_by_side(tmp_path, capsys, forms):
    rows = [row(1, want="x", deep={"a": 1, "b": None}), row(2, mixed=[7]), row(3)]
    a = write(tmp_path / "a.jsonl", [*rows, row(5, want="x", mixed="7")], forms[0])
    b = [row(5, "z", want="x", mixed="7"), row(3, status="length")]
    b += [row(1, want="x", deep={"a": 1, "b": None}), row(4), row(2, extra=1, mixed=[7])]
    b = write(tmp_path / "b.jsonl", b, forms[1])
    printed = run(capsys, a, b, "--expect", "want")
    assert "row 3  done -> length" in printed
    assert "row 5  done\n  prompt  p5\n  A       x\n  B       z\n" in printed
    assert "agreement 50.0% (2 of 4 rows the same)" in printed
    assert "only in B 1 rows" in printed
    assert "only in A" not in printed
    assert "inputs    differ in 1 rows" in printed
    assert "status    done -> length: 1" in printed
    assert "run A\n  accuracy  100.0%" in printed
    assert "run B\n  accuracy  50.0%" in printed
    assert "(1 more rows changed; --limit prints more)" in run(capsys, a, b, "--limit", 1)
    assert "agreement 100.0% (4 of 4" in run(capsys, a, a)


@PAIRS
def test_two_runs_of_a_batch_file(tmp_path, capsys, forms):
    """Their answers are compared, and a response that differs is no other input."""

    def line(number, text):
        said = {"message": {"content": text}} if number == 1 else {"text": text}
        response = {"body": {"choices": [said]}}
        result = {"row": number, "status": "done", "output_tokens": 1}
        return {"custom_id": str(number), "response": response, "error": None, "result": result}

    a = write(tmp_path / "a.jsonl", [line(1, "same"), line(2, "old")], forms[0])
    b = write(tmp_path / "b.jsonl", [line(1, "same"), line(2, "new")], forms[1])
    out = run(capsys, a, b)
    assert "agreement 50.0% (1 of 2 rows the same)" in out
    assert "A       old" in out
    assert "B       new" in out
    assert "inputs    differ" not in out


@PAIRS
def test_several_samples_are_compared_and_shown(tmp_path, capsys, forms):
    def line(*texts):
        samples = [{"text": text, "output_tokens": 1} for text in texts]
        return {"prompt": "p", "result": {"row": 1, "status": "done", "samples": samples}}

    bad = row(2, None, "bad_row")  # where Parquet has a null in place of samples
    a = write(tmp_path / "a.jsonl", [line("x", "y"), bad], forms[0])
    b = write(tmp_path / "b.jsonl", [line("x", "z"), bad], forms[1])
    assert "agreement 50.0% (1 of 2 rows the same)" in run(capsys, a, b)
    assert "[1] x [2] y" in run(capsys, a, "--rows")


def test_what_is_no_output(tmp_path, capsys):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(row(1)) + '\n{"prompt": "x"}\n')
    assert main(["inspect", str(path)]) == 1
    assert f"line 2 of {path} is no row of an output" in capsys.readouterr().err
    assert main(["inspect", str(tmp_path / "none")]) == 1
    assert "cannot read" in capsys.readouterr().err
    assert main(["inspect", str(path), str(path), "--html"]) == 1
    assert "are for one run" in capsys.readouterr().err
    assert main(["inspect", str(path), "--group", "x"]) == 1
    assert "no effect without --expect" in capsys.readouterr().err
    path.write_bytes(b'{"result": {"row": 1, "status": "done"}}\n\n{"result": {"ro')
    assert [one.number for one in read_output(path)] == [1]
    other = write(tmp_path / "y.jsonl", [{"prompt": "x"}], "parquet")
    assert main(["inspect", str(other)]) == 1
    assert f"row 1 of {other} is no row of an output" in capsys.readouterr().err
    other.write_bytes(other.read_bytes()[:-9])
    assert main(["inspect", str(other)]) == 1
    assert "is damaged or cut off" in capsys.readouterr().err
    path.write_bytes(b"\xff\xfe\n")
    with pytest.raises(JobError, match="line 1"):
        list(read_output(path))


def test_each_run_may_have_a_result_key_of_its_own(tmp_path, capsys):
    a = write(tmp_path / "a.jsonl", [row(1)])
    b = write(tmp_path / "b.jsonl", [{"prompt": "p1", "out": row(1)["result"]}])
    figures_path(b).write_text(json.dumps({"format": 1, "settings": {"result_key": "out"}}))
    assert "agreement 100.0% (1 of 1" in run(capsys, a, b)


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ({"x": None}, {}, True),
        ({"x": [{"y": 1}]}, {"x": [{"y": 1.0, "z": None}]}, True),
        ({"x": {}}, {"x": "{}"}, True),
        ({"x": 7}, {"x": "7"}, True),
        ({"x": None}, {"x": "null"}, False),
        ({"x": "a"}, {"x": "b"}, False),
        ([1], [1, 2], False),
    ],
)
def test_values_that_went_through_parquet(a, b, same):
    assert same_value(a, b) == same_value(b, a) == same


@FORMS
def test_rows_are_found_by_number(tmp_path, form):
    path = write(tmp_path / "x.jsonl", [row(9, "é"), row(2, "\u2028"), row(4)], form)
    with RowFinder(path) as finder:
        assert finder.rows == 3
        assert [finder[n] and finder[n].result["text"] for n in (2, 3, 9, 10)] == [
            "\u2028",
            None,
            "é",
            None,
        ]


@FORMS
def test_memory_does_not_grow_with_the_texts(tmp_path, form):
    """150 MB of rows are compared in far less memory; Arrow itself takes 60 MiB of it."""
    path = tmp_path / "big.jsonl"
    with path.open("w") as file:
        for number in range(1, 10_001):
            file.write(json.dumps(row(number, f"{number}" + "x" * 15_000)) + "\n")
    if form == "parquet":
        make_output(path, JobSettings(path, path.with_suffix(".parquet"), SamplingParams()))
        path = path.with_suffix(".parquet")
    code = (
        "import sys; from pathlib import Path; from stoker.report.compare import *;"
        "t = Comparison(); p = Path(sys.argv[1]); assert not list(compare(p, p, t));"
        "assert t.same == t.both == 10_000;"
        "peak = next(s for s in open('/proc/self/status') if s.startswith('VmHWM'));"
        "print(int(peak.split()[1]) // 1024)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < {"jsonl": 80, "parquet": 200}[form], "MiB"
