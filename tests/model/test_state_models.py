"""Layers that keep states, in whole engines: tokens equal those of prompts run from their start."""

import random
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import toy_states
from test_graphs import with_graphs
from tiny import VOCAB

from stoker import LLM, SamplingParams
from stoker.config import EngineOptions
from stoker.engine.scheduling.forecast import Forecast
from stoker.engine.setup.cache_sizes import CacheSizes
from stoker.engine.setup.sizing import fit_running
from stoker.errors import ConfigError
from stoker.llm.beam import BeamSearchParams

COUNT = 8
SETTINGS = {
    "usual": {},
    "budget7": {"max_batch_tokens": 7, "block_size": 1, "num_blocks": 3000},
    "blocks4": {"block_size": 4, "max_batch_tokens": 16},
    "preempted": {"block_size": 4, "num_blocks": 24, "max_batch_tokens": 40},
    "few_slots": {"block_size": 4, "max_running": 3, "overlap": True},
    "ahead": {"block_size": 4, "overlap": True, "num_blocks": 40},
}


@pytest.fixture(autouse=True)
def family(monkeypatch):
    toy_states.register(monkeypatch)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = {}

    def get(kind):
        if kind not in made:
            made[kind] = str(toy_states.save(tmp_path_factory.mktemp(kind), kind))
        return made[kind]

    return get


def poison(llm):
    """Let states begin as NaN, which must not be seen."""
    cache = llm.engine.runner.cache
    for group in llm.spec.cache_groups:
        for layer in group.layers if group.keeps_state else ():
            for part in cache.layers[layer]:
                part.fill_(torch.nan)


SHARED = (0, 37, 37, 20, 37, 0, 12, 37, 37, 5)  # tokens from the same stem


@pytest.fixture(scope="module")
def some_prompts():
    rng = random.Random(3)
    stem = [rng.randrange(VOCAB) for _ in range(37)]
    return [
        stem[:shared] + [rng.randrange(VOCAB) for _ in range(rng.randint(1, 30))]
        for shared in SHARED
    ]


@pytest.fixture(scope="module")
def expected(folder, some_prompts):
    """Each token from the whole context, computed at once by an engine that reuses nothing."""
    made = {}

    def get(kind):
        if kind not in made:
            with LLM(folder(kind), prefix_cache=False, max_running=16) as llm:
                one = SamplingParams(temperature=0, max_tokens=1, ignore_eos=True)
                contexts = [list(prompt) for prompt in some_prompts]
                for _ in range(COUNT):
                    outputs = llm.generate(contexts, one)
                    for context, output in zip(contexts, outputs, strict=True):
                        context.extend(output.outputs[0].token_ids)
                made[kind] = [context[-COUNT:] for context in contexts]
        return made[kind]

    return get


CASES = [(kind, name) for kind in ("hybrid", "states") for name in SETTINGS]
CASES += [("all", "preempted"), ("all", "budget7"), ("two_states", "blocks4")]


@pytest.mark.parametrize("prefix_cache", [True, False])
@pytest.mark.parametrize(("kind", "setting"), CASES)
def test_tokens(kind, setting, prefix_cache, folder, some_prompts, expected, monkeypatch):
    few = setting == "preempted"
    if few:
        monkeypatch.setattr(Forecast, "fits", lambda *args: True)
    options = {"max_batch_tokens": 60, **SETTINGS[setting], "prefix_cache": prefix_cache}
    with LLM(folder(kind), **options) as llm:
        poison(llm)
        params = SamplingParams(temperature=0, max_tokens=COUNT, ignore_eos=True)
        for _ in range(2):
            outputs = llm.generate(some_prompts, params)
            assert [one.outputs[0].token_ids for one in outputs] == expected(kind)
        scheduler = llm.engine.scheduler
        scheduler.check()
        if prefix_cache:
            assert scheduler.states.num_restored >= (1 if few else 5)
        else:
            assert scheduler.states.num_saved == scheduler.states.num_restored == 0
        assert bool(scheduler.num_preemptions) == (few and kind != "states")


@pytest.mark.parametrize("kind", ["hybrid", "states", "all"])
def test_graphs(kind, folder, some_prompts, expected):
    options = {"block_size": 4, "max_running": 6, "max_batch_tokens": 30, "overlap": True}
    with LLM(folder(kind), **options) as llm:
        capture = with_graphs(llm)
        poison(llm)
        llm.engine.runner.draws_there = True
        params = SamplingParams(temperature=0, max_tokens=COUNT, ignore_eos=True)
        for _ in range(2):
            outputs = llm.generate(some_prompts, params)
            assert [one.outputs[0].token_ids for one in outputs] == expected(kind)
        assert capture.replayed > capture.captured > 5
        assert llm.engine.scheduler.states.num_restored > 5


@pytest.mark.parametrize("kind", ["hybrid", "states", "all"])
@pytest.mark.parametrize("overlap", [False, True])
def test_a_turn_goes_on_from_the_last_answer(kind, overlap, folder):
    """Of 30 + 50 tokens, the states after 64 are there; the answer is that of an engine without."""
    prompt = {"prompt_token_ids": [one % VOCAB for one in range(3, 33)]}
    params = SamplingParams(temperature=0, max_tokens=50, ignore_eos=True)
    found = []
    for prefix_cache in (True, False):
        with LLM(folder(kind), overlap=overlap, prefix_cache=prefix_cache) as llm:
            poison(llm)
            answer = llm.generate(prompt, params)[0].outputs[0].token_ids
            turn = {"prompt_token_ids": [*prompt["prompt_token_ids"], *answer, 5, 6, 7]}
            output = llm.generate(turn, params)[0]
            assert output.num_cached_tokens == (64 if prefix_cache else 0)
            found.append((answer, output.outputs[0].token_ids))
    assert found[0] == found[1]


@pytest.mark.parametrize("kind", ["hybrid", "states"])
def test_several_samples(kind, folder, some_prompts):
    """Each is what it is with slots for one, where it is computed from the prompt's start."""
    params = [
        SamplingParams(temperature=1.0, seed=n, n=3, max_tokens=6, ignore_eos=True)
        for n in range(len(some_prompts))
    ]
    found = []
    for options in ({"max_running": 30}, {"max_running": 4}, {"max_running": 1}):
        reuse = options["max_running"] > 1
        with LLM(folder(kind), block_size=4, prefix_cache=reuse, **options) as llm:
            poison(llm)
            outputs = llm.generate(some_prompts, params)
            found.append([[one.token_ids for one in output.outputs] for output in outputs])
            llm.engine.scheduler.check()
    assert found[0] == found[1] == found[2]
    assert all(len(set(map(tuple, samples))) > 1 for samples in found[0])


@pytest.mark.parametrize("kind", ["hybrid", "states"])
def test_other_tasks(kind, folder, some_prompts):
    """Scores of prompts, vectors and beams are the same however prompts are cut up."""
    beams = BeamSearchParams(beam_width=3, max_tokens=4)
    params = SamplingParams(temperature=0, max_tokens=3, prompt_logprobs=0, ignore_eos=True)
    found = []
    for options in ({}, {"max_batch_tokens": 7, "block_size": 4}, {"prefix_cache": False}):
        with LLM(folder(kind), max_context=100, **options) as llm:
            poison(llm)
            scores = [
                [next(iter(one.values())).logprob for one in output.prompt_logprobs[1:]]
                for output in llm.generate(some_prompts, params)
            ]
            vectors = [one.outputs.embedding for one in llm.embed(some_prompts)]
            searched = llm.beam_search([{"prompt_token_ids": one} for one in some_prompts], beams)
            tokens = [[one.tokens for one in output.sequences] for output in searched]
            found.append((scores, vectors, tokens))
    assert found[0] == found[1] == found[2]


def test_dtypes(folder, some_prompts):
    """States are of the model's dtype, or float32; FP8 is for keys and values."""
    params = SamplingParams(temperature=0, max_tokens=3, ignore_eos=True)
    for kind in ("hybrid", "states"):
        with LLM(folder(kind), dtype="bfloat16", kv_dtype="fp8") as llm:
            assert all(
                len(one.outputs[0].token_ids) == 3 for one in llm.generate(some_prompts, params)
            )
            sums, before = llm.engine.runner.cache.layers[0]
            assert (sums.dtype, before.dtype) == (torch.float32, torch.bfloat16)
            assert llm.plan.cache_memory == llm.engine.runner.cache.nbytes
            assert llm.plan.state_bytes == 2 * 48 * (4 + 2 * 2)
            assert f"  state_bytes       {llm.plan.state_bytes}" in str(llm.plan)


def test_fewer_run_where_states_do_not_fit(folder, caplog):
    """Half of 100,000 bytes holds 43 states of 1,152, one of which is nobody's."""
    for kind in ("hybrid", "states"):
        caplog.clear()
        with LLM(folder(kind), cache_memory=100_000) as llm:
            assert llm.plan.max_running == 42
            assert 50_000 < llm.plan.cache_memory == llm.engine.runner.cache.nbytes <= 100_000
        (line,) = [one.getMessage() for one in caplog.records if "max_running" in one.getMessage()]
        assert line.startswith("max_running is 42 instead of 256: a sequence's states take 1,152")
    caplog.clear()
    with LLM(folder("hybrid")) as llm:
        assert llm.plan.max_running == 256
    with LLM(folder("states"), cache_memory=100_000, max_running=60) as llm:
        assert llm.plan.max_running == 60
    assert not [one for one in caplog.records if "instead of" in one.getMessage()]
    with pytest.raises(ConfigError, match=r"states of max_running=1 sequences .* raise cache_"):
        LLM(folder("hybrid"), cache_memory=2000)


def test_a_gpu_runs_fewer_where_states_do_not_fit():
    """A GPU of 1,000 bytes, of which 900 may be used; 100 are others', 300 the model's."""
    memory = SimpleNamespace(total=1000, others=lambda: 100, held=lambda: 300)
    sizes = CacheSizes((1,), (None,), 16, 100, 256, 512, state_bytes=10, num_states=1)
    options = EngineOptions(device="cuda")
    assert fit_running(options, sizes, memory).max_running == 24
    assert fit_running(replace(options, gpu_memory=0.7), sizes, memory).max_running == 14
    assert fit_running(replace(options, max_running=256), sizes, memory) is sizes
    small = replace(sizes, state_bytes=1, max_running=249)
    assert fit_running(options, small, memory) is small


def test_states_that_do_not_fit(folder, caplog):
    """A state takes 2 * 48 * (1 + 2) * 4 = 1,152 bytes."""
    with pytest.raises(ConfigError) as refusal:
        LLM(folder("hybrid"), cache_memory=100_000, max_running=99)
    text = str(refusal.value)
    assert "the states of max_running=99 sequences take 0.00 GiB, 1,152 bytes each" in text
    assert "lower max_running to 85 or less, or raise cache_memory" in text
    with LLM(folder("states"), cache_memory=100_000, max_running=85) as llm:
        assert llm.plan.num_snapshots == 0
        assert not llm.plan.prefix_cache
    assert "prefix_cache is off: no snapshot of a sequence's states, 1,152 bytes" in caplog.text
    with pytest.raises(ConfigError, match=r"prefix_cache=True: no snapshot .* 0 blocks; raise"):
        LLM(folder("states"), cache_memory=100_000, max_running=85, prefix_cache=True)
    with pytest.raises(ConfigError, match=r"do not hold one block of .* 85 sequences included"):
        LLM(folder("hybrid"), cache_memory=100_000, max_running=85)
    with LLM(folder("states"), max_running=5) as llm:
        assert llm.plan.num_snapshots == 20
        assert llm.plan.cache_memory == (5 + 1 + 20) * 1152
