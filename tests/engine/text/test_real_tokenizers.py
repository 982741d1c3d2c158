"""Tokenizers and chat templates of families that people run, as they were published.

Vocabularies of 128,000 to 262,000 tokens. They come from the cache that `.ci/assets` fills.
"""

import json
import random
import re

import pytest
import torch
from assets import TOKENIZERS, asset
from jinja2 import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from stoker.engine.request.constraint import make_constraint
from stoker.engine.sampling.grammar import GrammarCompiler
from stoker.engine.sampling.grammar_masks import take_masks
from stoker.engine.text.chat_options import ChatOptions
from stoker.engine.text.detokenizer import Detokenizer
from stoker.engine.text.tokenizer import TextCodec
from stoker.errors import InvalidRequestError
from stoker.ops.token_bitmask import unpack

pytestmark = pytest.mark.assets
asset("tokenizers")  # or the module is skipped

TEXTS = [
    "Hello world, it's 12345 o'clock: don't panic!",
    "naïve café, Zürich, Ελληνικά, кириллица, עברית, العربية",
    "日本語のテキスト、中文文本，한국어 텍스트",
    "😀😃 👍🏽 👩‍👩‍👧‍👦 \U0001f9ff\u200d q\u0301",
    "def f(x):\n    return {'a': [x + 1, \"é\"]}\n\n\t# ---- 3.14e-10\r\n",
    " leading, trailing and     many blanks \n\n\n ",
    "<|im_start|> <s> <start_of_turn> [INST] <|eot_id|> as text",
    "x",
]
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "kinds": {"type": "array", "items": {"enum": ["a", "日本", "👍🏽"]}},
    },
    "required": ["name", "age", "kinds"],
    "additionalProperties": False,
}
ANSWER = json.dumps(
    {"name": "Zoë 😀", "age": 42, "kinds": ["日本", "👍🏽", "a"]}, ensure_ascii=False
)


@pytest.fixture(scope="module", params=TOKENIZERS)
def codec(request):
    return TextCodec(asset(f"tokenizers/{request.param}"))


@pytest.fixture(scope="module")
def compiler(codec):
    """The compiler of constraints, for a model whose vocabulary is padded as models' are."""
    if codec._folder.name == "llama3":
        pytest.skip("the vocabulary is that of Llama 3.1")
    padded = -(-len(codec.tokenizer) // 128) * 128
    return GrammarCompiler(codec.serialised(), padded, codec.eos_ids)


def random_ids(codec, rng):
    """Tokens of texts, cut anywhere, and any tokens at all, special ones among them."""
    ids = []
    for _ in range(rng.randint(1, 4)):
        if rng.random() < 0.5:
            part = codec.encode_plain(rng.choice(TEXTS))
            begin = rng.randrange(len(part))
            ids += part[begin : begin + rng.randint(1, 20)]
        else:
            ids += [rng.randrange(len(codec.tokenizer)) for _ in range(rng.randint(1, 10))]
    return ids


# -- chats -------------------------------------------------------------------------------------


def said(role, content, **more):
    return {"role": role, "content": content, **more}


TURNS = [
    said("user", "hello  world "),
    said("assistant", "<think>\nhm\n</think>\n\nwhat?"),
    said("user", "'é' & <b> 日本"),
]
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "the weather <now>",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALL = {"id": "c1", "type": "function"}
CHATS = {
    "one": TURNS[:1],
    "turns": TURNS,
    "system": [said("system", "be brief"), *TURNS],
    "not alternating": [*TURNS, said("user", "again")],
}


@pytest.mark.parametrize("chat", CHATS.values(), ids=CHATS)
def test_chats_are_rendered_as_in_transformers(codec, chat):
    tokenizer = codec.tokenizer
    if not tokenizer.chat_template:
        pytest.skip("this package has no chat template")
    for prompt in (True, False):
        how = {"tokenize": False, "add_generation_prompt": prompt}
        options = ChatOptions(add_generation_prompt=prompt)
        try:
            expected = tokenizer.apply_chat_template(chat, **how)
        except TemplateError as refused:  # raised by the template itself
            with pytest.raises(InvalidRequestError, match=re.escape(str(refused))):
                codec.render_chat(chat, options)
            continue
        assert codec.render_chat(chat, options) == expected
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=prompt)["input_ids"]
        assert codec.encode_chat(chat, options).ids == ids
        assert codec.decode(ids, skip_special_tokens=False) == expected
        assert ids[:2].count(tokenizer.bos_token_id) == (tokenizer.bos_token is not None)


@pytest.mark.parametrize("given", ["object", "text"])
def test_calls_of_tools(codec, given):
    """Qwen's template takes arguments as an object or as text, DeepSeek's as text alone."""
    name = codec._folder.name
    if name not in ("qwen3", "deepseek_v3"):
        pytest.skip("this template knows no tools")
    as_text = '{"city": "Zürich"}'
    arguments = as_text if given == "text" else json.loads(as_text)

    def chat(content, arguments):
        call = CALL | {"function": {"name": "get_weather", "arguments": arguments}}
        asked = [*TURNS, {"role": "assistant", "content": content, "tool_calls": [call]}]
        return [*asked, said("tool", "20 degrees", tool_call_id="c1")]

    tools, empty = ([TOOL], "") if name == "qwen3" else (None, None)
    expected = render_jinja_template(  # apply_chat_template would leave the None out
        conversations=[chat(empty, as_text)],
        tools=tools,
        chat_template=codec.tokenizer.chat_template,
        add_generation_prompt=True,
        **codec.tokenizer.special_tokens_map,
    )[0][0]
    assert codec.render_chat(chat(None, arguments), ChatOptions(tools=tools)) == expected
    assert as_text in expected


def test_qwens_thinking_can_be_turned_off(codec):
    if codec._folder.name != "qwen3":
        pytest.skip("this template has no such switch")
    options = ChatOptions(template_kwargs={"enable_thinking": False})
    expected = codec.tokenizer.apply_chat_template(
        TURNS, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    assert codec.render_chat(TURNS, options) == expected
    assert expected.endswith("<think>\n\n</think>\n\n")


# -- texts and tokens --------------------------------------------------------------------------


def test_texts_come_back_and_special_tokens_are_left_out(codec):
    tokenizer = codec.tokenizer
    eos = tokenizer.eos_token_id
    assert codec.eos_ids == {eos}
    assert eos in codec.special_tokens
    for text in TEXTS:
        plain = codec.encode_plain(text)
        assert plain == tokenizer.encode(text, add_special_tokens=False)
        assert codec.encode(text) == tokenizer.encode(text)
        if not set(plain) & set(codec.special_tokens):
            assert codec.decode([*plain, eos]) == text
        assert codec.decode([*plain, eos], skip_special_tokens=False) == text + tokenizer.eos_token


def test_a_bos_in_the_text_gets_no_second_one(codec):
    bos, adds = codec.tokenizer.bos_token, codec.tokenizer.encode("x")[:1]
    if bos is None or adds != [codec.tokenizer.bos_token_id]:
        pytest.skip("this tokenizer adds none")
    assert codec.encode(f"{bos}x") == codec.encode("x")


def test_texts_are_the_same_streamed(codec):
    rng, whole = random.Random(0), 0
    for _ in range(150):
        ids = random_ids(codec, rng)
        plain = codec.decode(ids)
        known = codec.tokenizer.decode(ids, skip_special_tokens=True)
        if "\ufffd" not in known:
            whole += 1
            assert plain == known
        for stop in ((), ("\0never\0",)):
            detokenizer, deltas = Detokenizer(codec.token_texts.stream(), stop), []
            for token in ids:
                detokenizer.push(token)
                deltas.append(detokenizer.take())
            assert detokenizer.finish() == plain
            assert "".join([*deltas, detokenizer.take()]) == plain
    assert whole > 30


# -- constraints -------------------------------------------------------------------------------


def allowed(state, width):
    bits = torch.from_numpy(take_masks([state]))
    return set(unpack(bits, width)[0].nonzero()[:, 0].tolist())


@pytest.mark.parametrize(
    ("kind", "what", "text"),
    [
        ("json_schema", SCHEMA, ANSWER),
        ("regex", r"[A-Z]\w+ [日本語]{2,3} \d{4}-\d{2}", "Zoë 日本 2026-11"),
        ("choice", ["yes", "yesterday", "naïve 👍🏽"], "naïve 👍🏽"),
    ],
)
def test_an_answer_in_its_form_is_allowed_token_by_token(codec, compiler, kind, what, text):
    state = compiler.compile(make_constraint(**{kind: what})).start()
    for token in codec.encode_plain(text):
        assert not state.complete
        assert token in allowed(state, compiler.width)
        state.follow(token)
    assert state.error is None
    assert state.complete
    assert allowed(state, compiler.width) >= codec.eos_ids
    state.follow(next(iter(codec.eos_ids)))
    assert state.error is None


def test_every_text_that_may_follow_is_allowed_and_no_other(codec, compiler):
    """Judged by the bytes of all tokens of the vocabulary; of tokens with the same, one will do."""
    texts = {}
    for token in range(len(codec.tokenizer)):
        if token not in codec.special_tokens:
            texts[token] = codec.token_texts.added(token)
    state = compiler.compile(make_constraint(choice=["1234567", "12x", "日本"])).start()
    answers = [b"1234567", b"12x", "日本".encode()]
    for chosen in (None, codec.encode_plain("1")[-1]):
        if chosen is not None:
            state.follow(chosen)
            answers = [one[1:] for one in answers if one.startswith(b"1")]
        begins = {one[:size] for one in answers for size in range(1, len(one) + 1)}
        may = allowed(state, compiler.width)
        assert {texts[token] for token in may} == begins & {*texts.values()}
