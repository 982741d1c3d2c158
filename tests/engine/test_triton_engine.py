"""The engine on the Triton attention, interpreted, and on keys and values in FP8."""

import logging

import pytest
import torch

from stoker import LLM, SamplingParams
from stoker.config import EngineOptions
from stoker.errors import ConfigError
from stoker.ops.triton.available import triton_serves

needs_triton = pytest.mark.skipif(not triton_serves("cpu"), reason="Triton is not interpreted here")
STEPS = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)


def tokens(folder, prompts, params=STEPS, **options):
    with LLM(folder, **options) as llm:
        outputs = llm.generate(prompts, params)
    return [completion.token_ids for output in outputs for completion in output.outputs]


@needs_triton
@pytest.mark.parametrize("name", ["llama", "qwen3_window"])
def test_triton_gives_the_same_greedy_tokens(name, checkpoint, prompts):
    """Ragged prefills in chunks beside decodes, some of which share a prefix of a block or two."""
    folder, some = checkpoint(name).folder, [*prompts[:2], *prompts[-3:]]
    options = {"block_size": 8, "max_batch_tokens": 48}
    expected = tokens(folder, some, **options)
    assert tokens(folder, some, attention_backend="triton", **options) == expected


@needs_triton
def test_triton_reads_the_quantised_pages_that_the_reference_reads(checkpoint, prompts):
    folder, some = checkpoint("qwen3").folder, prompts[-2:]
    expected = tokens(folder, some, kv_dtype="fp8", attention_backend="reference")
    assert tokens(folder, some, kv_dtype="fp8", attention_backend="triton") == expected


def test_fp8_keys_and_values_on_a_cpu(checkpoint, prompts, caplog):
    folder = checkpoint("qwen3").folder
    with caplog.at_level(logging.WARNING), LLM(folder, kv_dtype="fp8", cache_memory=10**6) as llm:
        eighth = llm.plan.num_blocks
    assert caplog.text.count("slow reference") == 1
    with LLM(folder, cache_memory=10**6) as llm:
        assert eighth // 4 == llm.plan.num_blocks


def test_fp8_survives_forks_and_preemption(checkpoint, prompts):
    """Copied pages and pages written again hold the same bits."""
    folder = checkpoint("qwen3").folder
    alone = tokens(folder, prompts[-3:], kv_dtype="fp8", prefix_cache=False)
    forked = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True, n=2)
    options = {"kv_dtype": "fp8", "block_size": 16, "num_blocks": 14, "max_batch_tokens": 16}
    assert tokens(folder, prompts[-3:], forked, **options) == [x for x in alone for _ in range(2)]


@torch.inference_mode()
def test_fp8_changes_logits_a_little(checkpoint, prompts):
    """Log-probabilities of a prompt's tokens, against float32; and not nothing."""
    params = SamplingParams(temperature=0, max_tokens=1, ignore_eos=True, prompt_logprobs=0)
    found = []
    for kv_dtype in ("auto", "fp8"):
        with LLM(checkpoint("qwen3").folder, kv_dtype=kv_dtype) as llm:
            (output,) = llm.generate([prompts[-1]], params)
        found.append([next(iter(entry.values())) for entry in output.prompt_logprobs[1:]])
    plain, quantised = (torch.tensor([getattr(x, "logprob", x) for x in one]) for one in found)
    assert 0 < (plain - quantised).abs().mean() < 0.3


def test_settings_are_checked():
    with pytest.raises(ConfigError, match="kv_dtype='fp4' is not known"):
        EngineOptions(kv_dtype="fp4")
    with pytest.raises(ConfigError, match=r"attention_backend='tritan' is not known; .*triton"):
        EngineOptions(attention_backend="tritan")


def test_a_backend_that_is_not_there_is_named(checkpoint):
    with pytest.raises(ConfigError, match=r"'varlen' does not serve float32 on cpu.*one of: "):
        LLM(checkpoint("qwen3").folder, attention_backend="varlen")
