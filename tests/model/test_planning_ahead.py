"""A real model with the overlap loop: the tokens of the plain one, and of transformers."""

import dataclasses
import random

import pytest
import torch

from stoker import LLM, SamplingParams
from stoker.errors import ConfigError, ModelError

COUNT = 24
GREEDY = SamplingParams(temperature=0, max_tokens=COUNT, ignore_eos=True)
SETTINGS = {
    "mixed": {},
    "budget7": {"max_batch_tokens": 7},
    "few_blocks": {"num_blocks": 12},
    "no_prefix_cache": {"prefix_cache": False, "num_blocks": 12},
}


def launched_ahead(llm):
    """Steps that are launched with a token still under way, counted while they are."""
    runner, seen = llm.engine.runner, []
    launch = runner.launch

    def watch(step, *rest):
        seen.append(any(item.tokens[-1] < 0 for item in step.items))
        return launch(step, *rest)

    runner.launch = watch
    return seen


@pytest.mark.parametrize("setting", SETTINGS)
def test_greedy_tokens_equal_transformers(setting, checkpoint, prompts):
    model = checkpoint("qwen3")
    with LLM(model.folder, overlap=True, **SETTINGS[setting]) as llm:
        if "num_blocks" in SETTINGS[setting]:
            llm.engine.scheduler.lengths.observe(1)
        seen = launched_ahead(llm)
        params = SamplingParams(temperature=0, max_tokens=COUNT, stop_token_ids=[10**6])
        outputs = llm.generate(prompts, params)
        if "num_blocks" in SETTINGS[setting]:
            assert llm.engine.scheduler.num_preemptions > 0
    assert sum(seen) > COUNT / 2
    found = [output.outputs[0].token_ids for output in outputs]
    assert found == [model.greedy(prompt, COUNT) for prompt in prompts]


def random_params(rng, number):
    rest = rng.choice(
        [{}, {}, {}, {"n": 2}, {"logprobs": 1}, {"regex": "[a-z ]{3,20}"}, {"stop": ["a"]}]
    )
    return SamplingParams(
        temperature=rng.choice([0.0, 0.7, 1.3]),
        top_k=rng.choice([0, 5]),
        top_p=rng.choice([1.0, 0.9]),
        prompt_logprobs=rng.choice([None, None, None, 1]),
        stop_token_ids=rng.sample(range(300), 30),
        seed=number,
        max_tokens=rng.randint(1, 20),
        **rest,
    )


def test_all_kinds_of_requests_together(text_model):
    rng = random.Random(2)
    prompts = [f"hello there, world number {n}, " * (1 + n % 3) for n in range(24)]
    params = [random_params(rng, number) for number in range(24)]

    def run(overlap):
        with LLM(text_model, max_batch_tokens=40, max_running=9, overlap=overlap) as llm:
            seen = launched_ahead(llm)
            outputs = llm.generate(prompts, params)
            vectors = [one.outputs for one in llm.embed(prompts)]
            # more of the same once something has been discarded
            again = llm.generate(prompts[:3], params[:3])
        assert overlap == any(seen)
        return [(one.outputs, one.prompt_logprobs) for one in (*outputs, *again)], vectors

    assert run(True) == run(False)


def test_draws_on_the_device(text_model):
    """As on a GPU: tokens stay there for the next step, and come here when they are waited for."""
    rng = random.Random(3)
    prompts = [f"hello there, world number {n}, " * (1 + n % 3) for n in range(24)]
    params = [random_params(rng, number) for number in range(24)]

    def run(there, **options):
        with LLM(text_model, **{"max_batch_tokens": 40, "max_running": 9, **options}) as llm:
            llm.engine.runner.draws_there = there
            return [(one.outputs, one.prompt_logprobs) for one in llm.generate(prompts, params)] + [
                one.outputs for one in llm.embed(prompts[:5])
            ]

    expected = run(False)
    for overlap in (True, False):
        assert run(True, overlap=overlap) == expected
    # slots change hands all the time, also those of a step under way
    assert run(True, overlap=True, max_running=2) == expected


def square(outputs, logits):
    """A logits processor whose result depends on the tokens so far."""
    for row, output in enumerate(outputs):
        logits[row, 3 * len(output) + sum(output) % 5 :: 7] *= 1.5
    return logits


CONTROLS = {
    "penalties": {"repetition_penalty": 1.3, "frequency_penalty": 0.4},
    "bias": {"logit_bias": {5: 2.0, 9: 3.0}},
    "bars": {"bad_words": [[5, 6], [7], [8, 8]], "min_tokens": 6},
    "allowed": {"allowed_token_ids": range(50, 90)},
    "regex": {"regex": "[a-z]{2,5}( [a-z]{2,5}){0,3}"},
    "processor": {"logits_processors": [square]},
    "logprobs": {"logprobs": 3},
    "tails": {"min_p": 0.02, "typical_p": 0.9},
}


@pytest.mark.parametrize("there", [True, False])
def test_draws_under_controls_do_not_wait(there, text_model):
    """Kinds whose draws come late, others, and all of them, beside plain rows."""
    prompts = [f"hello there, world number {n}, " * (1 + n % 3) for n in range(8)]

    def run(overlap, kinds):
        params = [
            SamplingParams(
                temperature=0.0 if n == 3 else 0.8,
                max_tokens=8,
                seed=n,
                stop_token_ids=range(20 * n, 20 * n + 20),
                **(CONTROLS[kinds[n % len(kinds)]] if n % 4 < 3 else {}),
            )
            for n in range(8)
        ]
        with LLM(text_model, max_batch_tokens=60, max_running=6, overlap=overlap) as llm:
            llm.engine.runner.draws_there = there
            seen = launched_ahead(llm)
            outputs = [one.outputs for one in llm.generate(prompts, params)]
        return outputs, sum(seen) / len(seen)

    late = ["penalties", "bars", "regex", "processor"]
    for kinds in (late, [kind for kind in CONTROLS if kind not in late], [*CONTROLS]):
        expected, never = run(False, kinds)
        found, share = run(True, kinds)
        assert found == expected
        assert never == 0
        assert share > 0.5


def test_a_processor_that_fails_in_a_step_ahead_ends_its_row(text_model):
    def fails(outputs, logits):
        if any(len(output) == 3 for output in outputs):
            raise ValueError("three is too many")
        return logits

    params = [SamplingParams(max_tokens=8, ignore_eos=True, seed=n) for n in range(3)]
    params[1] = dataclasses.replace(params[1], logits_processors=[fails])

    def run(overlap):
        with LLM(text_model, overlap=overlap) as llm:
            outputs = [one.outputs[0] for one in llm.generate(["a", "bc", "def"], params)]
        return outputs

    outputs = run(True)
    assert outputs == run(False)
    assert [one.finish_reason for one in outputs] == ["length", "error", "length"]
    assert len(outputs[1].token_ids) == 3
    assert "three is too many" in outputs[1].error


def test_logits_that_are_not_finite_are_found_when_the_tokens_come(text_model, monkeypatch):
    params = SamplingParams(temperature=0, max_tokens=9, ignore_eos=True)
    with LLM(text_model, overlap=True) as llm:
        llm.engine.runner.draws_there = True
        expected = [one.outputs for one in llm.generate(["hello", "there"], params)]
        model, calls = llm.engine.runner.model, []
        head = model.logits

        def broken(states, value=torch.nan):
            calls.append(states)
            logits = head(states)
            if len(calls) > 3:
                logits[1] = value
            return logits

        monkeypatch.setattr(model, "logits", broken)
        with pytest.raises(ModelError, match="the output of the head is not finite"):
            llm.generate(["hello", "there"], params)
        assert not llm.engine.has_work
        monkeypatch.setattr(model, "logits", lambda states: broken(states, 3e38))
        (one, two) = llm.generate(["hello", "there"], params)
        assert one.outputs == expected[0], "just the sum of the other row leaves the range"
        assert two.finished
        monkeypatch.undo()
        assert [one.outputs for one in llm.generate(["hello", "there"], params)] == expected


def test_the_setting():
    with pytest.raises(ConfigError, match="overlap must be True, False or 'auto', not 'on'"):
        LLM(overlap="on")
    with LLM() as llm:
        assert llm.plan.overlap is False, "a CPU has no use for it"
