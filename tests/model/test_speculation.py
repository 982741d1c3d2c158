"""Drafts on a real model: the tokens of no drafts, and of transformers, in fewer steps."""

import random

import pytest

from stoker import LLM, SamplingParams

COUNT = 20
SETTINGS = {
    "mixed": {},
    "budget40": {"max_batch_tokens": 40, "max_running": 6},
    "few_blocks": {"num_blocks": 14, "block_size": 16},
    "no_prefix_cache": {"prefix_cache": False, "num_blocks": 30},
}


class Hints:
    """Drafts from texts that are known, with random mistakes.

    texts: (prompt, sample index) -> all tokens of the completion.
    """

    def __init__(self, texts, share):
        self.texts, self.share, self.rng = texts, share, random.Random(5)

    def propose(self, sequences, limits):
        return [self.guess(seq) for seq in sequences]

    def guess(self, seq):
        text = self.texts[seq.request.prompt_token_ids, seq.index][seq.generated :]
        some = text[: self.rng.randint(0, 6)]
        return [
            token if self.rng.random() < self.share else self.rng.randrange(200) for token in some
        ]


def run(folder, prompts, params, texts=None, share=1.0, there=False, **options):
    """Outputs, and the engine's counts of steps and of accepted drafts."""
    with LLM(folder, **options) as llm:
        engine, accepted = llm.engine, []
        engine.runner.draws_there = there
        if "num_blocks" in options:
            engine.scheduler.lengths.observe(1)  # a hopeful forecast, so some are preempted
        if texts is not None:
            engine.scheduler.proposer = Hints(texts, share)
            commit = engine.scheduler.commit

            def watch(step, tokens):
                advanced = commit(step, tokens)
                engine.scheduler.check()
                accepted.append(sum(engine.scheduler.accepted.values()))
                return advanced

            engine.scheduler.commit = watch
        outputs = [one.outputs for one in llm.generate(prompts, params)]
        return outputs, engine.stats.steps, sum(accepted)


def texts_of(prompts, outputs):
    return {
        (tuple(prompt), one.index): one.token_ids
        for prompt, completions in zip(prompts, outputs, strict=True)
        for one in completions
    }


@pytest.mark.parametrize("setting", SETTINGS)
def test_greedy_tokens_equal_transformers(setting, checkpoint, prompts):
    model, some = checkpoint("qwen3"), prompts[::3]
    params = SamplingParams(temperature=0, max_tokens=COUNT, ignore_eos=True)
    expected = [model.greedy(prompt, COUNT) for prompt in some]
    texts = {(tuple(prompt), 0): text for prompt, text in zip(some, expected, strict=True)}
    outputs, steps, accepted = run(model.folder, some, params, texts, 0.7, **SETTINGS[setting])
    assert [one[0].token_ids for one in outputs] == expected
    assert accepted > COUNT
    if setting == "mixed":
        assert steps < COUNT


@pytest.mark.parametrize("there", [False, True])
def test_sampled_tokens_are_those_of_no_drafts(there, checkpoint, prompts):
    """Temperatures, filters, forks, stop ids, and rows with controls, which are not drafted."""
    folder, some = checkpoint("qwen3").folder, [*prompts[:6], *prompts[-4:]]
    kinds = [
        {},
        {"top_k": 8},
        {"top_p": 0.8, "n": 3},
        {"temperature": 0},
        {"frequency_penalty": 0.5},
        {"stop_token_ids": range(40)},
        {"logprobs": 1},
    ]
    params = [
        SamplingParams(
            **{"temperature": 0.9, "max_tokens": 12 + n, "ignore_eos": True, "seed": n}
            | kinds[n % len(kinds)]
        )
        for n in range(len(some))
    ]
    expected, steps, _ = run(folder, some, params)
    texts = texts_of(some, expected)
    outputs, fewer, accepted = run(folder, some, params, texts, 0.8, there)
    assert outputs == expected
    assert fewer < steps
    assert accepted > 40


def test_bad_drafts_cost_steps_nothing_else(checkpoint, prompts):
    folder, some = checkpoint("llama").folder, prompts[:5]
    params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
    expected, steps, _ = run(folder, some, params)
    outputs, same, accepted = run(folder, some, params, texts_of(some, expected), 0.0)
    assert outputs == expected
    assert same <= steps
    assert accepted < 3
