"""Incremental text: whole characters only, and stop strings wherever they fall."""

import random

import pytest

from stoker.engine.text.detokenizer import Detokenizer
from stoker.engine.text.token_windows import DecodedTokens


class Bytes:
    """A tokenizer whose tokens are bytes."""

    def encode(self, text):
        return list(text.encode())

    def decode(self, token_ids, *, skip_special_tokens=True):
        return bytes(token_ids).decode("utf-8", "replace")


def make(stop=(), min_tokens=0):
    return Detokenizer(DecodedTokens(Bytes()).stream(), stop, min_tokens)


def feed(text, stop=()):
    detokenizer, shown = make(stop), [""]
    for token in Bytes().encode(text):
        detokenizer.push(token)
        shown.append(shown[-1] + detokenizer.take())
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
    detokenizer, data = make(), ("ab日" + 20 * "c" + "日").encode()[:-1]
    for token in data:
        detokenizer.push(token)
    assert detokenizer.take().startswith("ab日")
    assert detokenizer.finish() == Bytes().decode(list(data))


def test_stop_strings_that_begin_in_the_first_tokens_do_not_count():
    rng = random.Random(0)
    for _ in range(2000):
        text = "".join(rng.choice("ab") for _ in range(rng.randint(1, 12)))
        stop = "".join(rng.choice("ab") for _ in range(rng.randint(1, 3)))
        least = rng.randint(0, 8)
        detokenizer = make((stop,), least)
        for token in Bytes().encode(text):
            detokenizer.push(token)
            if detokenizer.stopped:
                break
        at = text.find(stop, least)
        assert detokenizer.stopped == (at >= 0)
        assert detokenizer.finish() == (text if at < 0 else text[:at])
