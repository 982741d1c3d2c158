"""Repetition, presence and frequency penalties, on the tokens they concern and no others.

Sources: the repetition penalty is CTRL's (Keskar et al., 2019); presence and frequency
penalties are as in OpenAI's API.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from stoker.engine.sampling.controls import RowControls
from stoker.ops.upload import upload


def apply_penalties(logits: Tensor, rows: Mapping[int, RowControls]) -> None:
    """Penalise the tokens that `rows` have had, in logits (R, V) float32, in place.

    A row's work is proportional to the number of different tokens in it.
    """
    counts = {row: one.counts for row, one in rows.items() if one.counts is not None}
    for row, one in counts.items():
        one.update(rows[row].output)
    lengths = [len(one.ids) for one in counts.values()]
    params = [rows[row].rules.params for row in counts]
    each = [
        np.repeat(np.array(values, np.float32), lengths)
        for values in (
            [p.repetition_penalty for p in params],
            [p.presence_penalty for p in params],
            [p.frequency_penalty for p in params],
        )
    ]
    arrays = (
        np.repeat(np.array([*counts], np.int64), lengths),
        np.concatenate([one.ids for one in counts.values()]),
        np.concatenate([one.counts for one in counts.values()]),
        *each,
    )
    at, token, count, repetition, presence, frequency = upload(arrays, logits.device)
    values = logits[at, token]
    values = torch.where(values > 0, values / repetition, values * repetition)
    values -= presence * (count > 0) + frequency * count
    logits[at, token] = values
