"""A model like Gemma 3, five of six layers with a window, on a cache with groups."""

import random

import pytest
import zoo

from stoker import LLM, SamplingParams
from stoker.engine.scheduling.forecast import Forecast

COUNT, WINDOW, SIZE = 20, 16, 4


@pytest.fixture(scope="module")
def model(save_checkpoint):
    zoo.ZOO["gemma3_long"] = (
        "Gemma3",
        {
            "sliding_window": WINDOW,
            "num_hidden_layers": 6,
            "query_pre_attn_scalar": 10,
            "sliding_window_pattern": 6,
            "rope_parameters": zoo.EACH_TYPE,
        },
    )
    try:
        return save_checkpoint("gemma3_long", zoo.make("gemma3_long"))
    finally:
        del zoo.ZOO["gemma3_long"]


@pytest.fixture(scope="module")
def long_prompts():
    """Long prompts; some begin alike, for less than a window or for several."""
    rng = random.Random(1)
    stem = [rng.randrange(zoo.VOCAB) for _ in range(120)]
    return [
        stem[:shared] + [rng.randrange(zoo.VOCAB) for _ in range(own)]
        for shared, own in ((0, 200), (120, 80), (120, 30), (10, 150), (90, 3), (0, 5))
    ]


class Watched:
    """An `LLM` whose steps are checked, and where the most blocks held at a time are noted."""

    def __init__(self, model, **options):
        self.llm = LLM(model.folder, block_size=SIZE, **options)
        self.scheduler = self.llm.engine.scheduler
        self.peak = [0] * len(self.scheduler.pool.pools)
        commit = self.scheduler.commit

        def checked(step, *rest):
            self.scheduler.check()
            held = [pool.held for pool in self.scheduler.pool.pools]
            self.peak = [max(pair) for pair in zip(self.peak, held, strict=True)]
            return commit(step, *rest)

        self.scheduler.commit = checked

    def run(self, prompts, n=1):
        params = SamplingParams(n=n, temperature=0, max_tokens=COUNT, stop_token_ids=[10**6])
        outputs = self.llm.generate(prompts, params)
        assert self.scheduler.pool.held == 0
        return [[one.token_ids for one in output.outputs] for output in outputs], outputs


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("chunk", [512, 33, 6])
def test_tokens_are_unchanged(model, long_prompts, chunk, overlap):
    expected = [model.greedy(prompt, COUNT) for prompt in long_prompts]
    run = Watched(model, max_batch_tokens=chunk, overlap=overlap)
    assert len(run.peak) == 2
    for _ in range(2):
        tokens, outputs = run.run(long_prompts)
        assert tokens == [[one] for one in expected]
    # the second time all but what is left of the last block is found
    hits = [output.num_cached_tokens for output in outputs]
    assert hits == [(len(prompt) - 1) // SIZE * SIZE for prompt in long_prompts]
    tokens, _ = run.run(long_prompts[:3], n=3)
    assert tokens == [[one] * 3 for one in expected[:3]]


@pytest.mark.parametrize("prefix_cache", [False, True])
@pytest.mark.parametrize("num_blocks", [60, 75])
def test_preempted(model, long_prompts, prefix_cache, num_blocks, monkeypatch):
    monkeypatch.setattr(Forecast, "fits", lambda *_: True)
    run = Watched(model, num_blocks=num_blocks, max_batch_tokens=40, prefix_cache=prefix_cache)
    expected = [model.greedy(prompt, COUNT) for prompt in long_prompts]
    assert run.run(long_prompts, n=2)[0] == [[one] * 2 for one in expected]
    assert run.scheduler.num_preemptions > 0


def test_what_is_held(model):
    """One long sequence: all of it in the one full layer, a window and a chunk in the others."""
    prompt = random.Random(2).choices(range(zoo.VOCAB), k=220)
    run = Watched(model, max_batch_tokens=24)
    assert run.run([prompt])[0] == [[model.greedy(prompt, COUNT)]]
    window, full = run.peak
    assert full == (220 + COUNT + SIZE - 2) // SIZE
    assert window <= (WINDOW + 24) // SIZE + 1
    assert [len(group.layers) for group in run.llm.spec.cache_groups] == [5, 1]
