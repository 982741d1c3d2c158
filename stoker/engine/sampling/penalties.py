"""Repetition, presence and frequency penalties, on the tokens they concern and no others.

Sources: the repetition penalty is CTRL's (Keskar et al., 2019); presence and frequency
penalties are as in OpenAI's API. Called by the sampler.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from stoker.engine.sampling.controls import RowControls
from stoker.engine.sampling.masks import flat


def apply_penalties(logits: Tensor, rows: Seq[RowControls]) -> None:
    """Penalise the tokens each row has had, in logits (A, V) float32, in place.

    A row's work is proportional to the number of different tokens in it.
    """
    chosen = [(at, row) for at, row in enumerate(rows) if row.counts is not None]
    if not chosen:
        return
    ids, counts = [], []
    for _, row in chosen:
        assert row.counts is not None
        row.counts.update(row.output)
        ids.append(row.counts.ids)
        counts.append(row.counts.counts)
    device = logits.device
    row_of, token = flat(ids, device)
    _, count = flat(counts, device)
    params = [row.rules.params for _, row in chosen]
    repetition = torch.tensor([p.repetition_penalty for p in params], device=device)[row_of]
    presence = torch.tensor([p.presence_penalty for p in params], device=device)[row_of]
    frequency = torch.tensor([p.frequency_penalty for p in params], device=device)[row_of]
    at = torch.tensor([at for at, _ in chosen], device=device)[row_of]
    values = logits[at, token]
    values = torch.where(values > 0, values / repetition, values * repetition)
    values -= presence * (count > 0) + frequency * count
    logits[at, token] = values
