"""Incremental text: whole characters only, and stop strings wherever they fall."""

import pytest

from stoker.engine.detokenizer import Detokenizer


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
