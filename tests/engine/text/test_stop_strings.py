"""Stop strings against a slow, obvious search, few of them and many."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.engine.text.detokenizer import Detokenizer
from stoker.engine.text.stop_strings import FEW, StopStrings

TEXT = st.text("abc", max_size=12)
STOPS = st.lists(st.text("abc", min_size=1, max_size=5), min_size=1, max_size=3 * FEW)


@given(TEXT, STOPS, st.integers(0, 5))
def test_find(text, stops, start):
    places = [
        (at, at + len(stop))
        for stop in stops
        for at in range(start, len(text))
        if text[at:].startswith(stop)
    ]
    assert StopStrings(tuple(stops)).find(text, start) == min(places, default=None)


@given(TEXT, STOPS)
def test_begun(text, stops):
    sizes = [
        size
        for stop in stops
        for size in range(1, min(len(stop), len(text) + 1))
        if stop.startswith(text[-size:])
    ]
    assert StopStrings(tuple(stops)).begun(text) == max(sizes, default=0)


class Letters:
    """A stream of texts that are their own tokens."""

    def push(self, token):
        return token, ""

    def finish(self):
        return ""


@pytest.mark.parametrize("count", [1, 50_000])
def test_time_hardly_grows_with_their_number(count):
    stops = (*(f"never {at} comes" for at in range(count - 1)), "at last")
    Detokenizer(Letters(), stops)  # makes them ready
    begun = time.process_time()
    text = Detokenizer(Letters(), stops)
    for _ in range(500):
        text.push("never ")
    text.push("at la")
    text.push("st!")
    assert text.stopped
    assert text.finish() == "never " * 500
    assert time.process_time() - begun < 1
