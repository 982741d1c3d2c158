"""A model's final hidden states without its head, and the head alone.

So that the logits of long prompts can be made a part at a time. Called by the runner.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from torch import Tensor

from stoker.model.cache import PagedCache
from stoker.model.transformer import ForwardInput, Transformer


class _Headless:
    """Stands in for a model whose head changes nothing."""

    def __init__(self, model: Transformer) -> None:
        self._model = model

    def _logits(self, states: Tensor) -> Tensor:
        return states

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def final_states(model: Transformer, batch: ForwardInput, cache: PagedCache) -> Tensor:
    """Hidden states (R, D) of the sampled rows, after the final norm."""
    hidden = getattr(model, "hidden", None)
    if hidden is not None:
        return cast(Tensor, hidden(batch, cache))
    return Transformer.forward(cast(Transformer, _Headless(model)), batch, cache)


def head_of(model: Transformer) -> Callable[[Tensor], Tensor]:
    """The function from final states (R, D) to logits (R, V)."""
    head = getattr(model, "logits", None) or model._logits
    assert head is not None, "prepare() comes first"
    return cast(Callable[[Tensor], Tensor], head)
