"""A part of a source: a seeded sample of its rows, and the share of one machine among several.

Rows keep their numbers, so a row's answer is the same in a part as in the whole. Knows no format.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from stoker.errors import JobError
from stoker.job.sources.base import Rows, Source


@dataclass(frozen=True)
class Shard:
    """The `index`-th of `of` consecutive blocks of rows, from 1, as equal as can be."""

    index: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From "2/8".

        Raises:
            JobError: it is something else.
        """
        found = re.fullmatch(r"(\d+)/(\d+)", text.strip())
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise JobError(
                f"--shard must be I/N with I from 1 to N, such as 1/4 for the first of four, not "
                f"{text!r}"
            )
        return cls(int(found[1]), int(found[2]))

    def block(self, count: int) -> range:
        """The places that are its own, of `count` from 0."""
        return range(count * (self.index - 1) // self.of, count * self.index // self.of)


class Part:
    """A source with some of another's rows, in their order.

    The sample is of the whole source and the shard a block of the sample, so the shards of a
    sample are together that sample.

    Args:
        whole: the source.
        sample: that many rows drawn without replacement, all if there are fewer; None is all.
        shard: of what was drawn; None is all.
        seed: of the drawing.
    """

    def __init__(
        self, whole: Source, sample: int | None = None, shard: Shard | None = None, seed: int = 0
    ) -> None:
        if sample is not None and sample < 1:
            raise JobError(f"--sample must be at least 1 row, not {sample}")
        self.name, self.form = whole.name, whole.form
        self._whole, self._sample, self._shard, self._seed = whole, sample, shard, seed
        self._known: int | None = None

    def fingerprint(self) -> str:
        """Of the whole: which part it is, is a setting."""
        return self._whole.fingerprint()

    def rows(self) -> Rows:
        found: Iterator[Any] = self._whole.rows()
        if self._sample is not None:
            found = self._drawn(found, self._sample)
        if self._shard is not None:
            block = self._shard.block(self._drawn_count())
            for place, row in enumerate(found):
                if place >= block.stop:
                    return
                if place >= block.start:
                    yield row
        else:
            yield from found

    def count(self) -> int:
        drawn = self._drawn_count()
        return drawn if self._shard is None else len(self._shard.block(drawn))

    def _drawn(self, rows: Rows, wanted: int) -> Rows:
        """Each row with the chance wanted / left (selection sampling: Knuth, TAOCP 2, 3.4.2)."""
        draw = random.Random(f"sample {self._seed}")
        left = self._whole_count()
        for row in rows:
            if wanted == 0:
                return
            if draw.random() * left < wanted:
                wanted -= 1
                yield row
            left -= 1

    def _drawn_count(self) -> int:
        count = self._whole_count()
        return count if self._sample is None else min(count, self._sample)

    def _whole_count(self) -> int:
        if self._known is None:
            count = self._whole.count()
            self._known = sum(1 for _ in self._whole.rows()) if count is None else count
        return self._known
