"""Beam search against transformers and against a slow twin over the model's own logits."""

import pytest
import torch

from stoker import LLM, BeamSearchParams, SamplingParams
from stoker.errors import InvalidRequestError


@pytest.mark.parametrize("name", ["llama", "qwen3"])
@pytest.mark.parametrize("width", [1, 2, 5])
def test_equal_to_transformers_where_nothing_ends_early(name, width, checkpoint, prompts):
    """Without an end of sequence all have one length, and both searches mean the same."""
    model, count = checkpoint(name), 7
    with LLM(model.folder, block_size=4, max_running=11) as llm:
        found = llm.beam_search(prompts[:6], BeamSearchParams(beam_width=width, max_tokens=count))
        assert llm.engine.scheduler.tables.num_hit_tokens > 0
    for prompt, output in zip(prompts, found, strict=False):
        ids = torch.tensor([prompt])
        expected = model.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=count,
            do_sample=False,
            num_beams=width,
            num_return_sequences=width,
            length_penalty=0.0,
        )
        assert [one.tokens for one in output.sequences] == expected.tolist()
        assert {one.finish_reason for one in output.sequences} == {"length"}


def slow_search(model, prompt, width, count, ends, penalty):
    """Beam search by the book: every extension of every beam is scored in full."""
    live, done = [(0.0, prompt)], []
    for _ in range(count):
        grown = []
        for total, tokens in live:
            values, best = torch.log_softmax(model.logits(tokens)[-1], -1).topk(2 * width)
            for value, token in zip(values.tolist(), best.tolist(), strict=True):
                one = (total + value, [*tokens, token])
                (done if token in ends else grown).append(one)
        live = sorted(grown, key=lambda one: -one[0])[:width]
    scored = [
        (total / (len(tokens) - (tokens[-1] in ends)) ** penalty, total, tokens)
        for total, tokens in done + live
    ]
    return sorted(scored, key=lambda one: -one[0])[:width]


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.5, -1.0])
def test_equal_to_the_slow_twin_with_ends(checkpoint, prompts, penalty):
    model, ends = checkpoint("llama"), frozenset(range(0, 300, 6))
    params = BeamSearchParams(beam_width=3, max_tokens=5, length_penalty=penalty)
    with LLM(model.folder) as llm:
        llm.engine.scheduler.eos_ids = ends
        found = llm.beam_search(prompts[:5], params)
        free = llm.beam_search(
            prompts[:1], BeamSearchParams(beam_width=3, max_tokens=5, ignore_eos=True)
        )
    stopped = 0
    for prompt, output in zip(prompts, found, strict=False):
        expected = slow_search(model, prompt, 3, 5, ends, penalty)
        assert [one.tokens for one in output.sequences] == [tokens for *_, tokens in expected]
        totals = [total for _, total, _ in expected]
        assert [one.cum_logprob for one in output.sequences] == pytest.approx(totals, abs=1e-3)
        for one in output.sequences:
            assert (one.finish_reason == "stop") == (one.tokens[-1] in ends)
            stopped += one.finish_reason == "stop"
            assert len(one.logprobs) == len(one.tokens) - len(prompt)
            values = [
                entry[token].logprob
                for entry, token in zip(one.logprobs, one.tokens[len(prompt) :], strict=True)
            ]
            assert one.cum_logprob == pytest.approx(sum(values))
    assert stopped
    assert all(one.finish_reason == "length" for one in free[0].sequences)


def test_forms_texts_and_the_end_of_the_context(text_model):
    params = BeamSearchParams(beam_width=2, max_tokens=50, ignore_eos=True)
    with LLM(text_model, max_context=12, block_size=4) as llm:
        one, two = llm.beam_search(["hello", llm.text.encode("hello world")], params)
        for sequence in one.sequences + two.sequences:
            assert len(sequence.tokens) == 12
            assert sequence.text == llm.text.decode(sequence.tokens)
            assert sequence.finish_reason == "length"
        assert one.sequences[0].text.startswith("hello")
        assert not llm.engine.has_work
        with pytest.raises(InvalidRequestError, match="prompt 1: token id 300 is out of range"):
            llm.beam_search(["hello", [300]], params)
        with pytest.raises(InvalidRequestError, match="must be a BeamSearchParams"):
            llm.beam_search("hello", SamplingParams())
        assert not llm.engine.has_work
    with LLM(text_model, num_blocks=2, block_size=4) as llm:  # a cache smaller than the context
        (output,) = llm.beam_search([[5, 6, 7]], params)
        assert [len(sequence.tokens) for sequence in output.sequences] == [8, 8]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"beam_width": 0, "max_tokens": 1}, "beam_width must be at least 1"),
        ({"beam_width": 1, "max_tokens": 0}, "max_tokens must be at least 1"),
        ({"beam_width": 1, "max_tokens": 1, "temperature": 0.5}, "has no temperature, and 0.5"),
        ({"beam_width": 1, "max_tokens": 1, "length_penalty": "x"}, "length_penalty must be a"),
        ({"beam_width": 1, "max_tokens": 1, "top_p": 1}, "unknown beam search parameter 'top_p'"),
    ],
)
def test_bad_parameters(params, message):
    with pytest.raises(InvalidRequestError, match=message):
        BeamSearchParams(**params)
