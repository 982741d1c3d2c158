"""What an installation holds: kernels for every level where a compiler is, and none where not."""

import json
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import stoker
from stoker.ops.native.compile import find_compiler, libraries_of, library_name
from stoker.ops.native.levels import VARIABLE, processor_levels

ROOT = Path(stoker.__file__).parent.parent
KERNELS = "stoker/ops/native/"
with_compiler = pytest.mark.skipif(find_compiler() is None, reason="no C compiler")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The files that a source distribution holds, without what was built in the tree."""
    folder = tmp_path_factory.mktemp("source")
    built = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "stoker", folder / "stoker", ignore=built)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


def make_wheel(source, target, **environment):
    """The wheel of the package, made without network."""
    options = ("--no-deps", "--no-build-isolation", "--no-index", "-q", "-w", str(target))
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options, str(source)],
        check=True,
        env={**os.environ, **environment},
    )
    (wheel,) = target.glob("*.whl")
    return wheel


def kernels_in(wheel):
    return {
        name.removeprefix(KERNELS)
        for name in zipfile.ZipFile(wheel).namelist()
        if name.endswith(".so")
    }


def doctor(folder, **environment):
    """What `stoker doctor` tells of the kernels of a package in `folder`, without a compiler."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "PATH": "/nonexistent", **environment}
    done = subprocess.run(
        [sys.executable, "-m", "stoker.cli.main", "doctor", "--json"],
        capture_output=True,
        check=True,
        env={**environment, "HF_HUB_OFFLINE": "1"},
        cwd=folder,
    )
    facts = [finding["facts"] for finding in json.loads(done.stdout)["findings"]]
    return {one["source"]: (one["origin"], one["level"]) for one in facts if "source" in one}


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    return make_wheel(source, tmp_path_factory.mktemp("wheel"))


@with_compiler
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="made on Linux only")
def test_a_wheel_holds_the_kernels_of_every_level_and_says_for_which_machines(wheel):
    machine = platform.machine()
    assert wheel.name.endswith(f"-py3-none-linux_{machine}.whl")
    assert kernels_in(wheel) == {library_name(*one) for one in libraries_of()}
    names = zipfile.ZipFile(wheel).namelist()
    assert KERNELS + "linear.c" in names, "what the fallback compiles"
    assert not [name for name in names if not name.startswith(("stoker/", "stoker-"))]


@with_compiler
@pytest.mark.skipif(not processor_levels(), reason="a processor of no known level")
def test_a_wheel_serves_every_level_of_this_processor_without_a_compiler(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    for level in processor_levels():
        found = doctor(tmp_path, **{VARIABLE: level.name})
        assert {origin for origin, _ in found.values()} == {"package"}
        assert found["linear"][1] == level.name.removesuffix("_vnni")


def test_a_wheel_made_without_a_compiler_serves_every_machine(source, tmp_path):
    wheel = make_wheel(source, tmp_path, PATH="/nonexistent")
    assert wheel.name.endswith("-py3-none-any.whl")
    assert not kernels_in(wheel)
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    assert {origin for origin, _ in doctor(tmp_path / "site").values()} <= {"none", "cache"}
