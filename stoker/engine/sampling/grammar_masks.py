"""Bars the tokens that a constraint does not allow, for all constrained rows of a step at once.

The masks are bits, filled by llguidance in one call, on as many threads as torch computes
with, while the step's forward pass runs; they cross to the device as bits. The engine begins it,
the sampler takes the masks.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stoker.engine.sampling.constraint import library
from stoker.engine.sampling.controls import RowControls
from stoker.engine.sampling.grammar import GrammarState

Bits = NDArray[np.uint8]


def begin_masks(rows: Mapping[int, RowControls]) -> Future[Bits] | None:
    """Start to fill the masks of `rows`; None if none has a constraint.

    Until it is done nothing else may touch their states.
    """
    states = []
    for own in rows.values():
        if own.grammar is not None:
            own.grammar.follow(own.output)
            states.append(own.grammar)
    if not states:
        return None
    return _worker().submit(fill_bits, states, torch.get_num_threads())


def bar_ungrammatical(
    logits: Tensor, rows: Mapping[int, RowControls], begun: Future[Bits] | None = None
) -> None:
    """Set to -inf in logits (R, V), in place, what the constraints of `rows` bar.

    A row whose constraint can't be followed any further gets an `error`.
    """
    states = {row: own.grammar for row, own in rows.items() if own.grammar is not None}
    begun = begun or begin_masks(rows)
    if begun is None:
        return
    bits = begun.result()
    for row, state in states.items():
        rows[row].error = rows[row].error or state.error
    barred = unpack(bits, logits.shape[1], logits.device).logical_not_()
    if len(states) == len(logits):  # the rows come in order
        logits.masked_fill_(barred, -torch.inf)
    else:
        which = torch.tensor([*states], device=logits.device)
        logits[which] = logits[which].masked_fill_(barred, -torch.inf)


def fill_bits(states: list[GrammarState], threads: int = 1) -> Bits:
    """What may come next, (R', width / 8) with a bit for each token, lowest first."""
    compiler = states[0].grammar.compiler
    bits = np.zeros((len(states), -(-compiler.width // 32) * 4), np.uint8)
    matchers = [(state.matcher, row) for row, state in enumerate(states)]
    _executor(threads).unsafe_compute_mask_ptr(
        matchers, bits.ctypes.data, bits.shape[1], len(states)
    )
    phantom = compiler.phantom
    if phantom is not None:
        bits[:, phantom // 8] &= 0xFF ^ (1 << phantom % 8)
    for row, state in enumerate(states):
        if state.stops and state.complete:
            for token in state.stops:
                bits[row, token // 8] |= 1 << token % 8
    return bits


def unpack(bits: Bits, vocab: int, device: torch.device) -> Tensor:
    """The bits as truth values (R', vocab) on the device."""
    if device.type == "cpu":
        found = np.unpackbits(bits, axis=1, count=vocab, bitorder="little")
        return torch.from_numpy(found).view(torch.bool)
    packed = torch.from_numpy(bits).to(device)
    places = torch.arange(8, dtype=torch.uint8, device=device)
    return ((packed[:, :, None] >> places) & 1).bool().flatten(1)[:, :vocab]


@functools.cache
def _worker() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "stoker-masks")


@functools.cache
def _executor(threads: int) -> Any:
    return library().LLExecutor(threads)
