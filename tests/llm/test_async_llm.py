"""The asynchronous face on a fake runner: concurrency, cancellation, errors, closing."""

import asyncio
import pickle
import threading
import time
from typing import ClassVar

import pytest

from stoker import LLM
from stoker.engine.blocks.groups import GroupSize
from stoker.engine.engine import Engine
from stoker.engine.execution.pending_step import CompletedStep
from stoker.engine.request.params import SamplingParams
from stoker.engine.scheduling.replay import FakeCache, hash_context
from stoker.engine.scheduling.scheduler import Scheduler
from stoker.errors import InvalidRequestError, StokerError
from stoker.llm.async_llm import Add, AsyncLLM

NEXT = hash_context(50)


class FakeRunner:
    """Runs steps on a cache of token ids; fails when told to."""

    def __init__(self):
        self.cache = FakeCache([GroupSize(64)], 4, NEXT)
        self.fail = False

    def launch(self, step, draws, pools, vectors):
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
    return engine, AsyncLLM.from_engine(engine)


def text_of(prompt, count):
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(NEXT(tuple(tokens), 0))
    return tokens[len(prompt) :]


async def tokens_of(face, prompt, count, **options):
    params = SamplingParams(max_tokens=count)
    outputs = [output async for output in face.generate(prompt, params, **options)]
    return [token for output in outputs for token in output.outputs[0].token_ids]


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
            return await tokens_of(face, [number], 10, stream=bool(number % 2))

        return await asyncio.gather(*(late(number) for number in range(30)))

    assert asyncio.run(scenario()) == [text_of([number], 10) for number in range(30)]
    face.close()
    assert engine.scheduler.pool.held == 0


def test_a_stream_gives_token_by_token():
    _, face = make()

    async def scenario():
        params = SamplingParams(max_tokens=5)
        return [len(o.outputs[0].token_ids) async for o in face.generate([3], params)]

    assert asyncio.run(scenario()) == [1] * 5
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
        assert await tokens_of(face, [4], 3) == text_of([4], 3)

    asyncio.run(scenario())
    face.close()


def test_refusals_and_failures_reach_their_callers():
    engine, face = make()

    async def scenario():
        with pytest.raises(InvalidRequestError, match="out of range"):
            await tokens_of(face, [99], 3)
        engine.runner.fail = True
        with pytest.raises(RuntimeError, match="out of order"):
            await tokens_of(face, [1], 30)
        assert await tokens_of(face, [1], 3) == text_of([1], 3)

    asyncio.run(scenario())
    face.close()


def test_callers_that_err_or_vanish_do_not_stop_the_engine():
    _, face = make()

    async def leave():
        async for _ in face.generate([1], SamplingParams(max_tokens=190)):
            break

    with pytest.raises(InvalidRequestError, match="whole numbers, not 'a'"):
        asyncio.run(tokens_of(face, ["a"], 3))
    for _ in range(5):  # each time the loop is gone while its request still runs
        asyncio.run(leave())
    assert asyncio.run(tokens_of(face, [1], 3)) == text_of([1], 3)
    face.close()


def test_a_request_that_meets_close_is_told():
    _, face = make()
    commands = face._commands

    class Between:
        """The queue, with another thread that closes just as a request arrives."""

        def get(self, **options):
            return commands.get(**options)

        def put(self, command):
            if isinstance(command, Add):
                self.other = threading.Thread(target=face.close)
                self.other.start()
                time.sleep(0.01)
            commands.put(command)

    face._commands = Between()
    with pytest.raises(StokerError, match="closed before"):
        asyncio.run(asyncio.wait_for(tokens_of(face, [1], 190), 10))
    face._commands.other.join()


def joined(outputs):
    """One output of all the deltas; says what there is of each completion."""
    found = {}
    for output in outputs:
        for one in output.outputs:
            text, ids, logprobs = found.setdefault(one.index, ["", [], []])[:3]
            found[one.index] = [
                text + one.text,
                ids + one.token_ids,
                logprobs + (one.logprobs or []),
                one.cumulative_logprob,
                one.finish_reason,
            ]
    return [found[index] for index in sorted(found)]


async def collect(face, prompt, params, **options):
    return [output async for output in face.generate(prompt, params, **options)]


def test_deltas_join_to_what_llm_gives(text_model):
    prompts = [[number, number + 1, 2] for number in range(9)] + ["hello there world"]
    params = [
        SamplingParams(
            temperature=1,
            seed=number,
            max_tokens=20,
            n=1 + number % 3,
            logprobs=number % 2 or None,
            stop=["he", "o"] if number % 4 == 3 else None,
            ignore_eos=True,
        )
        for number in range(10)
    ]
    with LLM(text_model) as llm:
        expected = [joined([output]) for output in llm.generate(prompts, params)]
    face = AsyncLLM(text_model)

    async def one(number):
        await asyncio.sleep(0.003 * number)
        return await collect(face, prompts[number], params[number])

    async def all_of_them():
        return await asyncio.gather(*map(one, range(10)))

    found = asyncio.run(all_of_them())
    assert [joined(outputs) for outputs in found] == expected
    assert [[one.finished for one in outputs].count(True) for outputs in found] == [1] * 10
    whole = asyncio.run(collect(face, prompts[0], params[0], stream=False))
    assert [joined(whole), len(whole)] == [expected[0], 1]
    face.close()


def test_chats_go_through_the_template(text_model):
    chat = [{"role": "user", "content": "hello"}]
    params = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
    with LLM(text_model) as llm:
        (expected,) = llm.chat(chat, params)
    face = AsyncLLM(text_model)

    async def scenario(**options):
        return [output async for output in face.chat(chat, params, **options)]

    found = asyncio.run(scenario())
    assert {one.prompt for one in found} == {expected.prompt}
    closed = asyncio.run(scenario(add_generation_prompt=False))
    assert expected.prompt == closed[0].prompt + "<|assistant|>"
    assert "".join(one.outputs[0].text for one in found) == expected.outputs[0].text
    face.close()


class Letters:
    """A tokenizer with a letter for each id."""

    special_tokens: ClassVar[dict[int, str]] = {}

    def decode(self, ids, *, skip_special_tokens=True):
        return "".join(chr(97 + token % 26) for token in ids)


def test_nothing_is_handed_over_twice():
    """What is sent grows with the completion, and a delta costs the same at its end."""

    def run(count):
        scheduler = Scheduler(
            groups=[GroupSize(2000)],
            block_size=4,
            max_batch_tokens=32,
            max_running=4,
            max_context=7000,
        )
        runner = FakeRunner()
        runner.launch = lambda step, *rest: CompletedStep([step.items[0].end % 50])
        face = AsyncLLM.from_engine(Engine(scheduler, runner, Letters(), vocab=50))
        begun = time.thread_time()
        outputs = asyncio.run(collect(face, [3], SamplingParams(max_tokens=count)))
        seconds = time.thread_time() - begun
        face.close()
        return outputs, seconds

    outputs, _ = run(1000)
    assert sum(len(one.outputs[0].text) for one in outputs) == 1000
    assert sum(len(one.outputs[0].token_ids) for one in outputs) == 1000
    assert len({id(one.prompt_token_ids) for one in outputs}) == 1
    short, long = (min(run(count)[1] for _ in range(2)) for count in (500, 3000))
    assert long < 2 * 6 * short  # six times the tokens; by copying it would be 36 times


def test_partial_outputs_carry_logprobs_and_errors(text_model):
    def late(outputs, logits):
        if len(outputs[0]) == 3:
            raise RuntimeError("enough")
        return logits

    face = AsyncLLM(text_model)

    def outputs(**wishes):
        params = SamplingParams(max_tokens=6, seed=1, ignore_eos=True, **wishes)
        return asyncio.run(collect(face, [5, 6, 7], params))

    steps = outputs(logprobs=1, prompt_logprobs=0)
    assert [len(one.outputs[0].logprobs) for one in steps] == [1] * 6
    assert [one.prompt_logprobs is not None for one in steps] == [True] + [False] * 5
    assert len(steps[0].prompt_logprobs) == 3
    (ranked,) = outputs(best_of=3)  # until the end nobody knows which one stays
    assert ranked.finished
    assert len(ranked.outputs[0].token_ids) == 6
    failed = outputs(logits_processors=[late])
    assert [one.finished for one in failed] == [False] * 3 + [True]
    assert failed[-1].error == "the logits processor late failed: RuntimeError: enough"
    assert joined(failed)[0][1] == joined(steps)[0][1][:3]
    face.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_when_the_engine_thread_dies_every_caller_is_told():
    engine, face = make()

    class Fatal(BaseException):
        pass

    def die(*args):
        raise Fatal("no way to go on")

    async def scenario():
        tasks = [asyncio.create_task(tokens_of(face, [n], 190)) for n in range(3)]
        await asyncio.sleep(0.01)
        engine.runner.launch = die
        tasks.append(asyncio.create_task(tokens_of(face, [7], 5)))
        found = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 30)
        assert {type(one) for one in found} == {StokerError}
        assert all("the engine has stopped: Fatal: no way to go on" in str(one) for one in found)
        with pytest.raises(StokerError, match="has stopped: Fatal"):
            await tokens_of(face, [1], 2)

    asyncio.run(scenario())
    face.close()


def test_texts_need_a_tokenizer():
    _, face = make()

    async def scenario(prompt):
        await collect(face, prompt, SamplingParams(max_tokens=2))

    for prompt in ("hello", {"prompt": "hello"}):
        with pytest.raises(InvalidRequestError, match="no tokenizer; pass token ids"):
            asyncio.run(scenario(prompt))
    face.close()


def test_closing_ends_what_is_open():
    _, face = make()

    async def scenario():
        task = asyncio.create_task(tokens_of(face, [1], 190))
        await asyncio.sleep(0.01)
        await asyncio.to_thread(face.close)
        with pytest.raises(StokerError, match="closed before"):
            await task
        with pytest.raises(StokerError, match="has been closed"):
            await tokens_of(face, [1], 2)

    asyncio.run(scenario())


def test_another_process_is_told_to_make_its_own(monkeypatch):
    _, face = make()
    with monkeypatch.context() as patch:
        patch.setattr(face._home, "_pid", -1)  # as in a child that was forked from it
        with pytest.raises(StokerError, match=r"made in process -1.*get_context\(\"spawn\"\)"):
            asyncio.run(tokens_of(face, [1], 2))
        face.close()  # has no thread to wait for
    with pytest.raises(StokerError, match="an AsyncLLM cannot be pickled"):
        pickle.dumps(face)
    assert asyncio.run(tokens_of(face, [1], 2)) == text_of([1], 2)
    face.close()
