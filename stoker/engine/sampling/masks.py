"""Logit bias, allowed ids, bad words and min tokens: adds to logits, or bars tokens with -inf.

Vectorised over the rows that use them. An entry is a place in the logits (R, V):

    row 0 bars 3, 8; row 2 bars 5     ->     rows 0 0 2     ids 3 8 5
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Seq
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stoker.engine.sampling.controls import RowControls
from stoker.ops.upload import upload


def _entries(rows: Iterable[int], ids: Seq[NDArray[Any]]) -> list[NDArray[Any]]:
    """The row and the id of every entry, (E,) int64 each."""
    numbers = np.repeat(np.fromiter(rows, np.int64), [len(some) for some in ids])
    return [numbers, np.concatenate(ids)]


def add_bias(logits: Tensor, rows: Mapping[int, RowControls]) -> None:
    """Add the bias of `rows` to logits (R, V), in place."""
    some = {row: one.rules for row, one in rows.items() if len(one.rules.bias_ids)}
    entries = _entries(some, [rules.bias_ids for rules in some.values()])
    bias = np.concatenate([rules.bias_values for rules in some.values()])
    at, ids, values = upload([*entries, bias], logits.device)
    logits[at, ids] += values


def bar_tokens(logits: Tensor, rows: Mapping[int, RowControls]) -> None:
    """Set what `rows` may not draw to -inf in logits (R, V), in place."""
    lists = {row: one.rules.allowed for row, one in rows.items() if one.rules.allowed is not None}
    if lists:
        entries = _entries(lists, [*lists.values()])
        at, ids, whole = upload([*entries, np.array([*lists], np.int64)], logits.device)
        kept = logits[at, ids]
        logits[whole] = -torch.inf
        logits[at, ids] = kept
    barred = {row: one.rules.barred(one.output) for row, one in rows.items() if one.rules.bars}
    if barred:
        at, ids = upload(_entries(barred, [*barred.values()]), logits.device)
        logits[at, ids] = -torch.inf
