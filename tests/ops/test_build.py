"""Kernels of the package serve, and what is missing is built beside other work."""

import logging
import subprocess

import pytest

from stoker.ops.native import build
from stoker.ops.native import compile as compiling
from stoker.ops.native.compile import SOURCES, compile_library, find_compiler, library_name
from stoker.ops.native.levels import best_level

with_compiler = pytest.mark.skipif(find_compiler() is None, reason="no C compiler")


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """No packaged library, an empty cache, nothing loaded or started; gives the cache's folder."""
    package = tmp_path / "package"
    package.mkdir()
    for path in compiling.FOLDER.glob("*.[ch]"):
        (package / path.name).write_bytes(path.read_bytes())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compiling, "FOLDER", package)
    monkeypatch.setattr(build, "FOLDER", package)
    monkeypatch.setattr(build, "_started", {})
    monkeypatch.setattr(build, "_told", False)
    monkeypatch.setattr(compiling, "FLAGS", ("-O0", *compiling.FLAGS[1:]))
    build.find_kernels.cache_clear()
    yield tmp_path / "stoker"
    build.find_kernels.cache_clear()


@with_compiler
@pytest.mark.parametrize(
    ("dtype", "names"),
    [
        ("auto", {"linear", "attention", "elementwise"}),
        ("int8", {"linear_int8", "attention", "elementwise"}),
        ("bfloat16", set()),
    ],
)
def test_start_builds_what_the_dtype_needs(fresh, dtype, names):
    build.start_build("cpu", dtype)
    assert build._started.keys() == names
    build.start_build("cpu", dtype)
    found = {future.result() for future in build._started.values()}
    assert not build.building()
    assert {path.name.partition("-")[0] for path in found} == names
    assert set(fresh.glob("*")) == (found if names else set())


def test_a_gpu_needs_none(fresh):
    build.start_build("cuda", "auto")
    assert not build._started


@with_compiler
def test_load_takes_what_was_started_and_its_failure(fresh, monkeypatch, caplog):
    build.start_build("cpu", "float32")
    calls = []
    monkeypatch.setattr(build, "_cached", lambda *args: calls.append(args))
    assert build.load_kernels("elementwise").rms_norm
    assert not calls

    def fails(*args):
        raise subprocess.CalledProcessError(1, "cc", stderr="no such flag")

    monkeypatch.setattr(build, "_cached", fails)
    monkeypatch.setattr(build, "_started", {})
    build.start_build("cpu", "float32")
    assert build.load_kernels("linear_int8") is None
    assert "no such flag" in caplog.text


@with_compiler
def test_the_library_of_the_package_serves_and_is_not_built_again(fresh, monkeypatch):
    level = best_level(SOURCES["elementwise"])
    assert build.look_for_kernels("elementwise").origin == "first use"
    assert not build.find_kernels("elementwise").reason
    assert build.look_for_kernels("elementwise").origin == "cache"
    packaged = compiling.FOLDER / library_name("elementwise", level)
    compile_library(find_compiler(), "elementwise", level, packaged)
    build.find_kernels.cache_clear()
    found = build.find_kernels("elementwise")
    assert (found.origin, found.level) == ("package", level.name)
    build.start_build("cpu", "float32")
    assert "elementwise" not in build._started

    header = compiling.FOLDER / "compilers.h"  # of other sources: no longer taken
    header.write_text(header.read_text() + "\n")
    assert build.look_for_kernels("elementwise").origin == "first use"


@with_compiler
def test_a_damaged_library_of_the_package_is_replaced(fresh):
    level = best_level(SOURCES["elementwise"])
    (compiling.FOLDER / library_name("elementwise", level)).write_bytes(b"no library")
    assert build.find_kernels("elementwise").origin == "cache"


def test_without_a_compiler_the_slow_path_is_told_once(fresh, monkeypatch, caplog):
    monkeypatch.setenv("PATH", "/nonexistent")
    build.start_build("cpu", "float32")
    with caplog.at_level(logging.WARNING, "stoker"):
        assert [build.load_kernels(name) for name in SOURCES] == [None] * len(SOURCES)
    assert len(caplog.records) == 1
    assert "there is no C compiler" in caplog.text
    assert "stoker doctor" in caplog.text


def test_another_process_may_say_it(fresh, monkeypatch, caplog):
    monkeypatch.setenv("PATH", "/nonexistent")
    build.leave_unsaid()
    assert build.load_kernels("linear") is None
    assert not caplog.records
