"""Logit bias, allowed ids, bad words and min tokens: adds to logits, or bars tokens with -inf.

Vectorised over the rows that use them. Called by the sampler.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stoker.engine.sampling.controls import RowControls


def flat(arrays: Seq[NDArray[Any]], device: torch.device) -> tuple[Tensor, Tensor]:
    """The row number of every entry, (E,) int64, and the entries one after the other."""
    counts = [len(array) for array in arrays]
    rows = np.repeat(np.arange(len(arrays)), counts)
    entries = np.concatenate(arrays)
    return torch.from_numpy(rows).to(device), torch.from_numpy(entries).to(device)


def add_bias(logits: Tensor, rows: Seq[RowControls]) -> None:
    """Add each row's bias to logits (A, V), in place."""
    if any(len(row.rules.bias_ids) for row in rows):
        at, ids = flat([row.rules.bias_ids for row in rows], logits.device)
        _, values = flat([row.rules.bias_values for row in rows], logits.device)
        logits[at, ids] += values


def bar_tokens(logits: Tensor, rows: Seq[RowControls]) -> None:
    """Set what a row may not draw to -inf in logits (A, V), in place."""
    limited = [at for at, row in enumerate(rows) if row.rules.allowed is not None]
    if limited:
        which = torch.tensor(limited, device=logits.device)
        lists = [allowed for row in rows if (allowed := row.rules.allowed) is not None]
        at, ids = flat(lists, logits.device)
        barred = torch.ones(len(limited), logits.shape[1], dtype=torch.bool, device=logits.device)
        barred[at, ids] = False
        logits[which] = logits[which].masked_fill_(barred, -torch.inf)
    lists = [row.rules.barred(row.output) for row in rows]
    if any(map(len, lists)):
        at, ids = flat(lists, logits.device)
        logits[at, ids] = -torch.inf
