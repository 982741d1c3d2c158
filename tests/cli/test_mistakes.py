"""What goes wrong with what is given: each message names the file, the line, the field, a remedy.

From the command line, as a user meets them; the variants are in tests/job.
"""

import json
import os
import random

import pytest

from stoker.cli.main import main

GOOD = b'{"text": "hello"}\n'


def told(capsys, *args):
    """What a command says that can't be carried out, on one line."""
    assert main([str(one) for one in args]) == 1
    out = capsys.readouterr()
    assert out.out == ""
    assert "Traceback" not in out.err
    assert out.err.startswith("stoker: ")
    return out.err


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.jsonl").write_bytes(GOOD)
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.jsonl").write_bytes(b"")
    (tmp_path / "junk.jsonl").write_bytes(random.Random(0).randbytes(3000))
    (tmp_path / "schema.json").write_text('{"type": "objct"}')
    (tmp_path / "torn.json").write_text('{"type":\n')
    (tmp_path / "grammar.lark").write_text("start: foo\n")
    (tmp_path / "prompt.txt").write_text("Say\n{{ text \n")
    return tmp_path


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        ("god.jsonl", [], ["cannot read god.jsonl", "did you mean 'good.jsonl'?"]),
        ("folder", [], ["folder is a folder without text files", "name a file"]),
        ("empty.jsonl", [], ["empty.jsonl holds no rows", "give a file with a prompt in each row"]),
        ("junk.jsonl", [], ["junk.jsonl is neither text nor", "give jsonl, json, csv"]),
        (
            "good.jsonl",
            ["--prompt", "{{ txt }}"],
            ["good.jsonl, line 1: --prompt", "'txt'", "did you mean 'text'?", "columns are text"],
        ),
        (
            "good.jsonl",
            ["--prompt-file", "prompt.txt"],
            ["prompt.txt, line 2", "is no Jinja", "a column is written {{ name }}"],
        ),
        (
            "good.jsonl",
            ["--sampling", '{"temprature": 1}'],
            ["'temprature' in --sampling", "did you mean 'temperature'?"],
        ),
        ("good.jsonl", ["--max-tokens", "-1"], ["max_tokens must be at least 1, not -1"]),
        ("good.jsonl", ["--schema", "schema.json"], ["schema.json: json_schema does not compile"]),
        ("good.jsonl", ["--schema", "torn.json"], ["torn.json: ", "is not JSON", "line 2"]),
        ("good.jsonl", ["--grammar", "grammar.lark"], ["grammar.lark: grammar does not compile"]),
        ("good.jsonl", ["--expect", "txt"], ["good.jsonl: ", "'txt'", "did you mean 'text'?"]),
        ("good.jsonl", ["-m", "stoker-tny"], ["'stoker-tny'", "did you mean 'stoker-tiny'?"]),
    ],
)
def test_refused_before_the_model_is_loaded(folder, capsys, source, options, words):
    if source == "good.jsonl" and "--prompt" not in str(options):
        options = ["--prompt", "{{ text }}", *options]
    said = told(capsys, "run", source, "-o", "out.jsonl", *options)
    for word in words:
        assert word in said
    assert "loading" not in said
    assert not list(folder.glob("out.jsonl*"))


def test_outputs_that_can_not_be(folder, capsys, monkeypatch):
    command = ["run", "good.jsonl", "--prompt", "{{ text }}", "-o"]
    said = told(capsys, *command, "good.jsonl")
    assert "input and output are the same file; give the output another name" in said
    assert "name a file in it" in told(capsys, *command, "folder")
    assert "none/out.jsonl does not exist; make it" in told(capsys, *command, "none/out.jsonl")
    (folder / "out.jsonl.stoker").write_text("in the way of the journal")
    monkeypatch.setattr("stoker.cli.run.say_loading", lambda *args: None)
    command += ["out.jsonl", "--no-report", "-q"]
    assert "cannot make the folder out.jsonl.stoker" in told(capsys, *command)
    (folder / "out.jsonl.stoker").unlink()
    # root may write everywhere; test_resume.py mounts a file system to be sure
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    said = told(capsys, *command)
    assert f"{folder} may not be written; give the output a place where it may" in said


@pytest.mark.parametrize(
    ("name", "data", "errors"),
    [
        (
            "rows.jsonl",
            GOOD + b'{"text": "\xe9"}\n["a"]\n{"text": }\n{"txt": "x"}\n',
            {
                2: ["rows.jsonl, line 2 is not UTF-8: byte 0xe9 at position 11", "iconv -f"],
                3: ["rows.jsonl, line 3 holds a list; it must be an object"],
                4: ["rows.jsonl, line 4 is not valid JSON: Expecting value at column 10; it must"],
                5: ["rows.jsonl, line 5: --prompt", "'text', which is not", "columns are txt"],
            },
        ),
        (
            "rows.csv",
            b"text,mark\na,1\nb\n",
            {2: ["rows.csv, line 3 has 1 values and the header has 2 columns", "double quotes"]},
        ),
    ],
)
def test_rows_that_can_not_be_used(folder, capsys, text_model, name, data, errors):
    (folder / name).write_bytes(data)
    command = ["run", name, "-o", "out.jsonl", "--prompt", "{{ text }}", "-m", str(text_model)]
    assert main([*command, "--max-tokens", "2"]) == 3
    rows = map(json.loads, (folder / "out.jsonl").read_text().splitlines())
    found = {row["result"]["row"]: row["result"].get("error") for row in rows}
    assert {number for number, error in found.items() if error} == set(errors)
    for number, words in errors.items():
        for word in words:
            assert word in found[number]


def test_wrong_words_on_the_command_line(capsys):
    """The message is a line, and says which option was meant."""
    for words, said in (
        (["run", "x", "-o", "y", "--temprature", "1"], "did you mean --temperature?"),
        (["run", "x", "-o", "y", "z"], "unknown argument z"),
        (["run", "x"], "required: -o/--output"),
        (["rnu"], "invalid choice: 'rnu'"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert stop.value.code == 2
        err = capsys.readouterr().err
        assert said in err
        assert err.endswith("--help lists what can be given\n")
        assert err.count("\n") == 1
