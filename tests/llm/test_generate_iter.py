"""`LLM.generate_iter`: the outputs of `generate`, from prompts that are read as needed."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker import LLM, SamplingParams
from stoker.errors import InvalidRequestError


@pytest.fixture(scope="module")
def llm(text_model):
    with LLM(text_model, max_running=4) as one:
        yield one


def shown(output):
    return output.index, [(one.token_ids, one.text, one.finish_reason) for one in output.outputs]


def work(seed, count):
    rng = random.Random(seed)
    prompts = ["hello world, hello there"[: rng.randint(1, 24)] for _ in range(count)]
    params = [
        SamplingParams(max_tokens=rng.randint(1, 9), seed=n, n=rng.choice([1, 2]))
        for n in range(count)
    ]
    return prompts, params


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    count=st.integers(0, 14),
    in_flight=st.sampled_from([None, 1, 2, 5]),
    ordered=st.booleans(),
)
def test_the_same_as_generate(llm, seed, count, in_flight, ordered):
    prompts, params = work(seed, count)
    expected = [shown(one) for one in llm.generate(prompts, params)] if prompts else []
    found = llm.generate_iter(
        (one for one in prompts), iter(params), ordered=ordered, in_flight=in_flight
    )
    found = [shown(one) for one in found]
    if not ordered:
        found.sort()
    assert found == expected
    assert not llm.engine.has_work


def test_seeds_are_those_of_generate(text_model):
    prompts = ["hello"] * 6
    with LLM(text_model, seed=5) as llm:
        expected = [shown(one) for one in llm.generate(prompts, SamplingParams())]
    with LLM(text_model, seed=5) as llm:
        found = llm.generate_iter(iter(prompts), SamplingParams(), ordered=True)
        assert [shown(one) for one in found] == expected


@pytest.mark.parametrize("ordered", [False, True])
def test_an_endless_iterable_is_read_as_needed(llm, ordered):
    read = []

    def prompts():
        for number in itertools.count():
            read.append(number)
            yield f"hello {number}"

    params = SamplingParams(max_tokens=3)
    results = llm.generate_iter(prompts(), params, ordered=ordered, in_flight=5)
    assert not read
    for taken in range(1, 20):
        output = next(results)
        assert len(read) <= taken - 1 + 5 + 4
        assert not ordered or output.index == taken - 1
    assert llm.engine.has_work
    results.close()
    assert not llm.engine.has_work
    assert not llm.session.arrived


def test_others_may_run_between(llm):
    prompts, params = work(1, 8)
    expected = [shown(one) for one in llm.generate(prompts, params)]
    one = llm.generate_iter(prompts, params, ordered=True)
    two = llm.generate_iter(prompts, params, ordered=True)
    found = []
    for left, right in zip(one, two, strict=True):
        assert shown(left) == shown(right)
        llm.generate("hello", SamplingParams(max_tokens=2))
        found.append(shown(left))
    assert found == expected


@pytest.mark.parametrize("ordered", [False, True])
def test_what_was_read_before_a_problem_is_yielded(llm, ordered):
    params = SamplingParams(max_tokens=3)
    results = llm.generate_iter(["hello", "there", [], "world"], params, ordered=ordered)
    found = []
    with pytest.raises(InvalidRequestError, match="prompt 2: the prompt is empty"):
        found.extend(iter(lambda: next(results).index, None))
    assert sorted(found) == [0, 1]

    def broken():
        yield "hello"
        raise KeyError("the file is gone")

    results = llm.generate_iter(broken(), params)
    assert next(results).index == 0
    with pytest.raises(KeyError, match="the file is gone"):
        next(results)
    assert not llm.engine.has_work


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("hello",), "prompts must be an iterable"),
        ((5,), "prompts must be an iterable"),
        ((["hello"], 5), "sampling_params must be a SamplingParams or an iterable"),
        ((["hello"], SamplingParams(bad_words=[[10**6]])), "bad_words holds 1000000"),
    ],
)
def test_bad_arguments(llm, arguments, message):
    with pytest.raises(InvalidRequestError, match=message):
        llm.generate_iter(*arguments)


def test_too_few_parameters(llm):
    results = llm.generate_iter(["a", "b"], [SamplingParams(max_tokens=1)])
    assert next(results).index == 0
    with pytest.raises(InvalidRequestError, match="prompt 1: it has no SamplingParams"):
        next(results)
    with pytest.raises(InvalidRequestError, match="in_flight must be at least 1"):
        llm.generate_iter(["a"], in_flight=0)
