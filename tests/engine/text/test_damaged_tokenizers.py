"""Tokenizers that can't be read are refused by file and field; others do not depend on oddities."""

import importlib.util
import io
import json
import shutil
import sys

import pytest

from stoker import LLM, SamplingParams
from stoker.errors import InvalidRequestError, ModelError

ONE = SamplingParams(max_tokens=2, temperature=0)


@pytest.fixture
def folder(text_model, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(text_model, copy)
    return copy


def edit(folder, name, change):
    path = folder / name
    fields = json.loads(path.read_text()) if path.is_file() else {}
    change(fields)
    path.write_text(json.dumps(fields))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("tokenizer.json", {"decoder": 7}, r"because of decoder in .*tokenizer.json, which is 7:"),
        ("tokenizer.json", {"pre_tokenizer": {"type": "Z"}}, r"because of pre_tokenizer in .*json"),
        ("tokenizer.json", {"model": {"type": "BPE"}}, r"tokenizer.json: Missing vocab/merges"),
        (
            "tokenizer_config.json",
            {"model_max_length": "long"},
            r'because of model_max_length in .*tokenizer_config.json, which is "long"',
        ),
        (
            "tokenizer_config.json",
            {"eos_token": 5},
            r"because of eos_token in .*tokenizer_config.json, which is 5",
        ),
        (
            "special_tokens_map.json",
            {"bos_token": [1]},
            r"because of bos_token in .*special_tokens_map.json, which is \[1\]",
        ),
    ],
)
def test_the_field_at_fault_is_named(folder, capfd, name, change, message):
    edit(folder, name, lambda fields: fields.update(change))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ModelError, match=message):
        LLM(str(folder), threads=1)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert "[transformers]" not in capfd.readouterr().err


def test_files_that_are_no_json_or_begin_with_a_mark(folder):
    path = folder / "tokenizer_config.json"
    good = path.read_bytes()
    path.write_bytes(b"\xef\xbb\xbf" + good)
    with pytest.raises(ModelError, match=r"tokenizer_config.json begins with a byte order mark"):
        LLM(str(folder), threads=1)
    path.write_bytes(good[:-9])
    with pytest.raises(ModelError, match=r"tokenizer_config.json is not valid JSON"):
        LLM(str(folder), threads=1)
    path.write_bytes(good)
    for name in ("config.json", "generation_config.json"):  # these are read with one
        file = folder / name
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    LLM(str(folder), threads=1).generate("hello", ONE)


def test_what_a_tokenizer_does_not_need_of_the_config_is_not_checked(folder):
    """transformers checks fields of config.json that Stoker does not read."""
    expected = LLM(str(folder), threads=1).generate("hello there", ONE)[0]
    edit(folder, "config.json", lambda fields: fields.update(initializer_range="wide"))
    found = LLM(str(folder), threads=1).generate("hello there", ONE)[0]
    assert found.prompt_token_ids == expected.prompt_token_ids
    assert found.outputs[0].text == expected.outputs[0].text


def test_a_post_processor_that_leaves_the_text_out(folder):
    dropping = {"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}}
    edit(folder, "tokenizer.json", lambda fields: fields.update(post_processor=dropping))
    with pytest.raises(
        ModelError, match=r"no tokens of any text; see post_processor in tokenizer.json"
    ):
        LLM(str(folder), threads=1)


def test_a_tokenizer_that_does_not_know_the_letters_it_is_tried_on(folder):
    def change(fields):
        words = [token["content"] for token in fields["added_tokens"]] + ["MK", "VL"]
        vocab = {word: at for at, word in enumerate(words)}
        fields["model"] = {"type": "WordLevel", "vocab": vocab, "unk_token": ""}
        fields["pre_tokenizer"] = fields["decoder"] = None

    edit(folder, "tokenizer.json", change)
    with LLM(str(folder), threads=1) as llm:
        assert llm.text.encode("MK") == [4]


def test_code_of_the_folder_is_never_run_nor_asked_for(folder, monkeypatch):
    """transformers would ask on the terminal whether to run it."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\ny\ny\n"))
    code = {"AutoTokenizer": [None, "own.OwnTokenizer"], "AutoConfig": "own.OwnConfig"}
    own = {"tokenizer_class": "OwnTokenizer", "auto_map": code}
    edit(folder, "tokenizer_config.json", lambda fields: fields.update(own))
    (folder / "own.py").write_text("raise SystemExit('was run')\n")
    LLM(str(folder), threads=1).generate("hello", ONE)  # tokenizer.json serves without it
    edit(folder, "config.json", lambda fields: fields.update(auto_map=code, model_type="own"))
    with pytest.raises(ModelError, match=r"auto_map in .*tokenizer_config.json"):
        LLM(str(folder), threads=1)
    assert sys.stdin.read() == "y\ny\ny\n"


def test_a_vocabulary_that_is_missing(folder):
    """transformers makes an empty tokenizer then, to which every text is nothing."""
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("a\nb\n")
    edit(folder, "tokenizer_config.json", lambda f: f.update(tokenizer_class="LlamaTokenizer"))
    with pytest.raises(
        ModelError, match=r"\(vocab.txt\) can't be read: it has special tokens only"
    ):
        LLM(str(folder), threads=1)


@pytest.mark.skipif(
    importlib.util.find_spec("sentencepiece") is not None, reason="sentencepiece is installed"
)
def test_a_sentencepiece_file_alone_says_what_to_install(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(b"\x0a\x0b\x0a\x05<unk>")
    with pytest.raises(ModelError, match="pip install sentencepiece protobuf"):
        LLM(str(folder), threads=1)


def add_tokens(folder, count):
    """Give the tokenizer more tokens, each a word."""

    def change(fields):
        plain = {**fields["added_tokens"][0], "special": False}
        first = 1 + max([*fields["model"]["vocab"].values(), 3])
        for at in range(count):
            fields["added_tokens"].append({**plain, "id": first + at, "content": f"word{at:03}"})

    edit(folder, "tokenizer.json", change)


def test_a_tokenizer_with_more_tokens_than_the_model(folder):
    """The prompt that has one is refused by its id; the others run."""
    add_tokens(folder, 60)
    with LLM(str(folder), threads=1) as llm:
        llm.generate(["hello word001", "hello there"], ONE)
        with pytest.raises(InvalidRequestError, match=r"prompt 1: token id 333 is out of range"):
            llm.generate(["hello", "hello word059"], ONE)


def test_a_tokenizer_with_fewer_tokens_than_the_model(folder):
    """A token that only the model has has no text, plain, streamed and with its probability."""
    with LLM(str(folder), threads=1) as llm:
        assert len(llm.text.tokenizer) < llm.spec.vocab
        params = SamplingParams(
            max_tokens=3, temperature=0, logit_bias={299: 1e6}, stop=["x"], logprobs=1
        )
        out = llm.generate("hello", params)[0].outputs[0]
        assert (out.token_ids, out.text) == ([299] * 3, "")
        assert "".join(llm.stream("hello", SamplingParams(logit_bias={299: 1e6}))) == ""
