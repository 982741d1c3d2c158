"""Samples and shards: disjoint, together the whole, and the same on every machine."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.errors import JobError
from stoker.job.rows import BadRow, Row
from stoker.job.sources import Part, Shard


class Numbers:
    """A source of rows whose numbers have gaps, as blank lines leave them."""

    name, form = "numbers", "jsonl"

    def __init__(self, count, known=True):
        self._rows = [
            BadRow(3 * at + 1, "bad", {}) if at % 5 == 2 else Row(3 * at + 1, {"at": at})
            for at in range(count)
        ]
        self._known = known

    def fingerprint(self):
        return "numbers"

    def rows(self):
        return iter(self._rows)

    def count(self):
        return len(self._rows) if self._known else None


COUNTS = st.integers(0, 60)


@given(COUNTS, st.integers(1, 12), st.none() | st.integers(1, 80), st.booleans(), st.integers())
def test_shards_in_their_order_are_the_whole(count, of, sample, known, seed):
    source = Numbers(count, known)
    whole = list(Part(source, sample, None, seed).rows())
    parts = [Part(source, sample, Shard(index, of), seed) for index in range(1, of + 1)]
    shards = [list(part.rows()) for part in parts]
    assert [row for shard in shards for row in shard] == whole
    assert [part.count() for part in parts] == [len(shard) for shard in shards]
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@given(COUNTS, st.integers(1, 80), st.integers())
def test_samples(count, sample, seed):
    source = Numbers(count)
    found = list(Part(source, sample, None, seed).rows())
    assert len(found) == Part(source, sample, None, seed).count() == min(sample, count)
    numbers = [row.number for row in found]
    assert numbers == sorted(set(numbers))
    assert found == list(Part(source, sample, None, seed).rows())


def test_samples_are_fair_and_follow_the_seed():
    taken = [0] * 20
    for seed in range(2000):
        for row in Part(Numbers(20), 5, None, seed).rows():
            taken[row.number // 3] += 1
    assert all(400 < times < 600 for times in taken)


@pytest.mark.parametrize("text", ["", "3", "0/2", "3/2", "1/0", "a/b", "1/2/3", "-1/2"])
def test_shards_that_are_none(text):
    with pytest.raises(JobError, match="--shard must be I/N with I from 1 to N"):
        Shard.parse(text)


def test_shards_that_are():
    assert Shard.parse("2/8") == Shard(2, 8)
    with pytest.raises(JobError, match="--sample must be at least 1 row, not 0"):
        Part(Numbers(3), 0)
