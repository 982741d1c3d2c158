"""The attention kernels compile for an H200, fit on it, and fetch ahead. No GPU is needed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed")
SHARED = 227 * 1024  # bytes that a program may have on compute capability 9.0


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton"))}
    environment.pop("TRITON_INTERPRET", None)
    script = Path(__file__).with_name("compile_attention.py")
    done = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_triton_kernels_fit_into_shared_memory(kernels):
    assert len(kernels) == 27
    for name, kernel in kernels.items():
        assert kernel["shared"] <= SHARED, name


def test_triton_kernels_use_the_matrix_units(kernels):
    for name, kernel in kernels.items():
        if "fp32" not in name and name != "merge":
            # 128 heads share a latent row: rows enough for a group of warps
            many = "wide" in name or name.endswith("128")
            assert kernel["wgmma" if many else "mma"] > 0, name


@pytest.mark.parametrize(
    "name", ["narrow bf16", "narrow fp8e4nv", "wide bf16", "wide fp8e4nv", "wide alibi"]
)
def test_triton_kernels_have_keys_and_values_on_their_way(kernels, name):
    """Two buffers or more: while a tile is multiplied the next is being fetched."""
    assert min(kernels[name]["buffers"]) >= 2
