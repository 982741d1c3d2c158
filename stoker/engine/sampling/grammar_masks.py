"""Bars the tokens that a constraint does not allow, for all constrained rows of a step at once.

The masks are bits, filled by llguidance in one call for many rows, on all but one of the threads
that torch computes with; they cross to the device as bits. The engine begins as soon as it has
taken a step's tokens in, so that the masks are filled while the next step is planned and computed.
The sampler takes them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Seq
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stoker.engine.sampling.constraint import library
from stoker.engine.sampling.controls import RowControls
from stoker.engine.sampling.grammar import GrammarState, Masks
from stoker.ops.bits import Bits, bar_unset


def begin_masks(states: Iterable[GrammarState]) -> None:
    """Start to fill the masks of those states that have none."""
    lacking = [state for state in states if state.mask is None]
    if not lacking:
        return
    bits = np.zeros((len(lacking), -(-lacking[0].grammar.compiler.width // 32) * 4), np.uint8)
    matchers = [(state.matcher, row) for row, state in enumerate(lacking)]
    threads, started = max(1, torch.get_num_threads() - 1), Event()
    masks = Masks(bits, _worker().submit(_fill, matchers, bits, threads, started))
    for row, state in enumerate(lacking):
        state.mask = masks, row
    started.wait()  # or this thread would hold the interpreter for up to 5 ms before it can start


def take_masks(states: Seq[GrammarState]) -> Bits:
    """What may come next, (R', width / 8) with a bit for each token, lowest first; waits for it."""
    begin_masks(states)
    rows: dict[int, tuple[Masks, list[int], list[int]]] = {}
    for at, state in enumerate(states):
        assert state.mask is not None
        masks, row = state.mask
        _, places, sources = rows.setdefault(id(masks), (masks, [], []))
        places.append(at)
        sources.append(row)
    compiler = states[0].grammar.compiler
    bits = np.empty((len(states), -(-compiler.width // 32) * 4), np.uint8)
    for masks, places, sources in rows.values():
        masks.done.result()
        bits[places] = masks.bits[sources]
    if compiler.phantom is not None:
        bits[:, compiler.phantom // 8] &= 0xFF ^ (1 << compiler.phantom % 8)
    for at, state in enumerate(states):
        if state.stops and state.complete:
            for token in state.stops:
                bits[at, token // 8] |= 1 << token % 8
    return bits


def bar_ungrammatical(logits: Tensor, rows: Mapping[int, RowControls]) -> None:
    """Set to -inf in logits (R, V), in place, what the constraints of `rows` bar.

    A row whose constraint can't be followed any further gets an `error`.
    """
    states = {row: own.grammar for row, own in rows.items() if own.grammar is not None}
    if not states:
        return
    bits = take_masks([*states.values()])
    for row, state in states.items():
        state.look()
        rows[row].error = rows[row].error or state.error
    bar_unset(logits, [*states], bits)


def _fill(matchers: list[tuple[Any, int]], bits: Bits, threads: int, started: Event) -> None:
    started.set()
    _executor(threads).unsafe_compute_mask_ptr(
        matchers, bits.ctypes.data, bits.shape[1], len(matchers)
    )


@functools.cache
def _worker() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "stoker-masks")


@functools.cache
def _executor(threads: int) -> Any:
    return library().LLExecutor(threads)
