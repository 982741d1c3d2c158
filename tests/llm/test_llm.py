"""The Python face: forms of prompts, results, and every bad input with its message."""

import gc
import math
import weakref

import pytest

from stoker import LLM, SamplingParams
from stoker.errors import ConfigError, InvalidRequestError, StokerError

FOUR = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)


@pytest.fixture(scope="module")
def llm(text_model):
    with LLM(text_model) as one:
        yield one


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"max_tokens": 0}, "max_tokens must be at least 1, not 0"),
        ({"max_tokens": -3}, "max_tokens must be at least 1, not -3"),
        ({"max_tokens": 1.5}, "max_tokens must be a whole number"),
        ({"temperature": -0.1}, r"temperature must be 0 \(greedy\) or more"),
        ({"temperature": math.nan}, "temperature must be a finite number"),
        ({"top_p": 0}, r"top_p must lie in \(0, 1\]"),
        ({"top_p": 1.1}, r"top_p must lie in \(0, 1\]"),
        ({"top_k": -2}, "top_k must be at least -1"),
        ({"n": 0}, "n must be at least 1"),
        ({"n": 2**63}, "n must be at most 16384"),
        ({"best_of": 16385}, "best_of must be at most 16384"),
        ({"stop": 5}, "stop must be a list, not 5"),
        ({"stop_token_ids": 5}, "stop_token_ids must be a list, not 5"),
        ({"stop": [""]}, "stop must hold non-empty strings"),
        ({"stop_token_ids": [-1]}, "stop_token_ids must be at least 0"),
        ({"temprature": 1}, "unknown sampling parameter 'temprature'; did you mean 'temperature'"),
    ],
)
def test_bad_sampling_parameters(params, message):
    with pytest.raises(InvalidRequestError, match=message):
        SamplingParams(**params)


@pytest.mark.parametrize(
    ("prompts", "params", "message"),
    [
        ("", None, "prompt is empty"),
        ([[]], None, "prompt 0: the prompt is empty"),
        ([[1], [5] * 512], None, "prompt 1: the prompt has 512 tokens and the context is 512"),
        ([[1, 300]], None, "token id 300 is out of range; the model has ids 0 to 299"),
        ([[1, -1]], None, "token id -1 is out of range"),
        ([[1, "a"]], None, "token ids must be whole numbers, not 'a'"),
        (["a", "b"], [FOUR], "there are 2 prompts and 1 sampling parameters"),
        (["a"], [{"temperature": 0}], "must hold SamplingParams, not {'temperature': 0}"),
        ("a", {"temperature": 0}, "must be a SamplingParams or a list of them"),
        ({"text": "x"}, None, "needs one of 'prompt', 'prompt_token_ids', 'prompt_embeds'"),
        (7, None, "prompts must be text"),
    ],
)
def test_bad_prompts_leave_nothing_behind(llm, prompts, params, message):
    with pytest.raises(InvalidRequestError, match=message):
        llm.generate(prompts, params)
    assert not llm.engine.has_work
    assert len(llm.generate("hello", FOUR)[0].outputs[0].token_ids) == 4


def test_bad_options(text_model):
    with pytest.raises(ConfigError, match="unknown option 'blok_size'; did you mean 'block_size'"):
        LLM(text_model, blok_size=3)
    with pytest.raises(ConfigError, match="block_size must be a whole number of at least 1"):
        LLM(text_model, block_size=0)
    with pytest.raises(ConfigError, match="policy='lifo' is not known"):
        LLM(text_model, policy="lifo")
    with pytest.raises(ConfigError, match="not both"):
        LLM(text_model, num_blocks=3, cache_memory=3)


def test_bad_chats(llm):
    with pytest.raises(InvalidRequestError, match="the chat is empty"):
        llm.chat([[]])
    with pytest.raises(InvalidRequestError, match=r"messages\[0\] \(role 'user'\) has no content"):
        llm.chat([{"role": "user"}])
    chat = [{"role": "user", "content": "hello"}]
    with pytest.raises(InvalidRequestError, match=r"messages\[1\]\[1\] must be an object"):
        llm.chat([chat, [*chat, "x"]])
    with pytest.raises(InvalidRequestError, match="tools: the model's chat template does not"):
        llm.chat(chat, tools=[{"type": "function", "function": {"name": "f"}}])
    with pytest.raises(InvalidRequestError, match="does not read 'enable_thinking'"):
        llm.chat(chat, chat_template_kwargs={"enable_thinking": False})


def test_all_forms_of_a_prompt_agree(llm):
    ids = llm.text.encode("hello")
    forms = ["hello", {"prompt": "hello"}, ids, {"prompt_token_ids": ids}]
    answers = [llm.generate(form, FOUR)[0].outputs[0].token_ids for form in forms]
    answers += [output.outputs[0].token_ids for output in llm.generate(forms, FOUR)]
    assert answers == [answers[0]] * 8


def test_results_come_in_the_order_of_the_prompts(llm):
    prompts = [f"hello {number}" for number in range(9)]
    params = [SamplingParams(max_tokens=9 - number, ignore_eos=True) for number in range(9)]
    outputs = llm.generate(prompts, params)
    assert [output.prompt for output in outputs] == prompts
    assert [len(output.outputs[0].token_ids) for output in outputs] == list(range(9, 0, -1))
    assert all(output.finished for output in outputs)
    assert {output.outputs[0].finish_reason for output in outputs} == {"length"}


def test_chat_goes_through_the_template(llm):
    chat = [{"role": "user", "content": "hello"}]
    (output,) = llm.chat(chat, FOUR)
    assert output.prompt == "<|user|>hello<|end|><|assistant|>"
    assert output.prompt_token_ids == llm.text.encode(output.prompt)
    assert [one.prompt for one in llm.chat([chat, chat], FOUR)] == [output.prompt] * 2
    parts = [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]
    assert llm.chat(parts, FOUR)[0].prompt == output.prompt
    (closed,) = llm.chat(chat, FOUR, add_generation_prompt=False)
    assert closed.prompt == "<|user|>hello<|end|>"
    (begun,) = llm.chat(
        [*chat, {"role": "assistant", "content": "I"}], FOUR, continue_final_message=True
    )
    assert begun.prompt == "<|user|>hello<|end|><|assistant|>I"


def test_stop_ids_and_end_of_sequence(llm):
    free = llm.generate("hello", SamplingParams(temperature=0, max_tokens=12, ignore_eos=True))
    tokens = free[0].outputs[0].token_ids
    stop = tokens[5]
    params = SamplingParams(temperature=0, max_tokens=12, stop_token_ids=[stop], ignore_eos=True)
    (output,) = llm.generate("hello", params)
    assert output.outputs[0].token_ids == tokens[: tokens.index(stop) + 1]
    assert output.outputs[0].finish_reason == "stop"


def test_stop_strings_end_the_text(llm):
    params = SamplingParams(temperature=1, seed=3, max_tokens=30, ignore_eos=True)
    whole = llm.generate("hello", params)[0].outputs[0]
    stop = whole.text[8:11]
    params = SamplingParams(temperature=1, seed=3, max_tokens=30, ignore_eos=True, stop=stop)
    short = llm.generate("hello", params)[0].outputs[0]
    assert short.text == whole.text[: whole.text.index(stop)]
    assert short.finish_reason == "stop"
    assert len(short.token_ids) < len(whole.token_ids)
    assert not llm.engine.has_work


def test_seeds(text_model):
    params = SamplingParams(temperature=1, max_tokens=12, ignore_eos=True)
    runs = []
    for seed in (0, 0, 1):
        with LLM(text_model, seed=seed) as one:
            outputs = one.generate(["hello"] * 2, params)
            runs.append([output.outputs[0].token_ids for output in outputs])
    assert runs[0] == runs[1] != runs[2]
    assert runs[0][0] != runs[0][1]


def test_streaming_gives_the_same_text(llm):
    params = SamplingParams(temperature=1, seed=5, max_tokens=30, ignore_eos=True)
    pieces = list(llm.stream("hello", params))
    assert len(pieces) > 1
    assert "".join(pieces) == llm.generate("hello", params)[0].outputs[0].text


def test_leaving_a_stream_early_cancels_it(llm):
    for _ in llm.stream("hello", SamplingParams(max_tokens=100, ignore_eos=True)):
        break
    gc.collect()
    assert not llm.engine.has_work
    assert llm.engine.scheduler.pool.held == 0


def test_an_interrupted_call_leaves_the_engine_usable(llm, monkeypatch):
    runner, calls = llm.engine.runner, []
    launch = runner.launch

    def interrupt(step, *rest):
        calls.append(step)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return launch(step, *rest)

    monkeypatch.setattr(runner, "launch", interrupt)
    with pytest.raises(KeyboardInterrupt):
        llm.generate(["hello"] * 5, SamplingParams(max_tokens=20))
    monkeypatch.undo()
    assert not llm.engine.has_work
    assert llm.engine.scheduler.pool.held == 0
    assert len(llm.generate("hello", FOUR)[0].outputs[0].token_ids) == 4


@pytest.mark.parametrize("place", ["_collect", "_draws"])
def test_an_interruption_anywhere_in_a_step_leaves_the_engine_usable(llm, monkeypatch, place):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(llm.engine, place, interrupt)
    with pytest.raises(KeyboardInterrupt):
        llm.generate(["hello"] * 3, FOUR)
    monkeypatch.undo()
    assert not llm.engine.has_work
    assert llm.engine.scheduler.pool.held == 0
    assert len(llm.generate("hello", FOUR)[0].outputs[0].token_ids) == 4


def test_streams_and_calls_on_one_engine_do_not_mix(llm):
    params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
    prompts = ["hello", "there world"]
    expected = [output.outputs[0].text for output in llm.generate(prompts, params)]
    streams, texts = [llm.stream(prompt, params) for prompt in prompts], ["", ""]
    for turn in range(60):
        for number, stream in enumerate(streams):
            texts[number] += next(stream, "")
        if turn == 3:
            again = llm.generate(prompts, params)
            assert [output.outputs[0].text for output in again] == expected
    assert texts == expected
    assert not llm.engine.has_work


def test_close_gives_the_memory_back(text_model):
    first = LLM(text_model)
    weights = weakref.ref(first.engine.runner.model.embedding)
    cache = weakref.ref(first.engine.runner.cache)
    first.close()
    first.close()
    assert weights() is None
    assert cache() is None
    with pytest.raises(StokerError, match="has been closed"):
        first.generate("hello", FOUR)
    with LLM(text_model) as second:
        assert second.generate("hello", FOUR)[0].finished
