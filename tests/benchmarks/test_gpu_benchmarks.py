"""The GPU benchmarks: their arithmetic against published figures, and that every line runs."""

import importlib
import json
import sys
import time
from pathlib import Path

import pytest
import torch

from stoker.ops.triton.available import triton_serves

FOLDER = Path(__file__).parents[2] / "benchmarks" / "gpu"
NAMES = [file.stem for file in FOLDER.glob("*.py")]
needs_triton = pytest.mark.skipif(
    not triton_serves("cuda" if torch.cuda.is_available() else "cpu"),
    reason="Triton is not installed",
)


@pytest.fixture
def module(monkeypatch):
    """A function that imports a file of the benchmarks, for this test alone."""
    monkeypatch.syspath_prepend(FOLDER)
    for name in NAMES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module
    for name in NAMES:
        sys.modules.pop(name, None)


def test_w1_is_the_published_one(module):
    work = module("workload").w1()
    assert (work.input_tokens, work.output_tokens) == (142_827, 133_966)
    assert (max(work.outputs), work.longest) == (1024, 2011)
    assert work.hash() == module("workload").w1().hash() != work.first(255).hash()


@pytest.mark.parametrize(
    ("name", "sequential", "overlap"),
    [
        ("qwen3-0.6b", 36.2e3, 38.2e3),
        ("qwen3-0.6b-fp8kv", 64.1e3, None),
        ("qwen3-14b", 8.08e3, 11.9e3),
        ("qwen3-14b-fp8", 15.5e3, None),
        ("qwen3-8b", 12.7e3, None),
        ("qwen3-1.7b", 29.0e3, None),
        ("llama-8b-fp8", 23.2e3, None),
    ],
)
def test_bounds_are_those_worked_out_by_hand(module, name, sequential, overlap):
    report, case = module("report"), module("cases").CASES[name]
    running = case.options.get("max_running", 256)
    found = report.with_bounds(name, {"output_tokens_per_s": 1.0, "running": running}, False)
    assert found["bound_sequential"] == pytest.approx(sequential, rel=0.005)
    if overlap:
        assert found["bound_overlap"] == pytest.approx(overlap, rel=0.005)


def test_goals_lie_below_their_bounds(module):
    report = module("report")
    for name, case in module("cases").CASES.items():
        running = case.options.get("max_running", 256)
        found = report.with_bounds(name, {"output_tokens_per_s": case.goal, "running": running}, 0)
        assert 0.3 < found["share_of_sequential"] < 0.9, name
        assert found["share_of_overlap"] < found["share_of_sequential"], name


def test_rows_of_steps(module):
    rows = module("bounds").rows_of_steps
    assert rows([3, 1, 2], 3) == {3: 1, 2: 1, 1: 1}
    assert rows([3, 1, 2], 2) == {2: 3}
    assert rows([4, 0, 4], 1) == {1: 8}
    lengths = [(7 * n) % 13 + 1 for n in range(50)]
    for running in (1, 4, 60):
        found = rows(lengths, running)
        assert sum(size * count for size, count in found.items()) == sum(lengths)
        assert max(found) <= running


def test_what_is_shared_counts_once(module):
    """Bytes of the own keys and values, and products for the common ones."""
    bounds, workload, models = module("bounds"), module("workload"), module("models")
    spec = models.spec_of(models.config_of("llama-3.1-8b"))
    found = bounds.bounds(spec, workload.prefixed(10, 1000, 5, 3), 10)
    token = 32 * 2 * 8 * 128 * 2
    # 2 decodes each, with 6 and 7 tokens of their own
    assert found.cache == pytest.approx(10 * 13 * token / 4.3e12)
    assert found.shared == pytest.approx(4 * 20 * 1000 * 32 * 128 * 32 / 550e12)
    sampled = bounds.bounds(spec, workload.sampled(1, 10, 1005, 3), 10)
    assert sampled.cache == pytest.approx(10 * 3 * token / 4.3e12)


def test_busy_time_is_a_union(module):
    union = module("device_time").union
    assert union([]) == (0, 0)
    assert union([(1, 3), (2, 4), (2, 3), (6, 7)]) == (6, 4)


def test_samples_of_the_gpu_are_read(module):
    lines = "1980, 2619, 700.1, 60, 1000\n1700, 2619, 650.5, [N/A], 3000\n1800, 26"
    found = module("machine").summary(lines)
    assert found["clocks.sm"] == (1700, 1840, 1980)
    assert found["temperature.gpu"] == (60, 60, 60)
    assert module("machine").summary("") == {}


def test_nvidia_smi_is_asked(module, tmp_path, monkeypatch):
    """By a stand-in that answers until it is stopped."""
    machine, script = module("machine"), tmp_path / "nvidia-smi"
    script.write_text(
        "#!/bin/sh\n"
        'case "$*" in\n'
        "*loop-ms*) while :; do echo '1980, 2619, 700.1, 60, 1000'; sleep 0.1; done;;\n"
        "*) echo 'H200, 570.1, 700 W, 1980 MHz, 143771 MiB';;\n"
        "esac\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert machine.about()["nvidia-smi"]["driver_version"] == "570.1"
    with machine.sampling() as found:
        time.sleep(0.5)
        assert found == {}
    assert found["power.draw"] == (700.1, 700.1, 700.1)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert machine.about()["nvidia-smi"] is None
    with machine.sampling() as found:
        pass
    assert found == {}


def test_written_models_are_those_made_in_place(module, tmp_path, monkeypatch):
    """The same weights come from files and from the device."""
    from stoker.model.checkpoint import SafetensorsFolder
    from stoker.model.loader import load_model, weights

    models, cpu = module("models"), torch.device("cpu")
    monkeypatch.setattr(models, "SHARD", 1 << 18)
    for name in ("qwen3-0.6b", "llama-3.1-8b"):
        folder = tmp_path / name
        folder.mkdir()
        config = models.config_of(name, smoke=True)
        size = models.write_model(folder, config, cpu)
        files = list(folder.glob("*.safetensors"))
        assert len(files) > 1
        assert sum(one.stat().st_size for one in files) == pytest.approx(size, rel=0.1)
        stored = load_model(SafetensorsFolder(folder), cpu, "bfloat16").model
        made = models.random_model(SafetensorsFolder(folder), cpu, "bfloat16").model
        shapes = [{key: value.shape for key, value in weights(one)} for one in (stored, made)]
        assert shapes[0] == shapes[1]
        assert stored.spec == made.spec
        head = [dict(weights(one))["embedding"].float() for one in (stored, made)]
        assert all(0.015 < one.std() < 0.025 for one in head)


@needs_triton
def test_every_case_runs_tiny(module):
    run, report = module("engine_run"), module("report")
    cpu = torch.device("cpu")
    for name, case in module("cases").CASES.items():
        found = report.with_bounds(name, run.run_case(case, cpu, True, 60), True)
        assert not found["cut"]
        assert found["output_tokens"] == found["asked_output_tokens"] > 0
        step = found["decode_step"]
        assert step["sequences"] > 1
        assert {"plan", "launch", "wait", "commit"} <= step["host_ms"].keys()
        assert step["within_launch_ms"]["to_arrays"] > 0
        json.dumps(found)
        assert name in report.shown(name, found)


def test_a_case_is_cut_at_its_limit(module):
    run, case = module("engine_run"), module("cases").CASES["qwen3-1.7b"]
    with run.make_llm(case, torch.device("cpu"), True) as llm:
        found = run.timed_run(llm, case.tiny(), 0.0)
        assert found["cut"]
        assert found["total_tokens_per_s"] is None
        assert not llm.engine.has_work
        assert not run.timed_run(llm, case.tiny(), 60)["cut"]


@needs_triton
def test_the_command(module, tmp_path, capsys):
    """Processes of their own, one of which fails, and one that time does not reach."""
    run, out = module("run"), tmp_path / "out.json"
    assert run.main(["--smoke", "--only", "kernels", "qwen3-0.6b", "--json", str(out)]) == 0
    result = json.loads(out.read_text())
    assert result["about"]["torch"] == torch.__version__
    assert result["kernels"]["decode_TB_s"].keys() == {"bf16", "fp8"}
    assert result["qwen3-0.6b"]["share_of_goal"] > 0
    assert "qwen3-0.6b" in capsys.readouterr().out


def test_failures_are_recorded_and_the_others_go_on(module, tmp_path, capsys, monkeypatch):
    run, out = module("run"), tmp_path / "out.json"
    answers = {"about": {"gpu": "none"}, "qwen3-8b": {"failed": "it broke", "tail": []}}
    monkeypatch.setattr(run, "child", lambda name, limit, **_: answers[name])
    monkeypatch.setattr(run, "LEAST", 30)
    assert run.main(["--only", "qwen3-8b", "--json", str(out)]) == 1
    assert json.loads(out.read_text())["qwen3-8b"]["failed"] == "it broke"
    assert run.main(["--only", "peer", "--json", str(out), "--minutes", "0.1"]) == 0
    assert "were left" in json.loads(out.read_text())["peer"]["skipped"]
    shown = capsys.readouterr().out
    assert "failed: it broke" in shown
    assert "skipped: " in shown


@needs_triton
def test_what_was_measured_is_kept_when_profiling_fails(module, tmp_path, monkeypatch):
    run, engine_run = module("run"), module("engine_run")
    monkeypatch.setattr(engine_run, "decode_steps", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run.alone("qwen3-0.6b", True, 60, tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["output_tokens_per_s"] > 0
    shown = module("report").with_bounds("qwen3-0.6b", found, True)
    assert "-" in module("report").shown("qwen3-0.6b", shown)


def test_figures_of_a_process_that_fails_later_are_incomplete(module, tmp_path, monkeypatch):
    """A script that writes its figures, and then fails or hangs with a process of its own."""
    run, script = module("run"), tmp_path / "script.py"
    text = "import subprocess, sys, pathlib\npathlib.Path(sys.argv[4]).write_text('{\"a\": 1}')\n"
    monkeypatch.setattr(run, "__file__", str(script))
    script.write_text(text + "sys.exit('out of luck')")
    assert run.child("x", 60, True, tmp_path)["incomplete"] == "out of luck"
    script.write_text(text + "subprocess.run(['sleep', '100'])")
    start = time.monotonic()
    found = run.child("x", 3, True, tmp_path)
    assert (found["a"], found["incomplete"]) == (1, "stopped after 3 s")
    assert time.monotonic() - start < 60


def test_a_process_that_fails_or_hangs(module, tmp_path):
    child = module("run").child
    found = child("no such case", 60, True, tmp_path)
    assert "no such case" in found["failed"]
    assert len(found["tail"]) > 2
    start = time.monotonic()
    assert child("kernels", 0.5, True, tmp_path)["failed"] == "stopped after 0 s"
    assert time.monotonic() - start < 20


def test_loading_and_the_peer(module):
    cpu = torch.device("cpu")
    found = module("loading").run_loading(cpu, True, 60)
    assert found["second"]["parts_s"]["load_model"] < found["second"]["first_token_s"]
    found = module("peer").run_peer(cpu, True, 120)
    assert found["stoker"]["output_tokens"] == found["transformers"]["output_tokens"]
    assert "ratio" in module("report").shown("peer", found)


@needs_triton
def test_profiles(module, tmp_path, capsys):
    path = tmp_path / "profiles.json"
    result = module("profiles").main(["--smoke", "--json", str(path)])
    assert not [name for name, part in result.items() if "failed" in part]
    assert result["steps"]["qwen3-8b, mixed, no overlap"]["kernels"]
    assert json.loads(path.read_text())["draws"]["plain_ms"] > 0
    assert "rms_norm" in capsys.readouterr().out
