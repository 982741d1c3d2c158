"""Calls users' logits processors: once per step and processor, over all rows that have it.

A call that fails is repeated row by row, so that only the rows at fault fail, whatever
runs beside them.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from collections.abc import Sequence as Seq

import numpy as np
from torch import Tensor

from stoker.engine.request.params import LogitsProcessor
from stoker.engine.sampling.controls import RowControls
from stoker.ops.upload import upload


def run_processors(logits: Tensor, rows: Mapping[int, RowControls]) -> None:
    """Apply the processors of `rows`, in each row's order, to logits (R, V) float32, in place.

    Rows whose processor raises, or returns something else than logits of the same shape, dtype
    and device, get an `error`, and their logits mean nothing.
    """
    for depth in range(max(len(one.rules.params.processors) for one in rows.values())):
        users: dict[Hashable, tuple[LogitsProcessor, list[int]]] = {}
        for row, controls in rows.items():
            processors = controls.rules.params.processors
            if depth < len(processors) and controls.error is None:
                processor = processors[depth]
                users.setdefault(_key(processor), (processor, []))[1].append(row)
        for processor, places in users.values():
            _apply(processor, logits, rows, places)


def _apply(
    processor: LogitsProcessor, logits: Tensor, rows: Mapping[int, RowControls], places: list[int]
) -> None:
    (which,) = upload([np.array(places, np.int64)], logits.device)
    try:
        logits[which] = _call(processor, logits[which], [rows[row] for row in places])
    except Exception as problem:  # users' code raises whatever it likes
        if len(places) == 1:
            name = getattr(processor, "__name__", type(processor).__name__)
            rows[places[0]].error = f"the logits processor {name} failed: {_words(problem)}"
            return
        for row in places:
            _apply(processor, logits, rows, [row])


def _call(processor: LogitsProcessor, given: Tensor, rows: Seq[RowControls]) -> Tensor:
    shape, dtype, device = given.shape, given.dtype, given.device
    made = processor([list(row.output) for row in rows], given)
    if not isinstance(made, Tensor):
        raise TypeError(f"it returned {type(made).__name__} in place of a tensor")
    if made.shape != shape or made.dtype != dtype or made.device != device:
        raise ValueError(
            f"it returned {tuple(made.shape)} {made.dtype} on {made.device}, where "
            f"{tuple(shape)} {dtype} on {device} was wanted"
        )
    return made


def _words(problem: Exception) -> str:
    own = type(problem) in (TypeError, ValueError) and str(problem).startswith("it returned")
    return str(problem) if own else f"{type(problem).__name__}: {problem}"


def _key(processor: LogitsProcessor) -> Hashable:
    """The same for the same function, bound methods of one object among them."""
    owner = getattr(processor, "__self__", None)
    return id(processor) if owner is None else (id(owner), getattr(processor, "__name__", ""))
