"""Logit bias, allowed ids, bad words and min tokens: adds to logits, or bars tokens with -inf.

Vectorised over the rows that use them. Called by the sampler.
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


def flat(
    rows: Iterable[int], arrays: Seq[NDArray[Any]], device: torch.device
) -> tuple[Tensor, Tensor]:
    """The row of every entry, (E,) int64, and the entries one after the other, (E,)."""
    numbers = np.repeat(np.fromiter(rows, np.int64), [len(array) for array in arrays])
    entries = np.concatenate(arrays)
    return torch.from_numpy(numbers).to(device), torch.from_numpy(entries).to(device)


def add_bias(logits: Tensor, rows: Mapping[int, RowControls]) -> None:
    """Add the bias of `rows` to logits (R, V), in place."""
    some = {row: own.rules for row, own in rows.items() if len(own.rules.bias_ids)}
    at, ids = flat(some, [rules.bias_ids for rules in some.values()], logits.device)
    _, values = flat(some, [rules.bias_values for rules in some.values()], logits.device)
    logits[at, ids] += values


def bar_tokens(logits: Tensor, rows: Mapping[int, RowControls]) -> None:
    """Set what `rows` may not draw to -inf in logits (R, V), in place."""
    lists = {row: own.rules.allowed for row, own in rows.items() if own.rules.allowed is not None}
    if lists:
        at, ids = flat(lists, [*lists.values()], logits.device)
        kept = logits[at, ids]
        logits[torch.tensor([*lists], device=logits.device)] = -torch.inf
        logits[at, ids] = kept
    barred = {row: own.rules.barred(own.output) for row, own in rows.items() if own.rules.bars}
    if barred:
        at, ids = flat(barred, [*barred.values()], logits.device)
        logits[at, ids] = -torch.inf
