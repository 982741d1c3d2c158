"""`step_time` on a model: chunks follow the clock, tokens don't."""

import pytest

from stoker import LLM, SamplingParams
from stoker.config import EngineOptions
from stoker.errors import ConfigError


@pytest.mark.parametrize("overlap", [False, True])
def test_tokens_are_the_same_whatever_steps_take(checkpoint, prompts, overlap):
    params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
    options = {"max_batch_tokens": 64, "overlap": overlap, "block_size": 4}
    expected = [checkpoint("qwen3").greedy(prompt, 12) for prompt in prompts]
    with LLM(checkpoint("qwen3").folder, step_time=0.001, **options) as llm:
        outputs = llm.generate([list(prompt) for prompt in prompts], params)
        short = llm.engine.stats.steps
        assert llm.engine.scheduler.step_time.seconds(8, 80) > 0
    assert [one.outputs[0].token_ids for one in outputs] == expected
    with LLM(checkpoint("qwen3").folder, step_time=60_000, **options) as llm:
        outputs = llm.generate([list(prompt) for prompt in prompts], params)
        assert llm.engine.stats.steps < short / 2
    assert [one.outputs[0].token_ids for one in outputs] == expected


@pytest.mark.parametrize("value", [0, -1, "50", True, float("inf"), float("nan")])
def test_a_time_must_be_a_number_of_milliseconds(value):
    with pytest.raises(ConfigError, match="step_time must be a number of milliseconds above 0"):
        EngineOptions(step_time=value)
