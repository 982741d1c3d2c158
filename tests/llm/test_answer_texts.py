"""Texts and log-probabilities of answers that tokens cut, by kind of tokenizer."""

import asyncio
import json

import pytest
import torch
from tiny import SIZES
from tokenizers_of_kinds import make_codec
from transformers import Qwen3Config, Qwen3ForCausalLM

from stoker import LLM, AsyncLLM, SamplingParams
from stoker.job.job import JobSettings, prepare_job, run_job
from stoker.llm.beam import BeamSearchParams

SPECIAL = ("<unk>", "<s>", "</s>")
TEXT = "line\n日本語 it is"


@pytest.fixture(scope="module", params=["byte-level", "byte fallback", "word pieces, cleaned up"])
def model(request, tmp_path_factory):
    """The folder of a tiny model with a tokenizer of some kind."""
    folder = tmp_path_factory.mktemp("model")
    codec = make_codec(request.param, folder)
    torch.manual_seed(0)
    sizes = {**SIZES, "vocab_size": len(codec.tokenizer) + 2, "num_hidden_layers": 1}
    Qwen3ForCausalLM(Qwen3Config(**sizes)).save_pretrained(folder)
    return folder, request.param


@pytest.fixture(scope="module")
def llm(model):
    with LLM(str(model[0])) as made:
        yield made


def saying(ids, **changes):
    """Parameters of an answer that has these tokens."""

    def force(outputs, logits):
        for row, before in enumerate(outputs):
            logits[row] = float("-inf")
            logits[row, ids[len(before)]] = 0
        return logits

    return SamplingParams(
        temperature=0,
        max_tokens=len(ids),
        ignore_eos=True,
        logits_processors=[force],
        **changes,
    )


async def joined(face, params):
    return "".join([one.outputs[0].text async for one in face.generate([5, 6], params)])


def test_an_answer_cut_inside_a_character_is_the_same_however_it_is_asked_for(model, llm):
    folder, kind = model
    ids = llm.text.encode_plain(TEXT)
    face = AsyncLLM(str(folder))
    for count in range(1, len(ids) + 1):
        params = saying(ids[:count])
        stopping = saying(ids[:count], stop=["\0"])
        outputs = llm.generate([[5, 6], [5, 6]], [params, stopping])
        plain, stopped = (one.outputs[0].text for one in outputs)
        assert "".join(llm.stream([5, 6], params)) == plain == stopped
        assert asyncio.run(joined(face, params)) == plain
        if kind.startswith("byte"):
            whole = plain.removesuffix("\ufffd")
            assert TEXT.startswith(whole)
            assert len(plain) - len(whole) <= 1
    assert plain == llm.text.tokenizer.decode(ids)
    face.close()


def test_bytes_of_log_probabilities_join_to_the_text(model, llm):
    ids = [2, *llm.text.encode_plain(TEXT)[:-1], 2]  # special tokens around it
    output = llm.generate([ids], saying(ids, logprobs=3, prompt_logprobs=3))[0]
    chosen = [next(iter(entry.values())) for entry in output.outputs[0].logprobs]
    data = b"".join(one.bytes for one in chosen)
    if model[1].startswith("byte"):
        assert data.decode("utf-8", "replace") == output.outputs[0].text
    assert chosen[0].decoded_token == chosen[-1].decoded_token == "</s>"
    assert chosen[0].bytes == chosen[-1].bytes == b""
    assert not chosen[0].is_text
    scored = [next(iter(entry.values())) for entry in output.prompt_logprobs[1:]]
    assert [one.bytes for one in scored] == [one.bytes for one in chosen[1:]]
    assert [one.decoded_token for one in scored] == [one.decoded_token for one in chosen[1:]]


def test_special_tokens_that_are_kept_are_among_the_bytes(model, llm):
    ids = [2, *llm.text.encode_plain(TEXT)[:-1], 2]
    params = saying(ids, logprobs=3, skip_special_tokens=False)
    out = llm.generate([[5, 6]], params)[0].outputs[0]
    assert "".join(llm.stream([5, 6], saying(ids, skip_special_tokens=False))) == out.text
    assert out.text.count("</s>") == 2
    if model[1].startswith("byte"):
        data = b"".join(next(iter(entry.values())).bytes for entry in out.logprobs)
        assert data.decode("utf-8", "replace") == out.text


def test_batch_files_keep_every_alternative_and_offsets_are_of_the_text(model, llm, tmp_path):
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    parts = llm.text.encode_plain("😀 日本 it is")
    wide = {"prompt": "it", "max_tokens": 8, "logprobs": 40, "temperature": 2, "ignore_eos": True}
    bodies = [
        {**wide, "seed": seed, "logit_bias": {str(token): 20 for token in parts}}
        for seed in range(6)
    ]
    rows = [
        {"custom_id": str(at), "url": "/v1/completions", "body": body}
        for at, body in enumerate(bodies)
    ]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = JobSettings(source, target, SamplingParams())
    run_job(llm, settings, prepare_job(settings), lambda report: None)
    for line in target.read_text().splitlines():
        (choice,) = json.loads(line)["response"]["body"]["choices"]
        text, logs = choice["text"], choice["logprobs"]
        assert all(len(entry) == 40 for entry in logs["top_logprobs"])
        ends = [*logs["text_offset"][1:], len(text)]
        for token, begin, end in zip(logs["tokens"], logs["text_offset"], ends, strict=True):
            if model[1].startswith("byte") and "bytes:" not in token and token not in SPECIAL:
                assert token == text[begin:end]


def test_tokens_of_a_beam_have_the_texts_they_have_inside(model, llm):
    prompt = llm.text.encode_plain("it is")
    (output,) = llm.beam_search([prompt], BeamSearchParams(beam_width=2, max_tokens=4))
    for sequence in output.sequences:
        for entry in sequence.logprobs:
            for token, one in entry.items():
                assert one.decoded_token == llm.text.token_texts.text(token)
                assert one.bytes == llm.text.token_texts.added(token)
