"""The least number of tokens of a text is never more than it has, and mostly not far below."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from tokenizers_of_kinds import KINDS, make_codec

from stoker.engine.text import token_bound, tokenizer
from stoker.engine.text.token_bound import TokenBound
from stoker.errors import InvalidRequestError, PromptTooLongError

PROSE = "The quick brown fox doesn't jump over 1234 lazy dogs; it's naïve, 日本語, 😀.\n"
UNITS = [
    "a",
    " ",
    "\n",
    "a b ",
    "é",
    "e\u0301",
    "日本",
    "😀",
    "</s>",
    "<tool>",
    "=-",
    "12",
    "\u0338",
    "\0",
]


@pytest.fixture(scope="module")
def codecs(tmp_path_factory):
    """A function from a kind of tokenizer to its codec."""
    made = {}

    def get(kind):
        if kind not in made:
            made[kind] = make_codec(kind, tmp_path_factory.mktemp("codec"))
        return made[kind]

    return get


@pytest.fixture
def short_pieces(monkeypatch):
    monkeypatch.setattr(token_bound, "PIECE", 512)


@pytest.mark.parametrize("kind", KINDS)
@given(
    st.lists(
        st.tuples(st.sampled_from(UNITS) | st.text(max_size=6), st.integers(1, 400)), max_size=8
    )
)
@settings(max_examples=60, deadline=None)
def test_no_text_has_fewer(codecs, kind, runs):
    codec = codecs(kind)
    text = "".join(unit * times for unit, times in runs)
    text = text.encode("utf-8", "ignore").decode()
    real = len(codec.tokenizer.encode(text, add_special_tokens=False))
    bound = TokenBound(codec.tokenizer.backend_tokenizer)
    for piece in (64, 512, 1 << 15):
        token_bound.PIECE, before = piece, token_bound.PIECE
        try:
            assert bound.at_least(text, 10**9) <= real
        finally:
            token_bound.PIECE = before


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "decoder" not in kind])
def test_it_is_not_far_below(codecs, kind):
    codec = codecs(kind)
    text = PROSE * 2000
    bound = TokenBound(codec.tokenizer.backend_tokenizer).at_least(text, 10**9)
    real = len(codec.tokenizer.encode(text, add_special_tokens=False))
    if kind.startswith("word pieces"):
        assert bound == 0  # any word may be one unknown token
    else:
        assert 0.5 * real < bound <= real


def test_it_ends_once_it_is_enough(codecs):
    bound = TokenBound(codecs("byte-level").tokenizer.backend_tokenizer)
    assert 100 < bound.at_least("word " * 10**6, 100) < token_bound.PIECE


@pytest.mark.parametrize("flags", [{"lstrip": True}, {"rstrip": True}, {"single_word": True}])
@pytest.mark.parametrize("normalized", [True, False])
def test_tokens_that_take_what_is_beside_them(tmp_path, short_pieces, flags, normalized):
    codec = make_codec("byte-level", tmp_path)
    backend = codec.tokenizer.backend_tokenizer
    backend.add_tokens([AddedToken("<mask>", normalized=normalized, **flags)])
    bound = TokenBound(backend)
    rng = random.Random(0)
    for _ in range(40):
        units = rng.choices(
            ["<mask>", " " * rng.randrange(900), "\n" * 700, "\u3000" * 600, "x"], k=9
        )
        text = "".join(units)
        assert bound.at_least(text, 10**9) <= len(backend.encode(text, add_special_tokens=False))


def test_long_texts_are_refused_without_tokenising_them(codecs, monkeypatch):
    codec = codecs("byte-level")
    monkeypatch.setattr(codec, "max_tokens", 1000)
    backend = codec.tokenizer

    def fail(*args, **options):
        raise AssertionError("it is tokenised")

    monkeypatch.setattr(type(backend), "encode", fail)
    text = "a b " * 200_000
    for call in (codec.encode, codec.encode_plain, lambda text: codec.encode_pair("x", text)):
        with pytest.raises(PromptTooLongError, match=r"at least \d+ tokens, in 800000 characters"):
            call(text)
    assert issubclass(PromptTooLongError, InvalidRequestError)


def test_texts_that_may_fit_are_tokenised(codecs, monkeypatch):
    """A context that the text just fits in, and one that is shorter by far."""
    codec = codecs("byte-level")
    monkeypatch.setattr(tokenizer, "LONG", 100)
    text = PROSE * 300
    real = len(codec.encode(text))
    monkeypatch.setattr(codec, "max_tokens", real)
    assert len(codec.encode(text)) == real
    monkeypatch.setattr(codec, "max_tokens", real // 4)
    with pytest.raises(PromptTooLongError):
        codec.encode(text)
