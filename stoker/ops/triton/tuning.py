"""Sizes of tiles and limits of cutting for the Triton attention: what measurements are to set."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Launch:
    """A kind of tile: rows of queries, keys per turn, and what Triton is told.

    The block table's entry comes before the key it points to, so of 5 stages two hold keys and
    values on their way; with 3, nothing is fetched ahead.
    """

    rows: int
    keys: int
    warps: int
    stages: int

    def rows_for(self, group: int) -> int:
        """Rows of a tile that holds a group of query heads at least once."""
        return max(self.rows, power_of_2(group))


@dataclass(frozen=True)
class Tuning:
    """Sizes and limits; the place for what measurements on a GPU teach.

    Attributes:
        narrow: decodes. 16 rows is the least of a matrix product; the heads of one key-value
            head take their share of it.
        wide: chunks of prompts and shared prefixes.
        large: as wide, for heads above 128, whose tiles take twice the shared memory.
        latent_narrow, latent_wide: as narrow and wide, for heads above 256, those of latent
            attention. Its results are 512 numbers for each row, and they stay in registers.
        exact_narrow, exact_wide: as narrow and wide, in float32, which is for comparisons: it has
            no matrix product of that precision, and larger tiles would not fit its registers.
        waves: programs per multiprocessor that a step is cut into, if it is long enough.
        piece: the least tokens of a piece; partial results cost about as much as 8 to 16 tokens.
        shared: the least tokens of a shared prefix that is attended to once for its sharers.
        merged: partial results that the merge takes at a time.
    """

    narrow: Launch = Launch(rows=16, keys=64, warps=4, stages=5)
    wide: Launch = Launch(rows=128, keys=64, warps=8, stages=5)
    large: Launch = Launch(rows=128, keys=32, warps=8, stages=5)
    latent_narrow: Launch = Launch(rows=16, keys=32, warps=8, stages=4)
    latent_wide: Launch = Launch(rows=64, keys=32, warps=8, stages=3)
    exact_narrow: Launch = Launch(rows=16, keys=32, warps=4, stages=1)
    exact_wide: Launch = Launch(rows=32, keys=16, warps=4, stages=1)
    waves: int = 16
    piece: int = 256
    shared: int | None = 64
    merged: int = 16

    def launches(self, dtype: torch.dtype, head_dim: int) -> tuple[Launch, Launch]:
        """The narrow and the wide kind for queries of this dtype and head size.

        The query heads of a key-value head that do not fit a wide tile take several.
        """
        if dtype == torch.float32:
            return self.exact_narrow, self.exact_wide
        if head_dim > 256:
            return self.latent_narrow, self.latent_wide
        return self.narrow, self.wide if head_dim <= 128 else self.large


def power_of_2(n: int) -> int:
    """The least that is not below n."""
    return 1 << (n - 1).bit_length()
