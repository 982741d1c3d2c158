"""Bars the tokens that a constraint does not allow, for all constrained rows of a step at once.

The masks are bits, filled by llguidance in one call for many rows, on all but one of the threads
that torch computes with; they cross to the device as bits. The next masks are begun as soon as
tokens are drawn, so that they are filled while the step is taken in, and the next one planned and
computed; the first ones of an answer before the step that draws its first token.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from collections.abc import Sequence as Seq
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from stoker.engine.request.constraint import library
from stoker.engine.sampling.controls import RowControls
from stoker.engine.sampling.grammar import GrammarState, Masks
from stoker.ops.rounding import ceil_div
from stoker.ops.token_bitmask import Bits, bar_unset


def begin_masks(states: Seq[GrammarState]) -> None:
    """Start to fill the masks of `states`, which have none."""
    if not states:
        return
    bits = np.zeros((len(states), ceil_div(states[0].grammar.compiler.width, 32) * 4), np.uint8)
    masks, started = Masks(bits), Lock()
    matchers = [(state.matcher, row) for row, state in enumerate(states)]
    for row, state in enumerate(states):
        state.mask = masks, row
    started.acquire()
    _worker().put(_Job(masks, matchers, max(1, torch.get_num_threads() - 1), started))
    started.acquire()  # or this thread would hold the interpreter for up to 5 ms before that


def take_masks(states: Seq[GrammarState]) -> Bits:
    """What may come next, (R', width / 8) with a bit for each token, lowest first; waits for it."""
    begin_masks([state for state in states if state.mask is None])
    found = [state.mask for state in states if state.mask is not None]
    parts = {id(masks): masks for masks, _ in found}
    places, end = {}, 0
    for key, masks in parts.items():
        masks.wait()
        places[key], end = end, end + len(masks.bits)
    order = [places[id(masks)] + row for masks, row in found]
    bits = np.concatenate([m.bits for m in parts.values()]) if len(parts) > 1 else masks.bits
    if order != [*range(len(bits))]:
        bits = bits[order]
    compiler = states[0].grammar.compiler
    if compiler.phantom is not None:
        bits[:, compiler.phantom // 8] &= 0xFF ^ (1 << compiler.phantom % 8)
    for at, state in enumerate(states):
        if state.stops and state.complete:
            for token in state.stops:
                bits[at, token // 8] |= 1 << token % 8
    return bits


def bar_ungrammatical(logits: Tensor, rows: Mapping[int, RowControls]) -> None:
    """Set to -inf in logits (R, V), in place, what the constraints of `rows` bar.

    A row whose constraint can't be followed any further gets an `error`. One whose answer has
    ended stays as it is: its step was planned before that was known, and its draw is dropped.
    """
    states = {row: one.grammar for row, one in rows.items() if one.grammar is not None}
    for row, state in states.items():
        if state.followed != len(rows[row].output):  # a step that failed was drawn already
            state.restart(rows[row].output)
    states = {row: state for row, state in states.items() if not state.ended}
    if not states:
        return
    bits = take_masks([*states.values()])
    for row, state in states.items():
        if state.matcher.is_error():
            state.look()
            rows[row].error = rows[row].error or state.error
    bar_unset(logits, [*states], bits)


def follow_draws(rows: Mapping[int, RowControls], tokens: Seq[int]) -> None:
    """Take in the tokens drawn for `rows`, and begin the masks of those after them."""
    going = []
    for row, controls in rows.items():
        state = controls.grammar
        if state is not None and controls.error is None and not state.ended:
            state.follow(tokens[row])
            if not state.ended:
                going.append(state)
    begin_masks(going)


class _Job(NamedTuple):
    """Masks to be filled by matchers, each for a row, on a number of threads."""

    masks: Masks
    matchers: list[tuple[Any, int]]
    threads: int
    started: Lock


@functools.cache
def _worker() -> SimpleQueue[_Job]:
    """Where jobs go to be done, one after the other, in a thread of their own."""
    jobs: SimpleQueue[_Job] = SimpleQueue()
    Thread(target=_work, args=(jobs,), name="stoker-masks", daemon=True).start()
    return jobs


def _work(jobs: SimpleQueue[_Job]) -> None:
    while True:
        _fill(jobs.get())


def _fill(job: _Job) -> None:
    masks, matchers, threads, started = job
    started.release()
    try:
        bits = masks.bits
        _executor(threads).unsafe_compute_mask_ptr(
            matchers, bits.ctypes.data, bits.shape[1], len(matchers)
        )
    except Exception as problem:  # for whoever waits
        masks.problem = problem
    finally:
        masks.filling.release()


@functools.cache
def _executor(threads: int) -> Any:
    return library().LLExecutor(threads)
