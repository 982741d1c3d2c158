"""Where an answer ends: the tokenizer's own end token, and stop strings that are special tokens."""

import asyncio
import json
import shutil

import pytest

from stoker import LLM, SamplingParams
from stoker.cli.main import main
from stoker.errors import ModelError
from stoker.llm.async_llm import AsyncLLM

END, USER = 0, 1  # <|end|> and <|user|> of `text_model`


@pytest.fixture
def folder(text_model, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(text_model, copy)
    return copy


def edit(folder, name, **changes):
    path = folder / name
    fields = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**fields, **changes}))


def always(*tokens, **more):
    """Draw these tokens over and over, the likeliest first."""
    bias = {token: 1e6 - at for at, token in enumerate(tokens)}
    return SamplingParams(temperature=0, max_tokens=5, logit_bias=bias, **more)


def answer(folder, params):
    with LLM(str(folder), threads=1) as llm:
        return llm.generate("hello", params)[0].outputs[0]


@pytest.mark.parametrize("config", [None, 7, [7, 8]])
def test_the_tokenizer_ends_too_where_configs_name_another_token_or_none(folder, config):
    """As in vLLM. A chat fine-tune often changes tokenizer_config.json alone."""
    edit(folder, "generation_config.json", eos_token_id=config)
    edit(folder, "config.json", eos_token_id=None)
    out = answer(folder, always(END))
    assert (out.token_ids, out.finish_reason, out.text) == ([END], "stop", "")
    assert answer(folder, always(END, ignore_eos=True)).token_ids == [END] * 5
    if config:
        assert answer(folder, always(7)).token_ids == [7]
    edit(folder, "tokenizer_config.json", eos_token=None)
    assert answer(folder, always(END)).token_ids == [END] * 5


def test_an_end_beyond_the_vocabulary_never_comes(folder):
    """A token that tokenizer_config.json names and tokenizer.json lacks is added at the end."""
    edit(folder, "tokenizer_config.json", eos_token="<|new|>")
    words = {f"<|{at}|>": 274 + at for at in range(26)}
    edit(folder, "tokenizer_config.json", added_tokens_decoder={})
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    special = tokenizer["added_tokens"][0]
    tokenizer["added_tokens"] += [{**special, "content": w, "id": i} for w, i in words.items()]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    edit(folder, "generation_config.json", eos_token_id=-1)
    with LLM(str(folder), threads=1) as llm:
        assert min(llm.engine.scheduler.eos_ids) >= llm.spec.vocab
        assert len(llm.generate("hello", always(END))[0].outputs[0].token_ids) == 5
        for more in ({"min_tokens": 2}, {"regex": "[a-z]{3}"}):
            params = SamplingParams(temperature=0, max_tokens=3, **more)
            assert llm.generate("hello", params)[0].outputs[0].finish_reason


@pytest.mark.parametrize("value", ["<|end|>", 1.5, [1, None], {"id": 1}, True])
@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
def test_an_end_that_is_no_token_id_is_refused_by_file_and_field(folder, file, value):
    edit(folder, "generation_config.json", eos_token_id=None)
    edit(folder, file, eos_token_id=value)
    with pytest.raises(ModelError, match=rf"eos_token_id in {file} must be a token id or a list"):
        LLM(str(folder), threads=1)


STOPS = ["<|user|>", "<|user|><|user|>", "<|assistant|>"]
EXPECTED = [([USER], "stop"), ([USER, USER], "stop"), ([USER] * 5, "length")]


@pytest.mark.parametrize(("stop", "expected"), [*zip(STOPS, EXPECTED, strict=True)])
def test_a_stop_string_that_is_a_special_token(folder, tmp_path, stop, expected):
    """Plain, streamed, asynchronous and in a job it ends the answer, whose text lacks it."""
    params = always(USER, stop=[stop], ignore_eos=True)
    with LLM(str(folder), threads=1) as llm:
        out = llm.generate("hello", params)[0].outputs[0]
        assert (out.token_ids, out.finish_reason) == expected
        assert out.text == ""
        assert "".join(llm.stream("hello", params)) == ""

    async def stream(face):
        return [one async for one in face.generate("hello", params)]

    face = AsyncLLM(str(folder), threads=1)
    last = asyncio.run(stream(face))[-1].outputs[0]
    assert last.finish_reason == expected[1]
    face.close()

    rows, results = tmp_path / "rows.jsonl", tmp_path / "results.jsonl"
    sampling = {"logit_bias": {str(USER): 1e6}, "stop": [stop], "ignore_eos": True}
    rows.write_text(json.dumps({"prompt": "hello", "sampling": sampling}) + "\n")
    options = ["--temperature", "0", "--max-tokens", "5", "--raw", "-q", "--no-report"]
    assert main(["run", str(rows), "-o", str(results), "-m", str(folder), *options]) == 0
    result = json.loads(results.read_text())["result"]
    assert (result["output_tokens"], result["text"]) == (len(expected[0]), "")


def test_text_before_a_special_stop_is_kept(folder):
    with LLM(str(folder), threads=1) as llm:
        ids = llm.text.encode_plain("hello")
        # from the prompt "hello" on, each token is followed by the next of a chain
        chain = [*llm.text.encode_plain(" there"), USER]

        def follow(output, logits):
            for row, tokens in enumerate(output):
                logits[row, chain[min(len(tokens), len(chain) - 1)]] = 1e6
            return logits

        for stop, text in (("<|user|>", " there"), ("re<|user|>", " the"), ("ere", " th")):
            params = SamplingParams(
                temperature=0, max_tokens=9, stop=[stop], logits_processors=[follow]
            )
            out = llm.generate([ids], params)[0].outputs[0]
            assert (out.text, out.finish_reason) == (text, "stop")
            assert "".join(llm.stream(ids, params)) == text
