"""The benchmark of attention runs, at tiny sizes; its figures mean nothing then."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from stoker.ops.triton.available import triton_serves

pytestmark = pytest.mark.skipif(
    not triton_serves("cuda" if torch.cuda.is_available() else "cpu"),
    reason="Triton is not installed",
)
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu" / "attention.py"


@pytest.mark.parametrize("mode", [[], ["--tune"]], ids=str)
def test_the_benchmark_of_triton_attention_runs(mode, tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("attention_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # where dataclasses look
    spec.loader.exec_module(module)
    rows = module.main(["--smoke", "--json", str(tmp_path / "rows.json"), *mode])
    assert (tmp_path / "rows.json").exists()
    errors = [row["error"] for row in rows if "error" in row]
    assert all(error < 0.05 for error in errors)
    assert {row["case"] for row in rows if "case" in row} == (
        {"tune", "cut"} if mode else {"decode", "prefix", "prefill"}
    )
