"""The budget of a GPU's memory: arithmetic by property, measuring on a counter that is made up."""

import random
import types

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stoker import LLM
from stoker.cli.main import main
from stoker.config import EngineOptions
from stoker.engine.setup import sizing
from stoker.engine.setup.budget import GIB, Budget, MemoryNeeds, blocks_that_fit, suggestions
from stoker.engine.setup.cache_sizes import CacheSizes
from stoker.engine.setup.device_memory import DeviceMemory, largest_step
from stoker.errors import ConfigError


def one(block, size=16):
    """The sizes of a cache with one group."""
    return CacheSizes((block,), (None,), size, 100, 8, 40)


BYTES = st.integers(0, 200 * GIB)


@given(
    total=st.integers(1, 200 * GIB),
    share=st.floats(0.01, 1),
    parts=st.tuples(BYTES, BYTES, BYTES, BYTES),
    block=st.integers(1, 64 << 20),
    size=st.sampled_from([1, 16, 64]),
    least=st.integers(1, 1000),
    most=st.integers(1, 10**6),
)
def test_the_lines_are_the_whole_memory(total, share, parts, block, size, least, most):
    needs = MemoryNeeds(
        total, share, *(part % (total + 1) // 3 for part in parts), one(block, size)
    )
    least = min(least, most)
    if needs.left < least * block:
        with pytest.raises(ConfigError, match="are missing"):
            blocks_that_fit(needs, least, most)
        return
    budget = blocks_that_fit(needs, least, most)
    assert least <= budget.blocks <= most
    lines = dict(budget.lines())
    assert sum(lines.values()) == total
    assert all(value >= 0 for value in lines.values())
    in_use = total - lines["not used"] - lines[f"kept free (gpu_memory {share:g})"]
    assert in_use <= total * share
    assert budget.blocks == most or lines["not used"] < block, "one more block would have fitted"
    assert str(budget).count("\n") == len(lines)


@given(seed=st.integers(0, 2**32))
def test_each_remedy_is_enough(seed):
    rng = random.Random(seed)
    needs = MemoryNeeds(80 * GIB, 0.9, *(rng.randrange(40 * GIB) for _ in range(4)), one(1 << 20))
    missing = rng.randrange(1, 30 * GIB)
    found = suggestions(needs, missing, "quantization fp8")
    gains = {
        "quantization fp8": needs.weights * 0.4,
        "a quarter of max_batch_tokens": needs.activations * 0.75,
        "gpu_memory=0.97": 0.07 * needs.total,
        "cuda_graphs=False": needs.graphs,
    }
    for name, gain in gains.items():
        if abs(gain - missing) > 2:
            assert (name in found) == (gain >= missing)
    assert any(one.startswith("less held by others") for one in found) == (needs.others >= missing)
    assert found[-1] == "a smaller model or a GPU with more memory"


def test_the_table_and_the_message():
    needs = MemoryNeeds(80 * GIB, 0.9, GIB // 2, 16 * GIB, 2 * GIB, GIB, one(2 << 20))
    shown = str(blocks_that_fit(needs, 1, 10**6))
    assert "weights                                     16.00 GiB" in shown
    assert "keys and values of 430,080 tokens           52.50 GiB" in shown
    assert "kept free (gpu_memory 0.9)                   8.00 GiB" in shown
    needs = MemoryNeeds(24 * GIB, 0.9, 3 * GIB, 16 * GIB, 2 * GIB, GIB, one(2 << 20))
    with pytest.raises(ConfigError) as problem:
        blocks_that_fit(needs, 512, 10**6, "quantization fp8")
    text = str(problem.value)
    assert "1.40 GiB are missing. Of its 24.00 GiB, gpu_memory=0.9 may be used" in text
    assert "weights 16.00 GiB, activations of the largest step 2.00 GiB" in text
    assert "others, and CUDA itself 3.00 GiB" in text
    assert "quantization fp8, or a quarter of max_batch_tokens, or gpu_memory=0.97" in text
    assert "or less held by others, which have 3.00 GiB" in text


@given(
    budget=st.integers(1, 300),
    running=st.integers(1, 40),
    context=st.integers(1, 200),
    size=st.sampled_from([1, 4, 16]),
)
def test_the_largest_step(budget, running, context, size):
    step, draws = largest_step(budget, running, context, size)
    rows = min(budget, running)
    assert len(step.items) == len(draws) == rows
    assert step.num_tokens == min(budget, rows * context)
    for item in step.items:
        assert item.end <= context
        assert len(item.tables[0]) == -(-item.end // size)
        assert max(item.tables[0]) < -(-min(budget, context) // size), "in a cache of one sequence"


class Counter:
    """Stands in for torch's counters: a GPU of 1 GiB where each tensor is made up."""

    def __init__(self, monkeypatch, free=900 << 20):
        self.allocated, self.peak = 10 << 20, 0
        for name, function in {
            "mem_get_info": lambda device: (free, GIB),
            "memory_allocated": lambda device: self.allocated,
            "memory_reserved": lambda device: 60 << 20,
            "reset_peak_memory_stats": lambda device: None,
            "max_memory_allocated": lambda device: self.peak,
            "empty_cache": lambda: None,
        }.items():
            monkeypatch.setattr(torch.cuda, name, function)


def test_what_is_measured(checkpoint, monkeypatch):
    counter = Counter(monkeypatch)
    with LLM(checkpoint("qwen3").folder, overlap=False) as llm:
        memory = DeviceMemory(torch.device("cpu"))  # where the "GPU's" tensors really are
        counter.allocated += 50 << 20  # the model, and the cache of the trial
        counter.peak = counter.allocated + (7 << 20)
        config = EngineOptions(max_batch_tokens=40, max_context=100, max_running=8, block_size=4)
        block = 4 * 4 * 2 * 2 * 16 * 4
        found = sizing.gpu_budget(
            memory, llm.engine.runner.model, config, torch.float32, one(block, 4)
        )
    needs = found.needs
    assert needs.total == GIB
    assert needs.share == 0.9
    assert needs.weights == (50 << 20) - 10 * block, "the trial's cache is given back"
    assert needs.activations == (7 << 20) + 8 * 9 * (25 + 1 + 6), "and what the slots keep"
    assert needs.others == GIB - (900 << 20) - (60 << 20) + (10 << 20)
    assert found.blocks == 8 * 25, "more is of no use"


def test_running_out_while_measuring(checkpoint, monkeypatch):
    counter = Counter(monkeypatch)
    config = EngineOptions(max_batch_tokens=40, max_context=100)
    with LLM(checkpoint("qwen3").folder) as llm:
        memory = DeviceMemory(torch.device("cpu"))

        def fails(*args):
            raise torch.OutOfMemoryError("CUDA out of memory")

        monkeypatch.setattr(memory, "activations", fails)
        with pytest.raises(ConfigError, match="largest step, of max_batch_tokens=40, does not fit"):
            sizing.gpu_budget(memory, llm.engine.runner.model, config, torch.float32, one(1))
    counter.allocated += 1
    text = sizing.weights_do_not_fit(memory, 2 * GIB, config)
    assert "weights 2.00 GiB" in text
    assert "others, and CUDA itself 0.07 GiB" in text


@pytest.mark.parametrize("share", [0, -1, 1.5, True, "half"])
def test_the_share_is_checked(share):
    with pytest.raises(ConfigError, match=r"gpu_memory must lie in \(0, 1\]"):
        EngineOptions(device="cuda", gpu_memory=share)


def test_a_share_of_no_gpu(capsys, tmp_path):
    with pytest.raises(ConfigError, match=r"gpu_memory=0\.9 needs device='cuda', not 'cpu'"):
        LLM(gpu_memory=0.9)
    with pytest.raises(ConfigError, match="num_blocks or gpu_memory, not both"):
        EngineOptions(device="cuda", gpu_memory=0.9, num_blocks=3)
    (tmp_path / "in.txt").write_text("hello\n")
    command = ["run", str(tmp_path / "in.txt"), "-o", str(tmp_path / "out.jsonl")]
    assert main([*command, "--gpu-memory", "0.5"]) == 1
    assert "gpu_memory=0.5 needs device='cuda'" in capsys.readouterr().err
    assert main([*command, "--device", "cuda", "--replicas", "2"]) == 1
    assert "shares a CPU's cores; --device is cuda" in capsys.readouterr().err


def test_the_budget_is_shown(capsys):
    from stoker.cli.progress_options import say_budget

    budget = Budget(MemoryNeeds(GIB, 0.9, 0, 1 << 28, 1 << 26, 0, one(1 << 16)), 64)
    say_budget(types.SimpleNamespace(json_progress=False, quiet=False), budget)
    assert "weights                                      0.25 GiB" in capsys.readouterr().err
    say_budget(types.SimpleNamespace(json_progress=True, quiet=False), budget)
    assert '"weights": 268435456' in capsys.readouterr().err
    say_budget(types.SimpleNamespace(json_progress=False, quiet=True), budget)
    say_budget(types.SimpleNamespace(json_progress=False, quiet=False), None)
    assert capsys.readouterr().err == ""
