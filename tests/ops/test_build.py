"""Kernels are built beside other work, and what can't be built is left to `load`."""

import subprocess

import pytest

from stoker.ops.native import build

pytestmark = pytest.mark.skipif(build.load_kernels("linear") is None, reason="no C compiler")


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """An empty cache, and nothing loaded or started; gives the cache's folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(build, "_started", {})
    return tmp_path / "stoker"


@pytest.mark.parametrize(
    ("dtype", "names"),
    [
        ("auto", {"linear", "attention", "elementwise"}),
        ("int8", {"linear_int8", "attention", "elementwise"}),
        ("bfloat16", set()),
    ],
)
def test_start_builds_what_the_dtype_needs(fresh, dtype, names, monkeypatch):
    monkeypatch.setattr(build, "FLAGS", ("-O0", *build.FLAGS[1:]))
    build.start_build("cpu", dtype)
    assert build._started.keys() == names
    build.start_build("cpu", dtype)
    found = {future.result() for future in build._started.values()}
    assert not build.building()
    assert {path.name.rpartition("-")[0] for path in found} == names
    assert set(fresh.glob("*")) == found


def test_a_gpu_needs_none(fresh):
    build.start_build("cuda", "auto")
    assert not build._started


def test_load_takes_what_was_started_and_its_failure(fresh, monkeypatch, caplog):
    load = build.load_kernels.__wrapped__
    monkeypatch.setattr(build, "FLAGS", ("-O0", *build.FLAGS[1:]))
    build.start_build("cpu", "float32")
    calls = []
    monkeypatch.setattr(build, "_built", lambda *args: calls.append(args))
    assert load("elementwise").rms_norm
    assert not calls

    def fails(*args):
        raise subprocess.CalledProcessError(1, "cc", stderr="no such flag")

    monkeypatch.setattr(build, "_built", fails)
    monkeypatch.setattr(build, "_started", {})
    build.start_build("cpu", "float32")
    assert load("elementwise") is None
    assert "no such flag" in caplog.text
