"""Logits exist for the positions that need them: their memory does not grow with the prompt."""

import random

import pytest
from tensor_memory import TensorMemory
from tiny import VOCAB

from stoker import LLM, BeamSearchParams, SamplingParams
from stoker.engine.sampling import logprobs

LENGTH, ROWS = 24, 4
LONG = 8 * LENGTH


def generate(**params):
    params = {"max_tokens": 3, "ignore_eos": True, **params}
    return lambda llm, prompts: llm.generate(prompts, SamplingParams(**params))


CALLS = {
    "greedy": generate(temperature=0),
    "drawn": generate(temperature=0.8, top_p=0.9, seed=1, logprobs=3, presence_penalty=0.5),
    "samples": generate(temperature=0.8, seed=1, n=3),
    "scores": generate(temperature=0, prompt_logprobs=2),
    "beams": lambda llm, prompts: llm.beam_search(prompts, BeamSearchParams(3, 3)),
}


def logit_memory(llm, call, length):
    """The most bytes of logits at once, and the most rows of a tensor, for prompts of `length`."""
    rng = random.Random(length)  # no prefix in common with another length
    prompts = [[rng.randrange(VOCAB) for _ in range(length)] for _ in range(2)]
    memory = TensorMemory(lambda x: VOCAB in x.shape)
    with memory:
        call(llm, prompts)
    rows = [shape[0] for shape in memory.shapes if len(shape) == 2 and shape[1] == VOCAB]
    return memory.peak, max(rows, default=0)


@pytest.fixture(scope="module")
def llm(checkpoint):
    """Takes two prompts in one step, so that nothing but the positions bounds the logits."""
    with LLM(checkpoint("qwen3").folder, max_batch_tokens=2 * LONG) as llm:
        yield llm


@pytest.mark.parametrize("call", CALLS)
def test_it_is_constant(call, llm, monkeypatch):
    monkeypatch.setattr(logprobs, "CHUNK_LOGITS", ROWS * VOCAB)
    short, long = (logit_memory(llm, CALLS[call], length) for length in (LENGTH, LONG))
    assert short == long
    assert 2 <= long[1] <= 6  # two prompts, of three beams or samples


def test_pooling_makes_none(llm):
    for pooling in ("mean", "last"):
        found = logit_memory(llm, lambda llm, p, how=pooling: llm.embed(p, pooling=how), LONG)
        assert found == (0, 0)


def test_a_tensor_of_all_positions_would_be_seen(llm, monkeypatch):
    monkeypatch.setattr(logprobs, "CHUNK_LOGITS", 2 * LONG * VOCAB)
    peak, rows = logit_memory(llm, CALLS["scores"], LONG)
    assert rows == 2 * (LONG - 1)
    assert peak > 4 * rows * VOCAB
