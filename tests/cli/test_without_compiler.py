"""Neither kernels nor a compiler: the same answers, and a word about it that is said once."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import stoker

ROOT = Path(stoker.__file__).parent
TOLD = "no compiled kernels: there is no C compiler"


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The package as it is installed where there was no compiler."""
    folder = tmp_path_factory.mktemp("package")
    built = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT, folder / "stoker", ignore=built)
    return folder


@pytest.fixture
def run(package, tmp_path):
    """A function that runs three prompts through `stoker run` on a machine without a compiler."""
    rows = ("Say this again: check supply bar", "Sort these words: pear apple fig", "1 2 3")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"prompt": x}) + "\n" for x in rows))

    def run(*options, **environment):
        clean = {key: os.environ[key] for key in ("HOME", "LANG") if key in os.environ}
        clean |= {"PATH": "/nonexistent", "PYTHONPATH": str(package)}
        clean |= {"XDG_CACHE_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", **environment}
        command = [sys.executable, "-m", "stoker.cli.main", "run", "rows.jsonl", "-o", "out.jsonl"]
        done = subprocess.run(
            [*command, "--restart", "--no-report", "--max-tokens", "8", *options],
            env=clean,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        lines = (tmp_path / "out.jsonl").read_text().splitlines()
        texts = {one["row"]: one["text"] for line in lines if (one := json.loads(line)["result"])}
        return texts, done.stderr

    return run


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler to compare with")
def test_the_answers_are_those_of_the_kernels(run):
    fast, said = run(PATH=os.environ["PATH"])
    assert TOLD not in said
    for options in ((), ("--dtype", "int8")):
        slow, said = run(*options)
        assert said.count(TOLD) == 1
        assert options or slow == fast


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one core")
def test_replicas_say_it_once_together(run):
    assert run("--replicas", "2")[1].count(TOLD) == 1


def test_quiet_says_nothing(run):
    assert run("-q")[1] == ""
