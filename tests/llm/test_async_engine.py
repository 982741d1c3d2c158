"""The asynchronous face on a fake runner: concurrency, cancellation, errors, closing."""

import asyncio
import threading
import time

import pytest

from stoker import LLM
from stoker.engine.blocks.groups import GroupSize
from stoker.engine.engine import Engine
from stoker.engine.execution.pending_step import CompletedStep
from stoker.engine.request.params import SamplingParams
from stoker.engine.scheduling.replay import FakeCache, hash_context
from stoker.engine.scheduling.scheduler import Scheduler
from stoker.errors import InvalidRequestError, StokerError
from stoker.llm.async_engine import AsyncEngine

NEXT = hash_context(50)


class FakeRunner:
    """Runs steps on a cache of token ids; fails when told to."""

    def __init__(self):
        self.cache = FakeCache([GroupSize(64)], 4, NEXT)
        self.fail = False

    def launch(self, step, draws, pools):
        time.sleep(0.0005)
        if self.fail:
            self.fail = False
            raise RuntimeError("out of order")
        return CompletedStep(self.cache.run(step))


def make():
    scheduler = Scheduler(
        groups=[GroupSize(64)], block_size=4, max_batch_tokens=32, max_running=16, max_context=200
    )
    engine = Engine(scheduler, FakeRunner(), None, vocab=50)
    return engine, AsyncEngine(engine)


def text_of(prompt, count):
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(NEXT(tuple(tokens), 0))
    return tokens[len(prompt) :]


async def last(face, prompt, count, **options):
    params = SamplingParams(max_tokens=count)
    outputs = [output async for output in face.generate(prompt, params, **options)]
    return outputs[-1].outputs[0].token_ids


async def settled(engine):
    for _ in range(1000):
        if not engine.has_work:
            return True
        await asyncio.sleep(0.001)
    return False


def test_requests_that_come_and_go():
    engine, face = make()

    async def scenario():
        async def late(number):
            await asyncio.sleep(0.002 * number)
            return await last(face, [number], 10, stream=bool(number % 2))

        return await asyncio.gather(*(late(number) for number in range(30)))

    assert asyncio.run(scenario()) == [text_of([number], 10) for number in range(30)]
    face.close()
    assert engine.scheduler.pool.held == 0


def test_a_stream_grows_token_by_token():
    _, face = make()

    async def scenario():
        params = SamplingParams(max_tokens=5)
        return [len(o.outputs[0].token_ids) async for o in face.generate([3], params)]

    assert asyncio.run(scenario()) == [1, 2, 3, 4, 5]
    face.close()


def test_leaving_the_loop_cancels():
    engine, face = make()

    async def scenario():
        stream = face.generate([1, 2], SamplingParams(max_tokens=150))
        async for _ in stream:
            break
        await stream.aclose()
        assert await settled(engine)
        assert engine.scheduler.pool.held == 0
        assert await last(face, [4], 3) == text_of([4], 3)

    asyncio.run(scenario())
    face.close()


def test_refusals_and_failures_reach_their_callers():
    engine, face = make()

    async def scenario():
        with pytest.raises(InvalidRequestError, match="out of range"):
            await last(face, [99], 3)
        engine.runner.fail = True
        with pytest.raises(RuntimeError, match="out of order"):
            await last(face, [1], 30)
        assert await last(face, [1], 3) == text_of([1], 3)

    asyncio.run(scenario())
    face.close()


def test_callers_that_err_or_vanish_do_not_stop_the_engine():
    _, face = make()

    async def leave():
        async for _ in face.generate([1], SamplingParams(max_tokens=190)):
            break

    with pytest.raises(TypeError):
        asyncio.run(last(face, ["a"], 3))
    for _ in range(5):  # each time the loop is gone while its request still runs
        asyncio.run(leave())
    assert asyncio.run(last(face, [1], 3)) == text_of([1], 3)
    face.close()


def test_a_request_that_meets_close_is_told():
    _, face = make()
    commands = face._commands

    class Between:
        """The queue, with another thread that closes just as a request arrives."""

        def get(self, **options):
            return commands.get(**options)

        def put(self, command):
            if command is not None and not face._closed:
                self.other = threading.Thread(target=face.close)
                self.other.start()
                time.sleep(0.01)
            commands.put(command)

    face._commands = Between()
    with pytest.raises(StokerError, match="closed before"):
        asyncio.run(asyncio.wait_for(last(face, [1], 190), 10))
    face._commands.other.join()


def test_on_a_model_it_gives_what_llm_gives(text_model):
    prompts = [[number, number + 1, 2] for number in range(10)]
    params = [
        SamplingParams(temperature=1, seed=number, max_tokens=10, ignore_eos=True)
        for number in range(10)
    ]
    with LLM(text_model) as llm:
        first = [output.outputs for output in llm.generate(prompts, params)]
        second = [llm.generate([p], [s])[0].outputs for p, s in zip(prompts, params, strict=True)]
    face = AsyncEngine.from_model(text_model)

    async def one(number):
        await asyncio.sleep(0.003 * number)
        stream = face.generate(prompts[number], params[number])
        return [output async for output in stream][-1].outputs

    async def all_of_them():
        return await asyncio.gather(*map(one, range(10)))

    assert asyncio.run(all_of_them()) == first == second
    face.close()


def test_partial_outputs_carry_logprobs_and_errors(text_model):
    def late(outputs, logits):
        if len(outputs[0]) == 3:
            raise RuntimeError("enough")
        return logits

    face = AsyncEngine.from_model(text_model)

    async def outputs(**wishes):
        params = SamplingParams(max_tokens=6, seed=1, ignore_eos=True, **wishes)
        return [output async for output in face.generate([5, 6, 7], params)]

    steps = asyncio.run(outputs(logprobs=1, prompt_logprobs=0))
    assert [len(one.outputs[0].logprobs) for one in steps] == [1, 2, 3, 4, 5, 6]
    assert all(len(one.prompt_logprobs) == 3 for one in steps)
    (ranked,) = asyncio.run(outputs(best_of=3))  # until the end nobody knows which one stays
    assert ranked.finished
    failed = asyncio.run(outputs(logits_processors=[late]))
    assert [one.finished for one in failed] == [False] * 3 + [True]
    assert failed[-1].error == "the logits processor late failed: RuntimeError: enough"
    assert failed[-1].outputs[0].token_ids == steps[2].outputs[0].token_ids
    face.close()


def test_closing_ends_what_is_open():
    _, face = make()

    async def scenario():
        task = asyncio.create_task(last(face, [1], 190))
        await asyncio.sleep(0.01)
        await asyncio.to_thread(face.close)
        with pytest.raises(StokerError, match="closed before"):
            await task
        with pytest.raises(StokerError, match="has been closed"):
            await last(face, [1], 2)

    asyncio.run(scenario())
