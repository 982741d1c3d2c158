"""Several threads on one LLM: each call gives what it gives alone, and nothing is left behind."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from stoker import LLM, SamplingParams
from stoker.errors import StokerError
from stoker.llm.turns import Turns

GREEDY = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
PROMPTS = ["hello", "there world", "hello there", "world", "hello hello world"]


@pytest.fixture(scope="module")
def llm(text_model):
    with LLM(text_model, max_running=4, block_size=4) as one:
        yield one


def calls(llm, number):
    """What thread `number` asks for, in an order of its own."""
    prompts = PROMPTS[number % 3 :]

    def leave_early():
        stream = llm.stream(prompts[0], SamplingParams(max_tokens=60, ignore_eos=True))
        next(stream)
        stream.close()

    def vectors():
        return [one.outputs.embedding for one in llm.embed(prompts)]

    def iterate():
        found = llm.generate_iter(iter(prompts), GREEDY, ordered=True, in_flight=2)
        return [one.outputs[0].token_ids for one in found]

    work = [
        lambda: [one.outputs[0].token_ids for one in llm.generate(prompts, GREEDY)],
        lambda: "".join(llm.stream(prompts[-1], GREEDY)),
        vectors,
        iterate,
        leave_early,
    ]
    order = [*range(len(work))] * 2
    random.Random(number).shuffle(order)
    return [(at, work[at]) for at in order]


def test_eight_threads_that_generate_stream_embed_and_cancel(llm):
    def run(number):
        return [(at, call()) for at, call in calls(llm, number)]

    expected = [run(number) for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(run, range(8), timeout=120))
    assert found == expected
    assert not llm.engine.has_work
    assert not llm.session.arrived
    assert llm.engine.scheduler.pool.held == 0


def test_two_streams_share_steps(llm):
    """The second begins while the first is under way, and neither waits for the other's end."""
    started, both = threading.Barrier(2), []

    def consume(prompt):
        stream = llm.stream(prompt, SamplingParams(temperature=0, max_tokens=30, ignore_eos=True))
        pieces = [next(stream)]
        started.wait(30)  # both have shown something, and neither is at its end
        return "".join([*pieces, *stream])

    before = llm.engine.stats.steps
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(consume, PROMPTS[:2]))
    shared = llm.engine.stats.steps - before
    before = llm.engine.stats.steps
    params = SamplingParams(temperature=0, max_tokens=30, ignore_eos=True)
    assert both == ["".join(llm.stream(prompt, params)) for prompt in PROMPTS[:2]]
    assert shared < llm.engine.stats.steps - before


def test_a_step_that_fails_ends_the_calls_of_all_threads(llm, monkeypatch):
    genuine, launched = llm.engine.runner.launch, threading.Event()
    streams = [llm.stream(prompt, GREEDY) for prompt in PROMPTS[:2]]
    for stream in streams:
        next(stream)

    def fail(*args):
        launched.set()
        raise RuntimeError("out of order")

    monkeypatch.setattr(llm.engine.runner, "launch", fail)
    with pytest.raises(RuntimeError, match="out of order"):
        list(streams[0])
    assert launched.is_set()
    monkeypatch.setattr(llm.engine.runner, "launch", genuine)
    other = llm.stream(PROMPTS[2], GREEDY)  # keeps the engine at work
    next(other)
    with pytest.raises(StokerError, match="another call on this LLM failed") as caught:
        list(streams[1])
    assert str(caught.value.__cause__) == "out of order"
    list(other)
    assert llm.generate("hello", GREEDY)[0].finished


def test_closing_ends_the_calls_of_other_threads(text_model):
    llm = LLM(text_model)
    stream = llm.stream("hello", SamplingParams(max_tokens=100, ignore_eos=True))
    next(stream)
    closer = threading.Thread(target=llm.close)
    closer.start()
    closer.join(30)
    assert not closer.is_alive()
    with pytest.raises(StokerError, match="has been closed"):
        list(stream)


def test_a_call_from_inside_a_step_is_refused(llm):
    def curious(outputs, logits):
        llm.generate("hello", GREEDY)
        return logits

    params = SamplingParams(max_tokens=3, logits_processors=[curious])
    (output,) = llm.generate("hello", params)
    assert "called from inside one of its own steps" in output.error
    assert llm.generate("hello", GREEDY)[0].finished


def test_turns_go_round():
    turns, order = Turns(), []
    ready = threading.Barrier(3)

    def work(name):
        ready.wait()
        for _ in range(20):
            with turns.take():
                order.append(name)
                threading.Event().wait(0.001)  # the others queue up meanwhile

    threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    middle = order[6:-6]
    assert all(len(set(middle[at : at + 3])) == 3 for at in range(len(middle) - 2))


def test_an_interruption_while_waiting_passes_the_turn_on(monkeypatch):
    turns = Turns()
    entered, leave = threading.Event(), threading.Event()

    def hold():
        with turns.take():
            entered.set()
            leave.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    entered.wait(30)

    class Interrupted(threading.Event):
        def wait(self, timeout=None):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("stoker.llm.turns.threading.Event", Interrupted)
        with pytest.raises(KeyboardInterrupt), turns.take():
            pytest.fail("it is not this thread's turn")
    leave.set()
    holder.join(30)
    with turns.take_if_free() as taken:
        assert taken
