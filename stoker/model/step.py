"""What layers see of a step: its tensors, the cache, rotary tables and operations.

Legend: T tokens, R sampled rows.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from stoker.model.cache import PagedCache
from stoker.ops.select import Operations
from stoker.ops.state_plan import StatePlan

__all__ = ["StatePlan", "StepContext", "StepTensors", "TokenVectors"]


class TokenVectors(NamedTuple):
    """E of a step's tokens that are vectors of a prompt; see `ModelSpec.scales_vectors`."""

    rows: Tensor  # (E,) int64, places among the tokens
    values: Tensor  # (E, width of the embedding) float32


@dataclass(frozen=True)
class StepTensors:
    """The tensors of one step.

    Two sequences, one with 3 tokens from position 5 on and one with its token at 2, both drawing,
    in blocks of 4 tokens, blocks 8 and 3 being the first's and 6 the second's:

        token_ids     11  12  13 | 21
        positions      5   6   7 |  2
        cells         13  14  15 | 26       3*4+1, 3*4+2, 3*4+3; 6*4+2
        sample_rows            2    3

    Attributes:
        token_ids: (T,) int64; any id for a vector.
        positions: (T,) int64, absolute.
        cells: of each cache group (T,) int64, where each token's keys and values go. One for all
            groups if they share their block tables; without meaning for a group of states.
        sample_rows: (R,) int64, the tokens whose logits or final states are wanted.
        attention: of each cache group, or one for all, the attention implementation's plan; of a
            group of states a `StatePlan`.
        vectors: what takes the place of embeddings of tokens; None for nothing.
    """

    token_ids: Tensor
    positions: Tensor
    cells: tuple[Tensor, ...]
    sample_rows: Tensor
    attention: tuple[Any, ...]
    vectors: TokenVectors | None = None


@dataclass(frozen=True)
class StepContext:
    """A step as layers see it; the same for all layers.

    Attributes:
        cells, attention: as in `StepTensors`, with an entry for each cache group.
        positions: (T,) int64.
        rows: (R,) int64, the tokens that go on behind the last layer that mixes tokens.
        ropes: for each of `ModelSpec.ropes` the tokens' rows of its table, (T, 2, dim/2).
        token_inputs: (T, L, width) of each layer, where the model has them; the embeddings (T, D)
            where layers read those.
        memo: what layers have worked out of the step that later ones want too, by keys of theirs.
    """

    positions: Tensor
    rows: Tensor
    cells: tuple[Tensor, ...]
    attention: tuple[Any, ...]
    cache: PagedCache
    ropes: tuple[Tensor, ...]
    ops: Operations
    token_inputs: Tensor | None = None
    memo: dict[Hashable, Any] = field(default_factory=dict)
