"""Every family against transformers: the same greedy tokens and logits, however work is cut."""

import functools
import random

import pytest
from zoo import CONTEXTS, VOCAB, ZOO, make

from stoker import LLM, SamplingParams

COUNT = 12
SETTINGS = {
    "mixed": {},
    "budget7": {"max_batch_tokens": 7, "block_size": 1, "num_blocks": 2000},
    "blocks64": {"block_size": 64, "prefix_cache": False},
    "preempted": {"block_size": 4, "num_blocks": 20},
    "preempted_without_prefix_cache": {"block_size": 4, "num_blocks": 20, "prefix_cache": False},
}


@pytest.fixture(scope="session")
def zoo(save_checkpoint):
    """A function from a row of zoo.py to its `Checkpoint`."""
    return functools.cache(lambda name: save_checkpoint(name, make(name)))


@pytest.fixture(scope="session")
def short_prompts():
    """Ten ragged prompts, some past the windows of 16, some with a common beginning."""
    rng = random.Random(3)
    stem = [rng.randrange(VOCAB) for _ in range(24)]
    ragged = [[rng.randrange(VOCAB) for _ in range(n)] for n in (1, 3, 15, 17, 33, 40)]
    return ragged + [stem[:20] + [rng.randrange(VOCAB) for _ in range(n)] for n in (1, 5, 9, 18)]


@pytest.mark.parametrize("name", ZOO)
def test_tokens_and_logits_equal_transformers(name, zoo, short_prompts):
    model, context = zoo(name), CONTEXTS.get(name)
    expected = [model.greedy(prompt, COUNT) for prompt in short_prompts]
    assert len({tuple(tokens) for tokens in expected}) > 5, "the model repeats itself"
    for setting, options in SETTINGS.items():
        with LLM(model.folder, max_context=context, **options) as llm:
            worst = watch_logits(llm, model)
            tokens = generate(llm, short_prompts)
            if setting.startswith("preempted"):
                assert llm.engine.scheduler.num_preemptions > 0
        assert tokens == [[one] for one in expected], setting
        assert 0 < worst() < 1e-4, setting
    with LLM(model.folder, max_context=context, max_batch_tokens=20) as llm:
        tokens = generate(llm, short_prompts, n=3)
    assert tokens == [[one] * 3 for one in expected]


def generate(llm, prompts, n=1):
    if llm.config.num_blocks == 20:
        llm.engine.scheduler.lengths.observe(1)  # a forecast that is wrong, so that it preempts
    params = SamplingParams(n=n, temperature=0, max_tokens=COUNT, stop_token_ids=[10**6])
    return [[one.token_ids for one in output.outputs] for output in llm.generate(prompts, params)]


def watch_logits(llm, model):
    """Compare the logits of every draw; the result gives the largest difference so far."""
    runner, scheduler, worst = llm.engine.runner, llm.engine.scheduler, 0.0
    forward = runner.forward

    def compare(step):
        nonlocal worst
        logits = forward(step)
        drawn = [item for item in step.items if item.draws]
        for item, row in zip(drawn, logits, strict=True):
            prompt = scheduler[item.sequence].request.prompt_token_ids
            whole = model.logits([*prompt, *model.greedy(prompt, COUNT)])
            worst = max(worst, (row - whole[item.end - 1]).abs().max().item())
        return logits

    runner.forward = compare
    return lambda: worst
