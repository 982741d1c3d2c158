"""Programs written for vLLM: names of arguments, forms of prompts, bars, empty lists."""

import asyncio
import io

import numpy as np
import pytest
import torch

from stoker import LLM, AsyncLLM, BeamSearchParams, SamplingParams
from stoker.config import EngineOptions
from stoker.engine.request.other_names import ELSEWHERE
from stoker.errors import ConfigError, InvalidRequestError
from stoker.llm.vllm_options import FIXED, RENAMED, engine_options

FOUR = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)


@pytest.fixture(scope="module")
def llm(text_model):
    with LLM(
        model=text_model,
        tokenizer=text_model,
        trust_remote_code=True,
        tensor_parallel_size=1,
        dtype="float",
        max_model_len=256,
        max_num_seqs=8,
        max_num_batched_tokens=64,
        enable_prefix_caching=False,
        enforce_eager=True,
        swap_space=0,
        seed=None,
        disable_log_stats=True,
    ) as one:
        yield one


def answers(outputs):
    return [output.outputs[0].token_ids for output in outputs]


# -- arguments of LLM ---------------------------------------------------------------------------


def test_arguments_have_their_meaning(llm):
    plan = llm.plan
    assert (plan.max_context, plan.max_running, plan.max_batch_tokens) == (256, 8, 64)
    assert (plan.prefix_cache, plan.cuda_graphs, plan.seed) == (False, False, 0)
    assert plan.dtype == "float32"


@pytest.mark.parametrize(
    ("given", "ours"),
    [
        ({"dtype": torch.bfloat16}, {"dtype": "bfloat16"}),
        ({"dtype": "half"}, {"dtype": "float16"}),
        ({"quantization": None}, {"quantization": "auto"}),
        ({"kv_cache_dtype": "fp8_e4m3"}, {"kv_dtype": "fp8"}),
        ({"kv_cache_memory_bytes": 10**6}, {"cache_memory": 10**6}),
        ({"num_gpu_blocks_override": 9}, {"num_blocks": 9}),
        ({"enforce_eager": False}, {"cuda_graphs": "auto"}),
        ({"async_scheduling": True}, {"overlap": True}),
        ({"scheduling_policy": "fcfs"}, {"policy": "fcfs"}),
        ({"enable_prefix_caching": None, "max_num_seqs": None}, {}),
        (
            {"device": "cuda", "gpu_memory_utilization": 0.5},
            {"device": "cuda", "gpu_memory": 0.5},
        ),
    ],
)
def test_arguments_by_vllms_names(given, ours):
    assert engine_options("a model", given) == EngineOptions(**ours)


def test_every_name_is_ours_or_leads_to_one_of_ours():
    known = set(EngineOptions.__dataclass_fields__)
    assert set(RENAMED.values()) <= known
    assert not known & (FIXED.keys() | RENAMED.keys())
    assert not set(SamplingParams.__dataclass_fields__) & ELSEWHERE.keys()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tensor_parallel_size": 2}, "tensor_parallel_size=2 can't be had: a model runs on one"),
        ({"tensor_parallel_size": True}, "tensor_parallel_size=True can't be had"),
        ({"tokenizer": "another"}, "tokenizer='another' can't be had: it is in the model's folder"),
        ({"swap_space": 4}, "swap_space=4 can't be had: nothing is swapped"),
        ({"enable_lora": True}, "merge the adapter into its model"),
        ({"task": "embed"}, "task='embed' can't be had: any model loads for every call"),
        ({"max_model_len": 0}, r"max_context must be .* \(max_model_len is max_context here\)"),
        (
            {"gpu_memory_utilization": 0.9},
            r"needs device='cuda'.*gpu_memory_utilization is gpu_mem",
        ),
        ({"max_model_len": 9, "max_context": 9}, "max_model_len and max_context are the same here"),
        ({"quantization": "awq"}, "quantization='awq' is not known"),
        ({"kv_cache_dtype": "int4"}, "kv_dtype='int4' is not known"),
        ({"scheduling_policy": "priority"}, "policy='priority' is not known"),
        ({"hf_overrides": {"a": 1}}, "write it into the config.json"),
        ({"seed": [1]}, r"seed must be a whole number, not \[1\]"),
        ({"tensor_paralel_size": 1}, "unknown option 'tensor_paralel_size'"),
    ],
)
def test_arguments_that_can_not_be_had(given, message):
    with pytest.raises(ConfigError, match=message):
        engine_options("a model", given)


def test_async_llm_takes_them_too(text_model):
    async def main():
        engine = AsyncLLM(text_model, max_model_len=128, tensor_parallel_size=1)
        try:
            return (await engine.get_tokenizer()).encode("hello")
        finally:
            engine.close()

    with LLM(text_model) as llm:
        assert asyncio.run(main()) == llm.get_tokenizer().encode("hello")
    with pytest.raises(ConfigError, match="pipeline_parallel_size=2"):
        AsyncLLM(text_model, pipeline_parallel_size=2)


# -- sampling parameters ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("guided_decoding", "json_schema, regex, grammar or choice"),
        ("guided_json", "it is json_schema"),
        ("truncate_prompt_tokens", "a prompt is never cut"),
        ("max_new_tokens", "it is max_tokens"),
        ("use_beam_search", "LLM.beam_search"),
    ],
)
def test_parameters_of_other_programs(name, hint):
    with pytest.raises(InvalidRequestError, match=f"unknown sampling parameter '{name}'; .*{hint}"):
        SamplingParams(**{name: 1})


def test_the_stop_string_may_stay(llm):
    free = SamplingParams(temperature=1, seed=3, max_tokens=30, ignore_eos=True)
    whole = llm.generate("hello", free)[0].outputs[0].text
    stop = [whole[8:11], whole[8:10]]  # of two at one place the shorter is complete first
    at = min(whole.index(one) for one in stop)
    common = {"temperature": 1, "seed": 3, "max_tokens": 30, "ignore_eos": True, "stop": stop}
    for kept, end in ((False, at), (True, at + 2)):
        params = SamplingParams(**common, include_stop_str_in_output=kept)
        [one] = llm.generate("hello", params)[0].outputs
        assert one.text == whole[:end]
        assert one.finish_reason == "stop"
        assert "".join(llm.stream("hello", params)) == one.text


def test_special_tokens_may_stay(llm):
    tokenizer = llm.get_tokenizer()
    end = tokenizer.eos_token_id
    common = {"temperature": 0, "max_tokens": 3, "logit_bias": {end: 1e4}}
    for skip, text in ((True, ""), (False, "<|end|>")):
        params = SamplingParams(**common, skip_special_tokens=skip)
        [one] = llm.generate("hello", params)[0].outputs
        assert (one.token_ids, one.text) == ([end], text)
        assert one.text == tokenizer.decode(one.token_ids, skip_special_tokens=skip)
        assert "".join(llm.stream("hello", params)) == text
    user = tokenizer.convert_tokens_to_ids("<|user|>")
    params = SamplingParams(
        regex="(ab)+", stop_token_ids=[user], logit_bias={user: 50}, skip_special_tokens=False
    )
    [one] = llm.generate("hello", params)[0].outputs
    assert (one.text, one.complete) == ("ab<|user|>", True)


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("keep", [True, False])
def test_a_stop_string_that_is_a_special_token(llm, skip, keep):
    """It ends the answer in any case, and stays where special tokens do."""
    end = llm.get_tokenizer().eos_token_id
    [output] = llm.generate(
        "hello",
        SamplingParams(
            temperature=0,
            max_tokens=3,
            logit_bias={end: 1e4},
            ignore_eos=True,
            stop="<|end|>",
            include_stop_str_in_output=keep,
            skip_special_tokens=skip,
        ),
    )
    [one] = output.outputs
    assert (one.token_ids, one.finish_reason) == ([end], "stop")
    assert one.text == ("<|end|>" if keep and not skip else "")


@pytest.mark.parametrize("name", ["skip_special_tokens", "include_stop_str_in_output"])
def test_they_are_yes_or_no(name):
    with pytest.raises(InvalidRequestError, match=f"{name} must be True or False, not 'no'"):
        SamplingParams(**{name: "no"})


# -- prompts ------------------------------------------------------------------------------------


def test_token_ids_of_any_kind(llm):
    ids = llm.get_tokenizer().encode("hello there")
    expected = answers(llm.generate(ids, FOUR))
    for one in (
        np.array(ids),
        np.array(ids, np.uint16),
        torch.tensor(ids),
        torch.tensor(ids, dtype=torch.int32),
        list(np.array(ids)),
        list(torch.tensor(ids)),
        tuple(ids),
        range(ids[0], ids[0] + 1) if len(ids) == 1 else ids,
        {"prompt_token_ids": np.array(ids)},
        {"prompt_token_ids": torch.tensor(ids)},
        {"prompt_parts": [np.array(ids[:1]), ids[1:]]},
        {"prompt_token_ids": ids, "multi_modal_data": None},
        {"prompt": "hello there", "prompt_token_ids": None},
    ):
        assert answers(llm.generate(one, FOUR)) == expected, one
        assert answers(llm.generate([one], FOUR)) == expected, one
    [output] = llm.generate(np.array(ids), FOUR)
    assert set(map(type, output.prompt_token_ids)) == {int}
    for several in (np.array([ids, ids]), torch.tensor([ids, ids]), [np.array(ids), tuple(ids)]):
        assert answers(llm.generate(several, FOUR)) == expected * 2
    texts = answers(llm.generate(["hello", "there"], FOUR))
    assert answers(llm.generate(np.array(["hello", "there"]), FOUR)) == texts


def test_no_prompts_have_no_outputs(llm):
    assert llm.generate([]) == []
    assert llm.generate([], []) == []
    assert llm.generate(np.array([], dtype=str), FOUR, use_tqdm=False) == []
    assert llm.chat([]) == []
    assert llm.embed([]) == []
    assert llm.score([], []) == []
    assert llm.beam_search([], BeamSearchParams(beam_width=2, max_tokens=2)) == []


HALF = "web text \ud83d cut"
BAD = [  # a prompt and what is said of it
    (HALF, r"the text is not Unicode: its character 9 is '\\ud83d'"),
    ({"prompt": HALF}, "the text is not Unicode"),
    ("", "the prompt is empty"),
    ([], "the prompt is empty"),
    (b"hello", "the prompt is bytes; decode them to text"),
    (bytearray(b"hello"), "is bytes"),
    ({"prompt": b"hello"}, "is bytes"),
    ({"prompt_token_ids": b"hello"}, "prompt_token_ids is bytes"),
    (None, "a prompt must be text, a list of token ids or a dict, not None"),
    (0.5, "a prompt must be text"),
    ([1, 0.5], r"token ids must be whole numbers, not 0.5 \(at 1 of the prompt\); vectors go"),
    (np.array([1.0, 2.0]), "token ids must be whole numbers, not 1.0"),
    (np.array([True, False]), "token ids must be whole numbers, not True"),
    ([1, torch.tensor(True)], "token ids must be whole numbers"),
    ([1, "a"], "token ids must be whole numbers, not 'a'"),
    ([[1], [2]], r"token ids must be whole numbers, not \[1\]"),
    ([1, 300], "token id 300 is out of range"),
    ([1, np.int64(-1)], "token id -1 is out of range"),
    ({1, 2}, "must be a list of token ids, not {1, 2}"),
    ({"text": "hello"}, "a prompt dict needs one of"),
    ({"prompt": "a", "multi_modal_data": {"image": 1}}, "multi_modal_data of a prompt dict"),
    ({"prompt_parts": [[1], b"x"]}, r"prompt_parts\[1\] is bytes"),
    ({"prompt_parts": [[1], [2, 0.5]]}, r"0.5 \(at 1 of prompt_parts\[1\]\)"),
    ({"prompt_parts": [[1], torch.ones(2)]}, r"prompt_parts\[1\] must have the shape"),
    ([5] * 256, "the prompt has 256 tokens and the context is 256"),
]


@pytest.mark.parametrize(("prompt", "message"), BAD, ids=lambda one: repr(one)[:40])
def test_a_bad_prompt_is_named_by_its_index(llm, prompt, message):
    prompts = ["fine", [1, 2], prompt, "fine"]
    with pytest.raises(InvalidRequestError, match=f"^prompt 2: .*{message}"):
        llm.generate(prompts, FOUR)
    with pytest.raises(InvalidRequestError, match=f"^prompt 2: .*{message}"):
        llm.beam_search(prompts, BeamSearchParams(beam_width=1, max_tokens=1))
    with pytest.raises(InvalidRequestError, match=f"^prompt 2: .*{message}"):
        list(llm.generate_iter(prompts, FOUR))
    if "context" not in message:  # which embeddings use whole
        with pytest.raises(InvalidRequestError, match=f"^prompt 2: .*{message}"):
            llm.embed(prompts)
        with pytest.raises(InvalidRequestError, match=rf"^texts_1\[2\]: .*{message}"):
            llm.score(prompts, prompts)
        with pytest.raises(InvalidRequestError, match=rf"^texts_2\[2\]: .*{message}"):
            llm.score("fine", prompts)
    assert not llm.engine.has_work


def test_a_bad_chat_is_named_by_its_index(llm):
    fine, half = ([{"role": "user", "content": text}] for text in ("hello", HALF))
    for chat, message in (
        (half, "the text is not Unicode"),
        ([], "the chat is empty"),
        ("hello", "messages.*must be"),
        (None, "messages.*must be"),
    ):
        with pytest.raises(InvalidRequestError, match=f"^prompt 1: .*{message}"):
            llm.chat([fine, chat], FOUR)
    with pytest.raises(InvalidRequestError, match=r"^prompt 0: the text is not Unicode"):
        llm.chat(half, FOUR)
    with pytest.raises(InvalidRequestError, match="messages must be a list of messages"):
        llm.chat("hello")


def test_numbers_that_are_no_token_ids(llm):
    for prompts in ([1.0, 2.0], np.array([1.0, np.nan]), torch.ones(3), [np.float32(1)]):
        with pytest.raises(
            InvalidRequestError, match=r"^prompt 0: token ids must be whole numbers"
        ):
            llm.generate(prompts, FOUR)
    with pytest.raises(InvalidRequestError, match="pass each row of input_ids alone"):
        llm.generate(llm.get_tokenizer()(["hello"]), FOUR)


def test_bad_parameters_are_named_by_their_index(llm):
    with pytest.raises(InvalidRequestError, match=r"^prompt 1: the bad word .* is not Unicode"):
        llm.generate(["a", "b"], [FOUR, SamplingParams(bad_words=[HALF])])
    with pytest.raises(InvalidRequestError, match=r"not None \(sampling_params\[1\]\)"):
        llm.generate(["a", "b"], [FOUR, None])
    with pytest.raises(InvalidRequestError, match=r"^prompt 1: .*logprobs=301"):
        llm.generate(["a", "b"], [FOUR, SamplingParams(logprobs=301)])


# -- bars ---------------------------------------------------------------------------------------


def test_a_bar_counts_the_prompts(llm, capsys):
    plain = answers(llm.generate(["hello"] * 3, FOUR))
    assert capsys.readouterr().err == ""
    assert answers(llm.generate(["hello"] * 3, FOUR, use_tqdm=True)) == plain
    assert "3/3" in capsys.readouterr().err
    chat = [{"role": "user", "content": "hello"}]
    llm.chat([chat, chat], FOUR, use_tqdm=True)
    assert "2/2" in capsys.readouterr().err
    llm.embed(["a", "b"], use_tqdm=True)
    assert "2/2" in capsys.readouterr().err
    llm.score("a", ["b", "c"], use_tqdm=True)
    assert "3/3" in capsys.readouterr().err
    assert not llm.session._watchers


def test_a_bar_of_the_callers_own(llm):
    from tqdm import tqdm

    written = io.StringIO()
    llm.generate(["a", "b"], FOUR, use_tqdm=lambda **rest: tqdm(**rest, file=written))
    assert "2/2" in written.getvalue()


def test_a_bar_does_not_outlive_a_call_that_fails(llm, monkeypatch):
    def fail(*args):
        raise RuntimeError("no step today")

    with monkeypatch.context() as patched:
        patched.setattr(llm.engine.runner, "launch", fail)
        with pytest.raises(RuntimeError):
            llm.generate(["a", "b"], FOUR, use_tqdm=True)
    assert not llm.session._watchers
    assert len(answers(llm.generate(["a"], FOUR))[0]) == 4
