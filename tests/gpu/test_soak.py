"""Much of everything for a minute or so: a small cache, requests of all kinds, cancelling."""

import asyncio
import random

import pytest
import torch

from stoker import LLM, SamplingParams
from stoker.engine.request.request import Request
from stoker.llm.async_llm import AsyncLLM

pytestmark = pytest.mark.gpu
VOCAB = 300
MIB = 1 << 20


def some_request(rng, number, stems):
    """A request of random kind; every tenth is greedy, so that it can be checked."""
    prompt = rng.choice(stems)[: rng.randint(0, 60)]
    prompt += [rng.randrange(VOCAB) for _ in range(rng.randint(1, 40))]
    count = rng.randint(1, 40)
    kinds = [
        {"temperature": 0.9},
        {"temperature": 1.0, "top_k": 20, "top_p": 0.9},
        {"temperature": 0.7, "n": 3},
        {"temperature": 1.2, "min_p": 0.02, "repetition_penalty": 1.1},
        {"temperature": 0.8, "logprobs": 2},
        {"temperature": 1.0, "stop_token_ids": [7, 8, 9]},
        {"temperature": 0.5, "prompt_logprobs": 1},
    ]
    kind = {"temperature": 0} if number % 10 == 0 else rng.choice(kinds)
    params = SamplingParams(max_tokens=count, seed=number, **kind)
    return Request(f"r{number}", tuple(prompt), params, seed=number)


def test_a_soak(device, checkpoint):
    total = 5000 if device == "cuda" else 300
    rng = random.Random(0)
    stems = [[rng.randrange(VOCAB) for _ in range(60)] for _ in range(5)]
    requests = [some_request(rng, number, stems) for number in range(total)]
    options = {"device": device, "dtype": "float32", "max_batch_tokens": 256, "max_running": 64}
    done, waiting, levels = {}, list(reversed(requests)), []
    with LLM(checkpoint("llama").folder, num_blocks=40, **options) as llm:
        engine = llm.engine
        for _ in range(500):
            engine.scheduler.lengths.observe(1)  # a forecast that is wrong, so that it preempts
        while waiting or engine.has_work:
            while waiting and len(engine.scheduler.running) + engine.scheduler.num_waiting < 100:
                engine.add(waiting.pop())
            for output in engine.step():
                done[output.request_id] = output
            if rng.random() < 0.02 and engine.scheduler.running:
                request = rng.choice(engine.scheduler.running).request
                done[request.id] = engine.cancel(request.id)
            if device == "cuda" and engine.stats.steps % 200 == 0:
                levels.append(torch.cuda.memory_allocated())
        engine.scheduler.check()
        assert engine.scheduler.pool.held == 0
        assert engine.scheduler.num_preemptions > 0
        assert len(done) == total
        assert all(output.error is None for output in done.values())
        greedy = [one for one in requests if one.params.temperature == 0]
        whole = [one for one in greedy if done[one.id].outputs[0].finish_reason != "cancelled"]
        assert len(whole) > len(greedy) // 2
        alone = llm.generate(
            [list(one.prompt_token_ids) for one in whole[:50]], [one.params for one in whole[:50]]
        )
    pairs = zip(alone, whole, strict=False)
    assert all(one.outputs[0].token_ids == done[r.id].outputs[0].token_ids for one, r in pairs)
    later = levels[len(levels) // 3 :]
    assert not later or max(later) - min(later) < 64 * MIB, "memory in use grows"


def test_from_a_thread_of_its_own(device, checkpoint, prompts):
    """The asynchronous engine steps in another thread than the one that made the model."""
    model = checkpoint("qwen3")

    async def ask(face, prompt):
        params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
        outputs = [output async for output in face.generate(prompt, params)]
        return [token for output in outputs for token in output.outputs[0].token_ids]

    async def all_of_them(face):
        return await asyncio.gather(*(ask(face, prompt) for prompt in prompts))

    with LLM(model.folder, device=device, dtype="float32") as llm:
        face = AsyncLLM.from_engine(llm.engine)
        try:
            found = asyncio.run(all_of_them(face))
        finally:
            face.close()
    assert found == [model.greedy(prompt, 12) for prompt in prompts]
