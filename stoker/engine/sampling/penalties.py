"""Repetition, presence and frequency penalties, on the tokens they concern and no others.

Sources: the repetition penalty is CTRL's (Keskar et al., 2019); presence and frequency
penalties are as in OpenAI's API. Called by the sampler.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from stoker.engine.sampling.controls import RowControls
from stoker.engine.sampling.masks import flat


def apply_penalties(logits: Tensor, rows: Mapping[int, RowControls]) -> None:
    """Penalise the tokens that `rows` have had, in logits (R, V) float32, in place.

    A row's work is proportional to the number of different tokens in it.
    """
    some = {row: own.counts for row, own in rows.items() if own.counts is not None}
    for row, counts in some.items():
        counts.update(rows[row].output)
    lists = [*some.values()]
    at, token = flat(some, [one.ids for one in lists], logits.device)
    _, count = flat(some, [one.counts for one in lists], logits.device)
    params = [rows[row].rules.params for row in some]
    place, _ = flat(range(len(lists)), [one.ids for one in lists], logits.device)
    repetition, presence, frequency = (
        torch.tensor(values, device=logits.device)[place]
        for values in (
            [p.repetition_penalty for p in params],
            [p.presence_penalty for p in params],
            [p.frequency_penalty for p in params],
        )
    )
    values = logits[at, token]
    values = torch.where(values > 0, values / repetition, values * repetition)
    values -= presence * (count > 0) + frequency * count
    logits[at, token] = values
