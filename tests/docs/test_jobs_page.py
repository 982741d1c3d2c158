"""The commands of docs/jobs.md run as they stand, one after the other."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = 150
BLOCKS = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / "jobs.md").read_text("utf-8"), re.S)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("page")
    shutil.copytree(ROOT / "examples", where / "examples")
    tasks = where / "examples" / "tasks.jsonl"  # a part of them shows the same
    tasks.write_text("".join(tasks.read_text("utf-8").splitlines(keepends=True)[:ROWS]), "utf-8")
    (where / "bin").mkdir()
    command = where / "bin" / "stoker"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m stoker.cli.main "$@"\n')
    command.chmod(0o755)
    return where


def rows(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_commands_of_the_page(folder, number, monkeypatch):
    monkeypatch.setenv("PATH", str(folder / "bin"), prepend=":")
    done = subprocess.run(
        ["bash", "-e", "-c", BLOCKS[number]],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_the_page_says_of_the_outputs(folder):
    (bad,) = [
        one for one in rows(folder / "ragged-out.jsonl") if one["result"]["status"] == "bad_row"
    ]
    page = " ".join((ROOT / "docs" / "jobs.md").read_text("utf-8").replace("\n>", "\n").split())
    assert bad["result"]["error"] in page
    refused = {one["result"]["row"]: one["result"] for one in rows(folder / "own-out.jsonl")}[3]
    assert (
        "unknown sampling parameter 'temprature' in sampling; did you mean 'temperature'?"
        in (refused["error"])
    )
    (first,) = [one for one in rows(folder / "batch-out.jsonl") if one["custom_id"] == "a"]
    assert list(first) == ["id", "custom_id", "response", "error", "result"]
