"""The oracle: the same greedy tokens and logits as transformers, however work is scheduled."""

import random

import pytest
import torch

from stoker import LLM, SamplingParams
from stoker.ops.attention_cpu import CpuAttention
from stoker.ops.native.build import load_kernels
from stoker.ops.select import Operations

COUNT = 24
GREEDY = SamplingParams(temperature=0, max_tokens=COUNT, ignore_eos=True)

SETTINGS = {
    "mixed": {},
    "budget7": {"max_batch_tokens": 7},
    "block1": {"block_size": 1, "num_blocks": 4000},
    "block16": {"block_size": 16},
    "block64": {"block_size": 64},
    "no_prefix_cache": {"prefix_cache": False},
    "prefix_policy": {"policy": "prefix", "max_running": 5},
}


def tokens_of(outputs):
    return [output.outputs[0].token_ids for output in outputs]


@pytest.mark.parametrize("name", ["llama", "qwen3"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_greedy_tokens_equal_transformers(name, setting, checkpoint, prompts):
    model = checkpoint(name)
    with LLM(model.folder, **SETTINGS[setting]) as llm:
        outputs = llm.generate(prompts, GREEDY)
    assert tokens_of(outputs) == [model.greedy(prompt, COUNT) for prompt in prompts]


@pytest.mark.parametrize("name", ["llama", "qwen3"])
@pytest.mark.parametrize("prefix_cache", [True, False])
def test_greedy_tokens_survive_preemption(name, prefix_cache, checkpoint, prompts):
    model = checkpoint(name)
    with LLM(model.folder, num_blocks=12, prefix_cache=prefix_cache) as llm:
        llm.engine.scheduler.lengths.observe(1)
        params = SamplingParams(
            temperature=0, max_tokens=COUNT, ignore_eos=False, stop_token_ids=[10**6]
        )
        outputs = llm.generate(prompts, params)
        assert llm.engine.scheduler.num_preemptions > 0
    assert tokens_of(outputs) == [model.greedy(prompt, COUNT) for prompt in prompts]


@pytest.mark.parametrize("name", ["llama_bias", "qwen3_window"])
def test_biases_and_windows(name, checkpoint, prompts):
    model = checkpoint(name)
    with LLM(model.folder, max_batch_tokens=50) as llm:
        outputs = llm.generate(prompts, GREEDY)
    assert tokens_of(outputs) == [model.greedy(prompt, COUNT) for prompt in prompts]


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_samples_of_one_prompt(name, checkpoint, prompts):
    model = checkpoint(name)
    params = SamplingParams(n=3, temperature=0, max_tokens=COUNT, ignore_eos=True)
    with LLM(model.folder) as llm:
        outputs = llm.generate(prompts[:12], params)
    for prompt, output in zip(prompts, outputs, strict=False):
        assert [one.token_ids for one in output.outputs] == [model.greedy(prompt, COUNT)] * 3


def test_a_second_run_hits_the_cache_and_changes_nothing(checkpoint, prompts):
    with LLM(checkpoint("qwen3").folder) as llm:
        first = llm.generate(prompts, GREEDY)
        second = llm.generate(prompts, GREEDY)
    assert tokens_of(first) == tokens_of(second)
    long = [n for n, prompt in enumerate(prompts) if len(prompt) > 16]
    assert all(second[n].num_cached_tokens >= 16 for n in long)


@pytest.mark.parametrize("name", ["llama", "qwen3"])
@pytest.mark.parametrize("options", [{}, {"max_batch_tokens": 7}, {"block_size": 1}])
def test_logits_agree(name, options, checkpoint, prompts):
    model, worst = checkpoint(name), 0.0
    with LLM(model.folder, num_blocks=4000, **options) as llm:
        runner, scheduler = llm.engine.runner, llm.engine.scheduler
        forward = runner.forward

        def compare(step, *rest, **how):
            nonlocal worst
            logits = forward(step, *rest, **how)
            drawn = [item for item in step.items if item.draws]
            assert logits.shape[0] == len(drawn)
            for item, row in zip(drawn, logits, strict=True):
                tokens = scheduler[item.sequence].tokens
                expected = model.logits(tokens[: item.end])[-1]
                worst = max(worst, (row - expected).abs().max().item())
            return logits

        runner.forward = compare
        llm.generate(prompts[:8], SamplingParams(temperature=0, max_tokens=4, ignore_eos=True))
    assert 0 < worst < 1e-4


def random_params(rng, number):
    return SamplingParams(
        temperature=rng.choice([0.0, 0.7, 1.3]),
        top_k=rng.choice([0, 5, 40]),
        top_p=rng.choice([1.0, 0.9, 0.5]),
        seed=number,
        max_tokens=16,
        n=rng.choice([1, 2]),
        ignore_eos=True,
    )


def test_a_sampled_result_does_not_depend_on_its_neighbours(checkpoint, prompts):
    rng = random.Random(1)
    params = [random_params(rng, number) for number in range(len(prompts))]
    folder = checkpoint("llama").folder

    def run(**options):
        with LLM(folder, **options) as llm:
            if "num_blocks" in options:
                llm.engine.scheduler.lengths.observe(1)
            outputs = llm.generate(prompts, params)
        return [[one.token_ids for one in output.outputs] for output in outputs]

    together = run()
    assert run(max_batch_tokens=9) == together
    assert run(num_blocks=12, prefix_cache=False) == together
    assert run(policy="prefix", max_running=3) == together
    with LLM(folder) as llm:
        for number in range(0, len(prompts), 5):
            (alone,) = llm.generate([prompts[number]], params[number])
            assert [one.token_ids for one in alone.outputs] == together[number]


def test_plain_operations_give_the_same_tokens(checkpoint, prompts):
    """Where no C compiler is at hand, PyTorch's own operations serve."""
    model = checkpoint("qwen3")
    with LLM(model.folder) as llm:
        llm.engine.runner.model.ops = Operations(CpuAttention())
        outputs = llm.generate(prompts, GREEDY)
    assert tokens_of(outputs) == [model.greedy(prompt, COUNT) for prompt in prompts]


def test_sharded_checkpoints_load_alike(checkpoint, prompts, tmp_path):
    model = checkpoint("llama")
    model.model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    with LLM(str(tmp_path)) as llm:
        outputs = llm.generate(prompts[:4], GREEDY)
    assert tokens_of(outputs) == [model.greedy(prompt, COUNT) for prompt in prompts[:4]]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_runs(dtype, checkpoint, prompts):
    model = checkpoint("qwen3")
    with LLM(model.folder, dtype=dtype) as llm:
        assert llm.engine.runner.cache.layers[0][0].dtype == getattr(torch, dtype)
        outputs = llm.generate(prompts[:8], GREEDY)
    first = [tokens[0] for tokens in tokens_of(outputs)]
    expected = [model.greedy(prompt, COUNT)[0] for prompt in prompts[:8]]
    assert sum(a == b for a, b in zip(first, expected, strict=True)) >= 6


@pytest.mark.skipif(load_kernels("attention") is None, reason="no C compiler")
def test_logits_have_the_same_bits_however_work_is_scheduled(checkpoint, prompts):
    """Prefilled whole, in chunks, decoded, recomputed after preemption, alone or in company."""

    def run(chosen, **options):
        seen = {}
        with LLM(checkpoint("qwen3").folder, **options) as llm:
            runner, scheduler = llm.engine.runner, llm.engine.scheduler
            if options.get("num_blocks") == 12:
                scheduler.lengths.observe(1)
            forward = runner.forward

            def keep(step, *rest, **how):
                logits = forward(step, *rest, **how)
                drawn = [item for item in step.items if item.draws]
                for item, row in zip(drawn, logits, strict=True):
                    seq = scheduler[item.sequence]
                    seen[tuple(seq.request.prompt_token_ids), item.end] = row.clone()
                return logits

            runner.forward = keep
            params = SamplingParams(temperature=0, max_tokens=COUNT, stop_token_ids=[10**6])
            llm.generate(chosen, params)
            return seen, scheduler.num_preemptions

    together, _ = run(prompts)
    assert len(together) == len(prompts) * COUNT
    runs = [run(prompts, max_batch_tokens=7), run(prompts, num_blocks=12, prefix_cache=False)]
    runs += [run([prompt]) for prompt in prompts[::8]]
    assert runs[1][1] > 0
    for seen, _ in runs:
        assert all(torch.equal(row, together[key]) for key, row in seen.items())


def test_decodes_ride_along_with_one_chunk(checkpoint, prompts):
    """Each step of a long prefill holds one chunk, and a decode of every other sequence."""
    model, long = checkpoint("qwen3"), [prompt[-1] for prompt in prompts] * 4
    chosen = [*(prompt[:2] for prompt in prompts[:8]), long]
    steps = []
    with LLM(model.folder, max_batch_tokens=16) as llm:
        scheduler, plan = llm.engine.scheduler, llm.engine.scheduler.plan

        def keep():
            steps.append(plan())
            return steps[-1]

        scheduler.plan = keep
        outputs = llm.generate(chosen, GREEDY)
    assert tokens_of(outputs) == [model.greedy(prompt, COUNT) for prompt in chosen]
    widths = [sorted(len(item.tokens) for item in step.items) for step in steps]
    assert widths.count([*[1] * 8, 8]) >= 14
