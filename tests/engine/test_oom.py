"""Out of memory at chosen steps: the same results in smaller steps, or a plain error."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker import LLM, SamplingParams
from stoker.engine.blocks.groups import GroupSize
from stoker.engine.engine import Engine
from stoker.engine.execution.pending_step import CompletedStep
from stoker.engine.request.params import SamplingParams as Params
from stoker.engine.request.pooling import PoolingParams
from stoker.engine.request.request import Request
from stoker.engine.scheduling.replay import FakeCache, hash_context, replay, save_trace
from stoker.engine.scheduling.scheduler import Scheduler
from stoker.errors import StokerError

VOCAB = 50
CPU = "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"
PROBLEMS = [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError(CPU)]


class Runner:
    """The fake model, which fails in some steps, after it has written to some blocks."""

    def __init__(self, scheduler, fails):
        self.scheduler, self.fails = scheduler, fails
        self.cache = FakeCache(scheduler.pool.groups, scheduler.block_size, hash_context(VOCAB))
        self.runs = 0

    def launch(self, step, draws, pools, vectors):
        self.runs += 1
        if self.fails(self.runs, step):
            raise PROBLEMS[self.runs % 3]
        for scores in draws.scores:
            scores.scores.found.extend(scores.targets)
        return CompletedStep(self.cache.run(step))


def run_all(requests, fails, **changes):
    sizes = {
        "num_blocks": 24,
        "block_size": 4,
        "max_batch_tokens": 32,
        "max_running": 8,
        "max_context": 64,
    }
    sizes |= changes
    groups = [GroupSize(sizes.pop("num_blocks"))]
    scheduler = Scheduler(**sizes, groups=groups, eos_ids=frozenset({7}))
    engine = Engine(scheduler, Runner(scheduler, fails), None, VOCAB, record=True)
    for request in requests:
        engine.add(request)
    done = {}
    while engine.has_work:
        for output in engine.step():
            found = [(one.token_ids, one.finish_reason) for one in output.outputs]
            done[output.request_id] = found
        scheduler.check()
        assert scheduler.max_running <= scheduler.max_batch_tokens
    assert scheduler.pool.held == 0
    return done, engine


def some_requests(rng, count=12):
    stem = [rng.randrange(VOCAB) for _ in range(16)]
    return [
        Request(
            f"r{number}",
            (
                *stem[: rng.randint(0, 16)],
                *(rng.randrange(VOCAB) for _ in range(rng.randint(1, 9))),
            ),
            Params(max_tokens=rng.randint(1, 20), n=rng.choice([1, 1, 3])),
        )
        for number in range(count)
    ]


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    limit=st.integers(1, 31),
    every=st.integers(2, 30),
    prefix=st.booleans(),
)
def test_results_are_the_same(seed, limit, every, prefix):
    requests = some_requests(random.Random(seed))
    expected, _ = run_all(requests, lambda run, step: False, prefix_cache=prefix)
    found, _ = run_all(requests, lambda run, step: step.num_tokens > limit, prefix_cache=prefix)
    assert found == expected
    rng = random.Random(seed)
    fails = lambda run, step: step.num_tokens > 1 and rng.randrange(every) == 0  # noqa: E731
    found, _ = run_all(requests, fails, prefix_cache=prefix)
    assert found == expected


def test_limits_are_halved_and_it_is_noted_once(caplog):
    requests = some_requests(random.Random(0))
    _, engine = run_all(requests, lambda run, step: step.num_tokens > 5, num_blocks=48)
    assert engine.stats.out_of_memory >= 2
    assert 2 <= engine.scheduler.max_batch_tokens <= 5
    notes = [one.message for one in caplog.records if "out of memory" in one.message]
    assert len(notes) == 1
    assert "out of memory in a step of 32 tokens of 4 sequences" in notes[0]
    assert "at most 16 tokens and 4 sequences at a time" in notes[0]


def test_the_smallest_step_fails():
    with pytest.raises(StokerError, match="out of memory in a step of one token"):
        run_all(some_requests(random.Random(0)), lambda run, step: run > 3)


def test_other_failures_are_passed_on():
    def fails(run, step):
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        run_all(some_requests(random.Random(0)), fails)


def test_a_trace_holds_the_steps_that_ran(tmp_path):
    _, engine = run_all(some_requests(random.Random(1)), lambda run, step: run in (3, 9))
    path = tmp_path / "trace"
    save_trace(path, [GroupSize(24)], 4, engine.loop.trace)
    assert replay(path) == engine.stats.steps


@pytest.mark.parametrize("late", [False, True])
def test_a_real_model(text_model, late, monkeypatch):
    """Scores, pooled means, constraints and log-probabilities, undone before or after the work."""
    prompts = [f"hello there, world number {n}, " * (1 + n % 3) for n in range(10)]
    params = [
        SamplingParams(max_tokens=12, seed=n, **rest)
        for n, rest in enumerate(
            [{"prompt_logprobs": 2}, {"logprobs": 1, "n": 2}, {"regex": "[a-z ]{4,30}"}, {}, {}] * 2
        )
    ]

    def work(llm):
        found = [
            (
                [(c.token_ids, c.text, c.finish_reason, c.logprobs) for c in o.outputs],
                o.prompt_logprobs,
            )
            for o in llm.generate(prompts, params)
        ]
        requests = [
            Request(
                f"p{n}",
                tuple(llm.text.encode(text)),
                Params(),
                pooling=PoolingParams(pooling="mean"),
            )
            for n, text in enumerate(prompts)
        ]
        return found, [one.vector for one in llm.session.run(lambda: requests)]

    with LLM(text_model, max_batch_tokens=40) as llm:
        expected = work(llm)
    with LLM(text_model, max_batch_tokens=40) as llm:
        runner, runs = llm.engine.runner, []
        genuine = runner.launch

        def launch(step, *rest):
            runs.append(step)
            bad = len(runs) % 5 == 2 and step.num_tokens > 4
            if bad and not late:
                raise torch.OutOfMemoryError("CUDA out of memory")
            tokens = genuine(step, *rest)
            if bad:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return tokens

        monkeypatch.setattr(runner, "launch", launch)
        assert work(llm) == expected
        assert llm.engine.stats.out_of_memory > 1
