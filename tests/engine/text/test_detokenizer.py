"""Incremental text: whole characters only, and stop strings wherever they fall."""

import random
from pathlib import Path

import pytest

from stoker.engine.text.detokenizer import Detokenizer
from stoker.engine.text.tokenizer import TextCodec


class Bytes:
    """A tokenizer whose tokens are bytes."""

    def encode(self, text):
        return list(text.encode())

    def decode(self, token_ids, *, skip_special_tokens=True):
        return bytes(token_ids).decode("utf-8", "replace")


def feed(text, stop=()):
    detokenizer, shown = Detokenizer(Bytes(), stop), []
    for token in Bytes().encode(text):
        detokenizer.push(token)
        shown.append(detokenizer.safe_text)
        if detokenizer.stopped:
            break
    return detokenizer, shown


@pytest.mark.parametrize("text", ["plain", "naïve café", "日本語", "a👍🏽b👩‍👩‍👧", "é", ""])
def test_characters_never_come_in_halves(text):
    detokenizer, shown = feed(text)
    assert all(text.startswith(piece) for piece in shown)
    assert detokenizer.finish() == text


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("STOPmore", ("STOP",), ""),
        ("ab STOP", ("STOP",), "ab "),
        ("x", ("x",), ""),
        ("ab\n\ncd", ("\n\n",), "ab"),
        ("aab", ("ab",), "a"),
        ("one two", ("two", "one"), ""),
        ("wait for 日本 here", ("日本",), "wait for "),
        ("never", ("nope",), "never"),
    ],
)
def test_stop_strings(text, stop, expected):
    detokenizer, shown = feed(text, stop)
    assert detokenizer.finish() == expected
    assert detokenizer.stopped == (expected != text)
    assert all(expected.startswith(piece) for piece in shown), "showed part of a stop string"


def test_an_unfinished_character_at_the_end_is_kept_as_the_tokenizer_shows_it():
    detokenizer = Detokenizer(Bytes())
    for token in "ab日".encode()[:-1]:
        detokenizer.push(token)
    assert detokenizer.text == "ab"
    assert detokenizer.finish() == Bytes().decode(list("ab日".encode()[:-1]))


def test_with_a_real_tokenizer(text_model):
    codec, rng = TextCodec(Path(text_model)), random.Random(0)
    for _ in range(200):
        ids = [rng.randrange(4, 260) for _ in range(rng.randint(1, 25))]
        if rng.random() < 0.5:
            ids = codec.encode("hello world 日本 👍🏽 there")
        whole = codec.decode(ids)
        at = rng.randrange(max(1, len(whole)))
        stop = whole[at : at + rng.randint(1, 4)]
        detokenizer, shown = Detokenizer(codec, (stop,) if stop else ()), []
        for token in ids:
            detokenizer.push(token)
            shown.append(detokenizer.safe_text)
            if detokenizer.stopped:
                break
        end = detokenizer.finish()
        assert all(end.startswith(piece) for piece in shown)
        assert end == (whole[: whole.index(stop)] if stop else whole)


def test_stop_strings_that_begin_in_the_first_tokens_do_not_count():
    rng = random.Random(0)
    for _ in range(2000):
        text = "".join(rng.choice("ab") for _ in range(rng.randint(1, 12)))
        stop = "".join(rng.choice("ab") for _ in range(rng.randint(1, 3)))
        least = rng.randint(0, 8)
        detokenizer = Detokenizer(Bytes(), (stop,), least)
        for token in Bytes().encode(text):
            detokenizer.push(token)
            if detokenizer.stopped:
                break
        at = text.find(stop, least)
        assert detokenizer.stopped == (at >= 0)
        assert detokenizer.finish() == (text if at < 0 else text[:at])
