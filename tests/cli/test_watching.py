"""What a run shows: a panel, lines, JSON or nothing; and the page that says how it is asked."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from stoker.cli.main import main
from stoker.cli.panel import JsonLines, Lines, Nothing, clock, draw, line, screen
from stoker.cli.reference import reference
from stoker.report.progress import Progress

ROOT = Path(__file__).parents[2]
NOW = Progress(
    rows=30,
    total_rows=100,
    statuses={"done": 28, "length": 2},
    elapsed=61.0,
    eta=142.3,
    prefill_rate=1234.5,
    decode_rate=678.9,
    running=8,
    waiting=24,
    cache_use=0.375,
    prompt_tokens=1000,
    output_tokens=500,
    saved_tokens=4800,
    accuracy=0.5,
)


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "hello"}\n' * 20)
    return path


def stoker(*args):
    command = [sys.executable, "-m", "stoker.cli.main", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_panel_shows_everything():
    console = Console(width=120, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(draw(NOW))
    text = console.export_text()
    for wanted in (
        "30/100 rows",
        "0:01:01",
        "0:02:22 left",
        "28 done, 2 length",
        "1,234 prefill + 679 decode tokens/s",
        "8, 24 waiting",
        "38% in use",
        "4,800 prompt tokens saved",
        "50.0% so far",
    ):
        assert wanted in text
    bare = Progress(0, None, {}, 0.0, None, 0.0, 0.0, 0, 0, 0.0, 0, 0, 0, None)
    console.print(draw(bare))
    text = console.export_text()
    assert "0 rows" in text
    assert "accuracy" not in text
    assert line(bare) == "0 rows, 0 prefill + 0 decode tokens/s"


def test_lines_and_clock(capsys):
    Lines().show(NOW)
    assert capsys.readouterr().err == (
        "stoker: 30/100 rows, 1,234 prefill + 679 decode tokens/s, 0:02:22 left\n"
    )
    assert clock(3661) == "1:01:01"
    with screen(True, False) as shown:
        assert isinstance(shown, Nothing)
        shown.show(NOW)
    with screen(False, True) as shown:
        assert isinstance(shown, JsonLines)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("replicas", [1, 2])
def test_json_progress(text_model, rows, tmp_path, replicas):
    if replicas > len(os.sched_getaffinity(0)):
        pytest.skip("there is one core")
    out = tmp_path / "out.jsonl"
    more = ["--max-tokens", 3, "--json-progress", "--replicas", replicas, "--no-dedup"]
    done = stoker("run", rows, "-o", out, "-m", text_model, *more)
    assert done.returncode == 0, done.stderr
    events = [json.loads(text) for text in done.stderr.splitlines()]
    assert [events[0]["event"], events[-2]["event"], events[-1]["event"]] == [
        "loading",
        "progress",
        "end",
    ]
    progress = events[-2]
    assert set(progress) == {"event", *Progress.__dataclass_fields__}
    assert (progress["rows"], progress["total_rows"], progress["eta"]) == (20, 20, 0)
    assert progress["statuses"] == {"length": 20}
    assert progress["decode_rate"] > 0
    assert progress["prefill_rate"] > 0
    assert (progress["running"], progress["waiting"]) == (0, 0)
    # every sequence's first token comes with its prompt, and the rest are decodes
    series = json.loads((tmp_path / "out.jsonl.report.json").read_text())["series"]
    assert sum(series["decode_tokens"]) == 20 * 2
    assert sum(series["prefill_tokens"]) + sum(series["saved_tokens"]) == progress["prompt_tokens"]
    assert sum(series["saved_tokens"]) == progress["saved_tokens"]
    assert events[-1]["report"] == f"{out}.report.html"
    documented = (ROOT / "docs" / "jobs.md").read_text()
    assert all(f"`{name}`" in documented for name in {*progress, *events[-1]} - {"event"})


def test_quiet_and_no_report(text_model, rows, tmp_path):
    out = tmp_path / "out.jsonl"
    more = ["-m", text_model, "--max-tokens", 2, "--quiet", "--no-report"]
    done = stoker("run", rows, "-o", out, *more)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not list(tmp_path.glob("out*report*"))


def test_a_continued_run_counts_every_row_and_shows_its_own(text_model, tmp_path, capsys):
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [json.dumps({"prompt": f"hello {n}", "want": "no"}) + "\n" for n in range(9)]
    source.write_text("".join(lines))
    command = ["run", str(source), "-o", str(out), "-m", text_model, "--max-tokens", "2"]
    command += ["--expect", "want", "--expect-mode", "regex", "--result-key", "answer"]
    assert main([*command, "--limit", "4"]) == 0
    assert "(0 of 4 as expected)" in capsys.readouterr().out
    assert main(command) == 0
    assert "(0 of 9 as expected)" in capsys.readouterr().out
    figures = json.loads((tmp_path / "out.jsonl.report.json").read_text())
    assert figures["rows"]["written"] == figures["accuracy"]["compared"] == 9
    assert len(figures["sample"]) == figures["lengths"]["output"]["rows"] == 9
    assert sum(figures["series"]["rows"]) == 5
    # all is there: nothing runs, the summary is the same
    assert main(command) == 0
    again = capsys.readouterr()
    assert "(0 of 9 as expected)" in again.out
    assert "complete" in again.err
    assert main(["inspect", str(out)]) == 0
    assert "(0 of 9 as expected)" in capsys.readouterr().out
    # rows that run again are counted once
    assert main([*command, "--retry", "length"]) == 0
    assert "rows      9 of 9 (9 length)" in capsys.readouterr().out
    assert main([*command, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_quiet_or_json(capsys):
    with pytest.raises(SystemExit):
        main(["run", "x", "-o", "y", "--quiet", "--json-progress"])
    assert "not allowed with" in capsys.readouterr().err


def test_a_report_that_can_not_be_written_costs_no_results(text_model, rows, tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    (tmp_path / "out.jsonl.report.html").mkdir()
    command = ["run", rows, "-o", out, "-m", text_model, "--max-tokens", 2]
    assert main([str(one) for one in command]) == 0
    printed = capsys.readouterr()
    assert "cannot write the report beside" in printed.err
    assert "rows      20 of 20" in printed.out
    assert "report    " not in printed.out


def test_on_a_terminal(text_model, rows, tmp_path):
    out = tmp_path / "out.jsonl"
    command = [sys.executable, "-m", "stoker.cli.main", "run", rows, "-o", out, "-m", text_model]
    command += ["--max-tokens", "3", "--no-report"]
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs) as process:
        os.close(theirs)
        seen = b""
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            seen += piece
    os.close(ours)
    assert process.returncode == 0
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen.decode())
    assert "20/20 rows" in text
    assert "20 length" in text
    assert "prefill +" in text


def test_embeddings_have_a_report_too(text_model, rows, tmp_path):
    out = tmp_path / "out.jsonl"
    done = stoker("embed", rows, "-o", out, "-m", text_model, "--json-progress")
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "out.jsonl.report.json").read_text())
    assert figures["lengths"]["prompt"]["rows"] == 20
    assert figures["lengths"]["output"]["rows"] == 0
    assert main(["inspect", str(out)]) == 0
    assert main(["inspect", str(out), "--rows", "done"]) == 0


def test_the_reference_is_current():
    page = (ROOT / "docs" / "cli.md").read_text()
    assert page == reference(), "python -m stoker.cli.reference > docs/cli.md"
    for wanted in (
        "## stoker run",
        "## stoker inspect",
        "`--expect COLUMN`",
        "-o OUTPUT [options]",
    ):
        assert wanted in page


def test_the_command_line_starts_fast():
    code = (
        "import sys; from stoker.cli.main import build_parser; build_parser();"
        "assert not {'torch', 'numpy', 'rich'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
