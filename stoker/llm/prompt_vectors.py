"""Prompts with vectors, as callers write them, checked and made one row of ids.

{"prompt_embeds": tensor}                       (tokens, width), the whole prompt
{"prompt_parts": [[1, 15], tensor, [27, 5]]}    token ids and vectors, in order
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import Any, TypeGuard

import numpy as np
import torch

from stoker.engine.request.vectors import Floats, PromptVectors, content_ids
from stoker.errors import InvalidRequestError


def is_array(value: object) -> TypeGuard[torch.Tensor | np.ndarray[Any, Any]]:
    """Whether `value` is an array or a tensor."""
    return isinstance(value, torch.Tensor | np.ndarray)


def is_vectors(part: object) -> bool:
    """Whether `part` of a prompt is vectors rather than token ids."""
    return is_array(part) and "int" not in str(part.dtype)


def join_parts(parts: Seq[list[int] | Floats]) -> tuple[list[int], PromptVectors | None]:
    """The ids of a prompt of token ids and vectors (n, width), and its vectors.

    Raises:
        InvalidRequestError: the vectors differ in width.
    """
    ids: list[int] = []
    spans = []
    for part in parts:
        if isinstance(part, list):
            ids += part
        else:
            spans.append((len(ids), part))
            ids += content_ids(part)
    widths = sorted({int(values.shape[1]) for _, values in spans})
    if len(widths) > 1:
        raise InvalidRequestError(
            f"the vectors of a prompt have a width of {widths[0]} and of {widths[1]}; "
            "all must be as wide as the model's embeddings"
        )
    return ids, PromptVectors(tuple(spans)) if spans else None


def as_vectors(values: Any, name: str) -> Floats:
    """A copy of `values` in float32 on the host, (n, width).

    Args:
        values: a tensor on any device, or an array.
        name: of the field, for messages.

    Raises:
        InvalidRequestError: it is of another type or shape, empty, or not finite in float32.
    """
    if not is_array(values):
        raise InvalidRequestError(
            f"{name} must be a tensor or an array, not {type(values).__name__}; "
            "pass torch.tensor(...) of shape (tokens, width)"
        )
    shape = tuple(values.shape)
    if len(shape) != 2 or not all(shape):
        raise InvalidRequestError(
            f"{name} must have the shape (tokens, width) with at least one token, not {shape}"
        )
    floating = (
        values.is_floating_point()
        if isinstance(values, torch.Tensor)
        else np.issubdtype(values.dtype, np.floating)
    )
    if not floating:
        raise InvalidRequestError(f"{name} must be floating point, not {values.dtype}")
    if isinstance(values, torch.Tensor):
        values = values.detach().to("cpu", torch.float32).numpy()
    with np.errstate(over="ignore"):  # what leaves float32 is refused below
        found: Floats = np.array(values, np.float32, order="C")
    bad = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if len(bad):
        raise InvalidRequestError(
            f"{name} hold NaN or infinity, or values beyond float32: vector {bad[0]}"
        )
    return found
