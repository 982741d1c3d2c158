"""Texts that a tokenizer has no tokens for: each is named, and in a job a row of its own."""

import json
import shutil

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from stoker import LLM, SamplingParams
from stoker.errors import InvalidRequestError
from stoker.job.job import JobSettings, prepare_job, run_job

ONE = SamplingParams(temperature=0, max_tokens=1)


@pytest.fixture(scope="module")
def llm(checkpoint, tmp_path_factory):
    """A model of words, without a token for those it does not know."""
    folder = tmp_path_factory.mktemp("words") / "model"
    shutil.copytree(checkpoint("llama").folder, folder)
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1, "<s>": 2}))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.add_special_tokens(["<s>"])
    words.save(str(folder / "tokenizer.json"))
    with LLM(folder, threads=1) as one:
        yield one


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("unknown", "the tokenizer can't encode the text"),
        ("", "the prompt is empty"),
        (" \n", "the prompt is empty; it needs at least one token"),
    ],
)
def test_a_prompt_of_a_call(llm, text, message):
    for call in (lambda texts: llm.generate(texts, ONE), llm.embed):
        with pytest.raises(InvalidRequestError, match=f"prompt 1: {message}"):
            call(["a", text])
    assert len(llm.generate(["a", "<s>"], ONE)) == 2  # special tokens alone are a prompt


def test_rows_of_a_job(llm, tmp_path):
    texts = ["a", "unknown", " ", "b a", "<s>"]
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    settings = JobSettings(source, tmp_path / "out.jsonl", ONE, ordered=True)
    run_job(llm, settings, prepare_job(settings), lambda report: None)
    rows = [json.loads(line)["result"] for line in (tmp_path / "out.jsonl").open()]
    bad = [row["status"] == "bad_row" for row in rows]
    assert bad == [False, True, True, False, False]
    assert "the tokenizer can't encode the text" in rows[1]["error"]
