"""Standard streams that are closed or lack characters, and names that are no text."""

import logging
import os
import subprocess
import sys

import pytest

from stoker.cli.main import main

PREPARE = "import os, sys; from stoker.cli.streams import prepare_streams; prepare_streams()\n"


def python(folder, code, shell="", **env):
    """Run Python with its streams redirected by `shell`; returns what came of it, in bytes."""
    words = ["sh", "-c", f'"$@" {shell}', "sh", sys.executable, "-c", PREPARE + code]
    env = {**os.environ, "PYTHONUTF8": "0", **env}
    return subprocess.run(words, cwd=folder, capture_output=True, env=env, check=False)


@pytest.mark.parametrize("shell", ["2>&-", ">&-", "<&-", "<&- >&- 2>&-", ""])
def test_closed_streams(tmp_path, shell):
    code = """
with open("rows", "wb", buffering=0) as file:
    print("a message", flush=True)
    print("another", file=sys.stderr, flush=True)
    for stream in (1, 2):
        os.write(stream, b"of a library")  # it must not get into the file
    file.write(b"a row")
assert sys.stdin.read() == ""
"""
    assert python(tmp_path, code, shell).returncode == 0
    assert (tmp_path / "rows").read_bytes() == b"a row"


@pytest.mark.parametrize(
    ("encoding", "shown"), [("ascii", b"caf\\xe9 \\u2192"), ("latin-1", b"caf\xe9 \\u2192")]
)
def test_characters_that_the_encoding_lacks(tmp_path, encoding, shown):
    done = python(tmp_path, r'print("caf\u00e9 \u2192")', PYTHONIOENCODING=encoding)
    assert done.stdout.strip() == shown


def test_names_that_are_not_utf_8(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    name = os.fsdecode(b"caf\xe9")
    try:
        (tmp_path / f"{name}.txt").write_text("hello\n")
    except OSError:
        pytest.skip("this file system takes names in UTF-8 alone")
    job = ["run", f"{name}.txt", "-o", f"{name}.out", "--max-tokens=1", "--json-progress"]
    assert main(job) == 0
    assert main(job) == 0  # it is complete, so what was written is read again
    assert "caf\\udce9.out" in capsys.readouterr().out
    assert (tmp_path / f"{name}.out.report.html").is_file()
    assert main(["inspect", f"{name}.out"]) == 0


def test_a_quiet_command_leaves_the_log_as_it_was(tmp_path):
    """Of programs that call the command line in their own process."""
    log = logging.getLogger("stoker")
    log.setLevel(logging.INFO)
    try:
        assert main(["run", str(tmp_path / "none.jsonl"), "-o", str(tmp_path / "out"), "-q"]) == 1
        assert log.level == logging.INFO
    finally:
        log.setLevel(logging.NOTSET)
