"""Stop strings that hold special tokens, against a slow search over whole token lists."""

import random

import pytest

from stoker.engine.text import special_stops
from stoker.engine.text.detokenizer import Detokenizer

SPECIAL = {0: "<a>", 1: "<|b|>"}


class Letters:
    """Tokens are letters, beside two special ones that are left out."""

    def push(self, token):
        return ("" if token in SPECIAL else chr(95 + token)), ""

    def settle(self):
        return ""

    def finish(self):
        return ""


class LettersLate(Letters):
    """Each letter may still change until the next one comes."""

    def __init__(self):
        self.last = ""

    def push(self, token):
        if token in SPECIAL:
            return "", self.last
        certain, self.last = self.last, chr(95 + token)
        return certain, self.last

    def settle(self):
        certain, self.last = self.last, ""
        return certain

    def finish(self):
        return self.settle()


def shown(ids):
    return "".join(chr(95 + token) for token in ids if token not in SPECIAL)


def feed(ids, stop, least=0, stream=Letters):
    """The text, and the tokens that were taken before it stopped; None if it did not."""
    detokenizer, pieces = Detokenizer(stream(), stop, least, SPECIAL), []
    for token in ids:
        detokenizer.push(token)
        pieces.append(detokenizer.take())
        if detokenizer.stopped:
            break
    stopped = len(pieces) if detokenizer.stopped else None
    text = detokenizer.finish()
    assert text.startswith("".join(pieces)), "showed part of a stop string"
    return text, stopped


def test_one_special_token_ends_the_text():
    assert feed([2, 3, 1, 4], ("<|b|>",)) == ("ab", 3)
    assert feed([1, 4], ("<|b|>",)) == ("", 1)
    assert feed([2, 0, 4], ("<|b|>",)) == ("ac", None)


def test_with_text_around_it():
    assert feed([2, 3, 1, 4, 2], ("b<|b|>c",)) == ("a", 4)
    assert feed([2, 1, 0, 4], ("<|b|><a>",)) == ("a", 3)
    assert feed([2, 3, 0, 4, 1], ("c<|b|>",)) == ("ab", 5)


def test_where_the_text_may_still_change():
    assert feed([2, 3, 1, 4], ("<|b|>",), stream=LettersLate) == ("ab", 3)
    assert feed([2, 3, 1, 4, 2], ("b<|b|>c",), stream=LettersLate) == ("a", 5)
    assert feed([2, 3, 1, 4], ("b<|b|>c",), stream=LettersLate)[0] == "a", "found at the end"
    assert feed([2, 3, 0, 4], ("<|b|>",), stream=LettersLate) == ("abc", None)


def test_part_of_a_special_token_is_no_match():
    assert feed([2, 1, 0, 3], ("|", "b|>", ">", "a>b")) == ("ab", None)


def test_letters_that_spell_it_match_as_before():
    class Spelled(Letters):
        def push(self, token):
            return ("" if token in SPECIAL else "a<|b>"[token - 2]), ""

    detokenizer = Detokenizer(Spelled(), ("<|b|>",), special=SPECIAL)
    for token in (2, 3, 4, 5, 4, 6):
        detokenizer.push(token)
    assert detokenizer.stopped
    assert detokenizer.finish() == "a"


@pytest.mark.parametrize("forget", [special_stops.FORGET, 1])
def test_as_a_slow_search_finds(forget, monkeypatch):
    monkeypatch.setattr(special_stops, "FORGET", forget)
    rng = random.Random(0)
    stopped = 0
    for _ in range(3000):
        ids = [rng.randrange(5) for _ in range(rng.randint(1, 10))]
        patterns = [
            [rng.randrange(5) for _ in range(rng.randint(1, 3))] for _ in range(rng.randint(1, 2))
        ]
        stop = tuple("".join(SPECIAL.get(t, chr(95 + t)) for t in one) for one in patterns)
        least = rng.choice((0, 0, 1, 3))
        expected = slow(ids, patterns, least)
        assert feed(ids, stop, least) == expected, (ids, stop, least)
        stopped += expected[1] is not None
    assert 500 < stopped < 2500


def slow(ids, patterns, least):
    """The text ends before the first match that is complete after the fewest tokens.

    A pattern of letters alone is looked for in the text, where special tokens are no hindrance;
    nor are those elsewhere that no pattern has.
    """
    met = SPECIAL.keys() & {token for pattern in patterns for token in pattern}
    for count in range(least + 1, len(ids) + 1):
        found = []
        for pattern in patterns:
            plain = not SPECIAL.keys() & set(pattern)
            hidden = SPECIAL.keys() if plain else SPECIAL.keys() - met
            places = [at for at in range(count) if ids[at] not in hidden]
            tokens = [ids[at] for at in places]
            for at in range(len(tokens) - len(pattern) + 1):
                if tokens[at : at + len(pattern)] == pattern and places[at] >= least:
                    found.append(len(shown(ids[: places[at]])))
        if found:
            return shown(ids)[: min(found)], count
    return shown(ids), None
