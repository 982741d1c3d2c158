"""Sampling parameters and their results through the Python face."""

import random

import pytest
import torch
from tiny import SIZES
from transformers import Gemma2Config, Gemma2ForCausalLM

from stoker import LLM, RepetitionDetectionParams, SamplingParams
from stoker.engine.request.pooling import PoolingParams
from stoker.engine.request.request import Request
from stoker.engine.scheduling.sequence import is_looping
from stoker.errors import InvalidRequestError, ModelError, StokerError

VOCAB = 300


@pytest.fixture(scope="module")
def llm(text_model):
    with LLM(text_model) as one:
        yield one


def avoid_even(outputs, logits):
    logits[:, ::2] -= 3
    return logits


def after_last(outputs, logits):
    """Depends on each row's own tokens alone."""
    for row, output in enumerate(outputs):
        if output:
            logits[row, (output[-1] + 1) % VOCAB] += 4
    return logits


WISHES = [
    {},
    {"temperature": 0},
    {"min_p": 0.1, "logprobs": 3},
    {"typical_p": 0.7, "top_k": 20},
    {"repetition_penalty": 1.5, "temperature": 0, "logprobs": 0},
    {"presence_penalty": 1.0, "frequency_penalty": 0.5, "prompt_logprobs": 2},
    {"logit_bias": {5: 3.0, 6: -4.0}, "logprobs": 5, "prompt_logprobs": 0},
    {"bad_words": ["hello", [9, 10], "e"], "n": 2},
    {"allowed_token_ids": range(20, 120), "n": 3, "logprobs": 1},
    {"min_tokens": 9, "stop_token_ids": range(0, 300, 2)},
    {"best_of": 4, "n": 2},
    {"logits_processors": [avoid_even, after_last], "logprobs": 2},
    {"logits_processors": [after_last], "n": 2, "temperature": 0},
    {"repetition_detection": RepetitionDetectionParams(4), "temperature": 0},
]


def requests():
    """Every wish on several prompts, some with a common beginning."""
    rng = random.Random(1)
    stem = [rng.randrange(VOCAB) for _ in range(40)]
    prompts, params = [], []
    for number in range(3 * len(WISHES)):
        tail = [rng.randrange(VOCAB) for _ in range(rng.randint(1, 30))]
        prompts.append(stem[: rng.choice([0, 33, 40])] + tail)
        wish = WISHES[number % len(WISHES)]
        params.append(SamplingParams(**{"max_tokens": 14, "seed": number, **wish}))
    return prompts, params


def plain(output):
    """What must not depend on anything else that runs, bit for bit."""
    return output.outputs, output.prompt_logprobs


@pytest.fixture(scope="module")
def alone(text_model):
    """Every request by itself, with nothing cached."""
    with LLM(text_model, prefix_cache=False) as one:
        prompts, params = requests()
        return [
            plain(one.generate([prompt], [wish])[0])
            for prompt, wish in zip(prompts, params, strict=True)
        ]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_batch_tokens": 7},
        {"max_running": 3},
        {"prefix_cache": False, "max_batch_tokens": 64},
        {"block_size": 4, "policy": "prefix"},
        {"block_size": 16, "num_blocks": 12},
        {"block_size": 16, "num_blocks": 12, "max_batch_tokens": 33, "prefix_cache": False},
    ],
)
def test_results_do_not_depend_on_company_chunks_cache_or_preemption(text_model, alone, options):
    with LLM(text_model, **options) as llm:
        if "num_blocks" in options:
            for _ in range(50):
                llm.engine.scheduler.lengths.observe(1)  # forecasts that are far too hopeful
        prompts, params = requests()
        for _ in range(2):  # the second time with a warm cache
            outputs = llm.generate(prompts, params)
            assert [plain(output) for output in outputs] == alone
        if "num_blocks" in options:
            assert llm.engine.scheduler.num_preemptions > 0


def test_logprobs_come_after_a_cap_of_the_logits(save_checkpoint, prompts):
    """What a family does to its logits, it does to those that score prompts as well."""
    torch.manual_seed(0)
    config = Gemma2Config(
        **SIZES, num_hidden_layers=2, final_logit_softcapping=2.0, query_pre_attn_scalar=16
    )
    model = save_checkpoint("capped", Gemma2ForCausalLM(config))
    params = SamplingParams(max_tokens=2, ignore_eos=True, logprobs=0, prompt_logprobs=0)
    with LLM(model.folder) as llm:
        (output,) = llm.generate([prompts[0]], params)
    (one,) = output.outputs
    tokens = [*prompts[0], *one.token_ids]
    expected = torch.log_softmax(model.logits(tokens).double(), -1)
    for at, entry in enumerate([*output.prompt_logprobs[1:], *one.logprobs]):
        value = expected[at, tokens[at + 1]].item()
        assert entry[tokens[at + 1]].logprob == pytest.approx(value, abs=2e-4)


def test_logprobs_are_those_of_transformers(checkpoint, prompts):
    model = checkpoint("llama")
    params = SamplingParams(max_tokens=6, ignore_eos=True, logprobs=3, prompt_logprobs=2, seed=1)
    with LLM(model.folder, max_batch_tokens=50) as llm:
        outputs = llm.generate(prompts[:6], params)
    for prompt, output in zip(prompts, outputs, strict=False):
        (one,) = output.outputs
        expected = torch.log_softmax(model.logits(prompt + one.token_ids).double(), -1)
        assert output.prompt_logprobs[0] is None
        assert len(output.prompt_logprobs) == len(prompt)
        tokens = [*prompt, *one.token_ids]
        listed = [*output.prompt_logprobs[1:], *one.logprobs]
        for at, (entry, token) in enumerate(zip(listed, tokens[1:], strict=True)):
            assert next(iter(entry)) == token
            best = expected[at].topk(3 if at >= len(prompt) - 1 else 2).indices
            assert {*best.tolist(), token} == set(entry)
            for found, logprob in entry.items():
                assert logprob.logprob == pytest.approx(expected[at, found].item(), abs=2e-4)
            ranks = {found: logprob.rank for found, logprob in entry.items()}
            assert [ranks[found] for found in best.tolist()] == list(range(1, len(best) + 1))
        pairs = zip(one.logprobs, one.token_ids, strict=True)
        total = sum(entry[token].logprob for entry, token in pairs)
        assert one.cumulative_logprob == pytest.approx(total)


def test_logprobs_have_texts_and_only_who_asks_gets_them(llm):
    params = SamplingParams(max_tokens=3, logprobs=1, prompt_logprobs=1, ignore_eos=True)
    one, two = llm.generate("hello there", [params]) + llm.generate("hello there")
    (entry, *_), token = one.outputs[0].logprobs, one.outputs[0].token_ids[0]
    assert entry[token].decoded_token == llm.text.decode([token], skip_special_tokens=False)
    assert one.prompt_logprobs[1] is not None
    assert two.outputs[0].logprobs is two.outputs[0].cumulative_logprob is None
    assert two.prompt_logprobs is None


def test_scored_prompts_use_no_cached_content_and_leave_theirs(llm):
    prompt = [5, 6, 7, 8] * 20
    scored = SamplingParams(max_tokens=1, prompt_logprobs=0)
    first = llm.generate([prompt], SamplingParams(max_tokens=1))[0]
    second = llm.generate([prompt], scored)[0]
    third = llm.generate([prompt], SamplingParams(max_tokens=1))[0]
    assert (first.num_cached_tokens, second.num_cached_tokens) == (0, 0)
    assert third.num_cached_tokens == 64
    assert second.prompt_logprobs == llm.generate([prompt], scored)[0].prompt_logprobs
    assert len(llm.generate([[5]], scored)[0].prompt_logprobs) == 1


@pytest.mark.parametrize("budget", [2048, 9])
def test_scored_and_pooled_prompts_share_steps(text_model, budget):
    rng = random.Random(2)
    prompts = [[rng.randrange(VOCAB) for _ in range(rng.randint(1, 30))] for _ in range(12)]
    params = SamplingParams(max_tokens=3, seed=1, prompt_logprobs=1, ignore_eos=True)
    poolings = [PoolingParams(pooling=name) for name in ("mean", "cls", "last")]
    requests = [
        Request(f"r{at}", tuple(prompt), params, 1, pooling=(None, *poolings)[at % 4])
        for at, prompt in enumerate(prompts)
    ]
    with LLM(text_model, max_batch_tokens=budget) as llm:
        engine, results = llm.engine, []
        for together in (True, False):
            done = {}
            for request in requests:
                engine.add(request)
                while engine.has_work and not together:
                    done.update((one.request_id, one) for one in engine.step())
            while engine.has_work:
                done.update((one.request_id, one) for one in engine.step())
            results.append([(*plain(done[one.id]), done[one.id].vector) for one in requests])
    assert results[0] == results[1]
    assert [vector is None for *_, vector in results[0]] == [True, False, False, False] * 3
    assert [scores is None for _, scores, _ in results[0]] == [False, True, True, True] * 3


def test_prompt_scores_that_are_not_finite_are_an_error(text_model, monkeypatch):
    with LLM(text_model) as llm:
        model = llm.engine.runner.model
        head = model.logits

        def broken(states):
            logits = head(states)
            logits[1:2] = torch.nan
            return logits

        monkeypatch.setattr(model, "logits", broken)
        params = SamplingParams(prompt_logprobs=0, max_tokens=2)
        with pytest.raises(ModelError, match="the output of the head is not finite"):
            llm.generate([[5, 6, 7]], params)
        monkeypatch.undo()
        assert llm.generate([[5, 6, 7]], params)[0].finished


def test_min_tokens_holds_back_every_kind_of_stop(llm):
    ends = SamplingParams(temperature=0, max_tokens=12, allowed_token_ids=[0, 50, 60])
    eos_soon = SamplingParams(
        temperature=0, max_tokens=12, logit_bias={0: 100, 50: 90}, min_tokens=5
    )
    (one,) = llm.generate("hello", eos_soon)[0].outputs
    assert one.token_ids == [50] * 5 + [0]
    assert one.finish_reason == "stop"
    letter = llm.text.decode([50])
    stop = SamplingParams(
        temperature=0, max_tokens=12, logit_bias={50: 100}, min_tokens=5, stop=letter
    )
    (one,) = llm.generate("hello", stop)[0].outputs
    assert (one.token_ids, one.text) == ([50] * 6, letter * 5)
    assert llm.generate("hello", ends)[0].finished


def test_bad_words_do_not_occur(llm):
    free = SamplingParams(
        temperature=0, max_tokens=30, logit_bias=dict.fromkeys(range(70, 76), 9.0)
    )
    text = llm.generate("hello", free)[0].outputs[0].text
    words = [text[:2], text[5:6]]
    barred = SamplingParams(
        temperature=0, max_tokens=30, logit_bias=free.logit_bias, bad_words=words
    )
    again = llm.generate("hello", barred)[0].outputs[0].text
    assert words[0] in text
    assert not any(word in again for word in words)


def test_best_of_returns_the_likeliest(llm):
    shared = {"max_tokens": 5, "seed": 3, "ignore_eos": True, "logprobs": 0}
    (every,) = llm.generate("hello", SamplingParams(n=6, **shared))
    (best,) = llm.generate("hello", SamplingParams(n=2, best_of=6, **shared))
    ranked = sorted(every.outputs, key=lambda one: -one.cumulative_logprob)[:2]
    assert [one.token_ids for one in best.outputs] == [one.token_ids for one in ranked]
    assert [one.index for one in best.outputs] == [0, 1]
    del shared["logprobs"]
    (quiet,) = llm.generate("hello", SamplingParams(n=2, best_of=6, **shared))
    assert [one.text for one in quiet.outputs] == [one.text for one in best.outputs]
    assert quiet.outputs[0].logprobs is None


def test_a_loop_ends_with_its_reason(llm):
    bias = {"temperature": 0, "logit_bias": {50: 100}, "max_tokens": 30}
    params = SamplingParams(repetition_detection=RepetitionDetectionParams(3, 1, 4), **bias)
    (one,) = llm.generate("hello", params)[0].outputs
    assert (one.token_ids, one.finish_reason) == ([50] * 4, "repetition")
    late = SamplingParams(
        repetition_detection=RepetitionDetectionParams(3, 1, 4), min_tokens=9, **bias
    )
    assert len(llm.generate("hello", late)[0].outputs[0].token_ids) == 9
    (one,) = llm.generate("hello", SamplingParams(**bias))[0].outputs
    assert (len(one.token_ids), one.finish_reason) == (30, "length")


def test_loops_are_found_as_by_the_book():
    def slow(tokens, params):
        return any(
            len(tokens) >= size * params.min_count
            and tokens[-size * params.min_count :] == tokens[-size:] * params.min_count
            for size in range(params.min_pattern_size, params.max_pattern_size + 1)
        )

    rng, seen = random.Random(0), set()
    for _ in range(3000):
        least = rng.randint(1, 3)
        params = RepetitionDetectionParams(least + rng.randint(0, 3), least, rng.randint(2, 4))
        tokens = [rng.randrange(2) for _ in range(rng.randint(1, 14))]
        start = [rng.randrange(2) for _ in range(rng.randint(0, 5))]
        assert is_looping(start + tokens, len(start), params) == slow(tokens, params)
        seen.add(slow(tokens, params))
    assert seen == {True, False}


def fails_late(outputs, logits):
    if len(outputs[0]) >= 3:
        raise RuntimeError("enough")
    return logits


def test_a_request_that_fails_loses_nobody_elses_results(llm):
    good = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
    bad = SamplingParams(
        temperature=0, max_tokens=6, ignore_eos=True, logits_processors=[fails_late], n=2
    )
    stuck = SamplingParams(allowed_token_ids=[0], min_tokens=1, max_tokens=6)
    expected = llm.generate("hello", good)[0].outputs[0]
    outputs = llm.generate(["hello"] * 5, [good, bad, good, stuck, good])
    assert [output.outputs[0] for output in outputs[::2]] == [expected] * 3
    for one in outputs[1].outputs:
        assert one.token_ids == expected.token_ids[:3]
        assert one.text
        assert one.finish_reason == "error"
        assert one.error == "the logits processor fails_late failed: RuntimeError: enough"
    assert outputs[3].outputs[0].token_ids == []
    assert outputs[3].error.startswith("no token may be drawn")
    assert outputs[0].error is None
    assert all(output.finished for output in outputs)
    assert not llm.engine.has_work
    assert llm.engine.scheduler.pool.held == 0


def test_a_stream_says_what_failed(llm):
    params = SamplingParams(max_tokens=9, ignore_eos=True, logits_processors=[fails_late])
    with pytest.raises(StokerError, match="the completion failed: the logits processor fails_late"):
        list(llm.stream("hello", params))
    assert not llm.engine.has_work
    for wish in ({"n": 2}, {"best_of": 2}, {"logprobs": 0}, {"prompt_logprobs": 0}):
        with pytest.raises(InvalidRequestError, match="a stream gives the text of one completion"):
            llm.stream("hello", SamplingParams(**wish))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"min_p": -0.1}, "min_p must lie between 0 and 1, not -0.1; 0 is off"),
        ({"typical_p": 0}, r"typical_p must lie in \(0, 1\], not 0; 1 is off"),
        ({"repetition_penalty": 0}, "repetition_penalty must be more than 0, not 0; 1 is off"),
        ({"presence_penalty": 3}, "presence_penalty must lie between -2 and 2, not 3"),
        ({"frequency_penalty": "1"}, "frequency_penalty must be a finite number, not '1'"),
        ({"logit_bias": [1]}, r"logit_bias must map token ids to numbers, not \[1\]"),
        ({"logit_bias": {"1": 2}}, "a token id of logit_bias must be a whole number, not '1'"),
        ({"logit_bias": {1: float("inf")}}, r"logit_bias\[1\] must be a finite number, not inf"),
        ({"logit_bias": {1: 1e39}}, r"logit_bias\[1\] must lie between -1e\+30 and 1e\+30"),
        ({"bad_words": "x"}, "bad_words must be a list, not 'x'"),
        ({"bad_words": [""]}, "bad_words must hold non-empty texts or lists of token ids, not ''"),
        ({"bad_words": [["a"]]}, "a token id of bad_words must be a whole number, not 'a'"),
        ({"allowed_token_ids": []}, "allowed_token_ids is empty, so no token could be drawn"),
        ({"allowed_token_ids": [-1]}, "allowed_token_ids must be at least 0"),
        ({"min_tokens": 17}, "min_tokens=17 is more than max_tokens=16"),
        ({"min_tokens": -1}, "min_tokens must be at least 0"),
        ({"logprobs": -1}, "logprobs must be at least 0, not -1"),
        ({"prompt_logprobs": 1.5}, "prompt_logprobs must be a whole number, not 1.5"),
        ({"n": 3, "best_of": 2}, "best_of=2 is less than n=3"),
        ({"temperature": 0, "best_of": 2}, "best_of=2 would draw the same completion"),
        ({"logits_processors": [5]}, "logits_processors must hold functions"),
        ({"repetition_detection": 5}, "must be a RepetitionDetectionParams, not 5"),
    ],
)
def test_bad_sampling_parameters(params, message):
    with pytest.raises(InvalidRequestError, match=message):
        SamplingParams(**params)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((0,), "max_pattern_size must be at least 1, not 0"),
        ((2, 3), "max_pattern_size must be at least 3, not 2"),
        ((2, 1, 1), "min_count must be at least 2, not 1"),
    ],
)
def test_bad_pattern_sizes(sizes, message):
    with pytest.raises(InvalidRequestError, match=message):
        RepetitionDetectionParams(*sizes)


def test_a_request_the_model_can_not_serve_leaves_nothing_behind(llm):
    params = [SamplingParams(), SamplingParams(logit_bias={300: 1.0})]
    with pytest.raises(InvalidRequestError, match="prompt 1: logit_bias holds 300"):
        llm.generate(["a", "b"], params)
    assert not llm.engine.has_work
