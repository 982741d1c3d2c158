"""Switches that only save time: with each on or off, the same tokens."""

import itertools

import pytest
import torch
from test_graphs import with_graphs

from stoker import LLM, SamplingParams
from stoker.ops.native.build import load_kernels
from stoker.ops.triton.available import triton_serves

COUNT = 6
GREEDY = SamplingParams(temperature=0, max_tokens=COUNT, ignore_eos=True)
SEEDED = SamplingParams(temperature=0.9, top_p=0.9, seed=4, max_tokens=COUNT, ignore_eos=True)
BACKENDS = ["reference", "torch"] + ["native"] * (load_kernels("attention") is not None)
SWITCHES = list(itertools.product([True, False], repeat=2))


@pytest.fixture(scope="module")
def few(prompts):
    """Prompts cut into chunks, of which three begin alike; they run a few at a time."""
    return [*prompts[:3], *prompts[-3:]]


@pytest.fixture(scope="module")
def expected(checkpoint, few):
    """The greedy tokens of transformers, then those drawn without any switch on."""
    model = checkpoint("qwen3")
    with LLM(model.folder, attention_backend="reference", prefix_cache=False) as llm:
        drawn = llm.generate(few, SEEDED)
    return [model.greedy(prompt, COUNT) for prompt in few], tokens_of(drawn)


def tokens_of(outputs):
    return [output.outputs[0].token_ids for output in outputs]


def options(prefix_cache, overlap, **others):
    sizes = {"block_size": 8, "max_batch_tokens": 48, "max_running": 4}
    return {"prefix_cache": prefix_cache, "overlap": overlap, **sizes, **others}


@pytest.mark.parametrize(("prefix_cache", "overlap"), SWITCHES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_outputs_are_equal(backend, prefix_cache, overlap, checkpoint, few, expected):
    settings = options(prefix_cache, overlap, attention_backend=backend)
    with LLM(checkpoint("qwen3").folder, **settings) as llm:
        greedy = llm.generate(few, GREEDY)
        reused = any(output.num_cached_tokens for output in greedy)
        drawn = llm.generate(few, SEEDED)
    assert (tokens_of(greedy), tokens_of(drawn)) == expected
    assert reused == prefix_cache


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("batch", [1, 3, 64])
def test_outputs_are_equal_in_batches_of_any_size_by_any_number_of_threads(
    batch, threads, checkpoint, few, expected
):
    before = torch.get_num_threads()
    with LLM(checkpoint("qwen3").folder, threads=threads, max_running=batch) as llm:
        assert torch.get_num_threads() == threads
        found = [tokens_of(llm.generate(few, params)) for params in (GREEDY, SEEDED)]
    torch.set_num_threads(before)
    assert tuple(found) == expected


@pytest.mark.skipif(not triton_serves("cpu"), reason="Triton is not interpreted here")
@pytest.mark.parametrize("on", [True, False])
def test_outputs_are_equal_on_triton(on, checkpoint, few):
    """Two prompts that begin alike; the interpreter takes seconds for more."""
    model, some = checkpoint("qwen3"), [few[-1][:20], few[-2][:20]]
    params = SamplingParams(temperature=0, max_tokens=3, ignore_eos=True)
    with LLM(model.folder, **options(on, on, attention_backend="triton")) as llm:
        outputs = llm.generate(some, params)
    assert tokens_of(outputs) == [model.greedy(prompt, COUNT)[:3] for prompt in some]
    assert any(output.num_cached_tokens for output in outputs) == on


@pytest.mark.parametrize(("prefix_cache", "overlap"), SWITCHES)
def test_outputs_are_equal_by_graphs(prefix_cache, overlap, checkpoint, few, expected):
    """On a CPU a stand-in records the steps; `tests/gpu/test_engine_gpu.py` has CUDA's."""
    with LLM(checkpoint("qwen3").folder, **options(prefix_cache, overlap)) as llm:
        capture = with_graphs(llm)
        llm.engine.runner.draws_there = overlap
        greedy = llm.generate(few, GREEDY)
        drawn = llm.generate(few, SEEDED)
        assert capture.replayed > 0
    assert (tokens_of(greedy), tokens_of(drawn)) == expected
