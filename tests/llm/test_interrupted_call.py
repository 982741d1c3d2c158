"""Ctrl-C while a call adds its requests, as in a notebook: the next call finds nothing of it."""

import pytest

from stoker import LLM, SamplingParams
from stoker.engine.active_request import ActiveRequest
from stoker.engine.scheduling.policy import FirstComeFirstServed, PrefixTreeOrder

PARAMS = SamplingParams(temperature=0, max_tokens=3)


@pytest.fixture(scope="module", params=["fcfs", "prefix"])
def llm(request, text_model):
    with LLM(text_model, threads=1, policy=request.param) as one:
        yield one


def interrupt(monkeypatch, owner, name, call):
    """Let the `call`-th call of a function raise KeyboardInterrupt."""
    real, calls = getattr(owner, name), []

    def stop(*args, **kwargs):
        calls.append(args)
        if len(calls) == call:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, stop)


@pytest.mark.parametrize("call", [1, 3])
@pytest.mark.parametrize("place", ["the request", "the queue"])
def test_the_next_call_is_as_if_nothing_had_been(llm, monkeypatch, place, call):
    wanted = [one.outputs[0].token_ids for one in llm.generate(["a", "b c"], PARAMS)]
    with monkeypatch.context() as patch:
        if place == "the request":
            interrupt(patch, ActiveRequest, "make", call)
        else:
            for policy in (FirstComeFirstServed, PrefixTreeOrder):
                interrupt(patch, policy, "add", call)
        with pytest.raises(KeyboardInterrupt):
            llm.generate(["hello"] * 4, PARAMS)
    assert not llm.engine.has_work
    llm.engine.scheduler.check()
    assert [one.outputs[0].token_ids for one in llm.generate(["a", "b c"], PARAMS)] == wanted
