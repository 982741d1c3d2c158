"""`stoker inspect`: earlier runs read again from their files, and two side by side."""

import json
import subprocess
import sys

import pytest

from stoker.cli.main import main
from stoker.errors import JobError
from stoker.report.files import figures_path, page_path, read_figures
from stoker.report.outputs import RowFinder, read_output


def row(number, text="x", status="done", **fields):
    result = {"row": number, "status": status, "text": text}
    counts = {"prompt_tokens": 3, "cached_tokens": 0, "output_tokens": 2}
    return {"prompt": f"p{number}", **fields, "result": {**result, **counts}}


def write(path, rows):
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in rows))
    return path


def run(capsys, *args):
    code = main(["inspect", *map(str, args)])
    out = capsys.readouterr()
    assert code == 0, out.err
    return out.out


def test_summary_of_a_run(text_model, tmp_path, capsys):
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
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


def test_rows_by_status(tmp_path, capsys):
    rows = [row(1), row(2, "a\n\x1b[2Jb" + "c" * 500, "length"), row(3, status="failed")]
    rows[2]["result"]["error"] = "it broke"
    out = write(tmp_path / "out.jsonl", rows)
    printed = run(capsys, out, "--rows", "length,failed")
    assert printed.count("row ") == 2
    assert "  answer  a [2Jbccc" in printed
    assert "\x1b" not in printed
    assert "  error   it broke" in printed
    assert max(map(len, printed.splitlines())) < 180
    assert run(capsys, out, "--rows").count("row ") == 3
    assert run(capsys, out, "--rows", "--limit", 1).count("row ") == 1


def test_two_runs_side_by_side(tmp_path, capsys):
    a = write(tmp_path / "a.jsonl", [row(1, want="x"), row(2), row(3), row(5, want="x")])
    b = [row(5, "z", want="x"), row(3, status="length"), row(1, want="x"), row(4), row(2, extra=1)]
    b = write(tmp_path / "b.jsonl", b)
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


def test_two_runs_of_a_batch_file(tmp_path, capsys):
    """Their answers are compared, and a response that differs is no other input."""

    def line(number, text):
        response = {"body": {"choices": [{"message": {"content": text}}]}}
        result = {"row": number, "status": "done", "output_tokens": 1}
        return {"custom_id": str(number), "response": response, "error": None, "result": result}

    a = write(tmp_path / "a.jsonl", [line(1, "same"), line(2, "old")])
    b = write(tmp_path / "b.jsonl", [line(1, "same"), line(2, "new")])
    out = run(capsys, a, b)
    assert "agreement 50.0% (1 of 2 rows the same)" in out
    assert "A       old" in out
    assert "B       new" in out
    assert "inputs    differ" not in out


def test_several_samples_are_compared_and_shown(tmp_path, capsys):
    def line(*texts):
        samples = [{"text": text, "output_tokens": 1} for text in texts]
        return {"prompt": "p", "result": {"row": 1, "status": "done", "samples": samples}}

    a = write(tmp_path / "a.jsonl", [line("x", "y")])
    b = write(tmp_path / "b.jsonl", [line("x", "z")])
    assert "agreement 0.0% (0 of 1 rows the same)" in run(capsys, a, b)
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
    path.write_bytes(b"\xff\xfe\n")
    with pytest.raises(JobError, match="line 1"):
        list(read_output(path))


def test_rows_are_found_by_number(tmp_path):
    path = write(tmp_path / "x.jsonl", [row(9, "é"), row(2, "\u2028"), row(4)])
    with RowFinder(path) as finder:
        assert finder.rows == 3
        assert [finder[n] and finder[n].result["text"] for n in (2, 3, 9, 10)] == [
            "\u2028",
            None,
            "é",
            None,
        ]


def test_memory_does_not_grow_with_the_texts(tmp_path):
    """150 MB of rows are compared in far less memory."""
    text = "x" * 15_000
    path = tmp_path / "big.jsonl"
    with path.open("w") as file:
        for number in range(1, 10_001):
            file.write(json.dumps(row(number, text)) + "\n")
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
    assert int(done.stdout) < 80, "MiB"
