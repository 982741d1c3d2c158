"""How a checkpoint's tensors fill our parameters: data that families write and the loader obeys.

Knows no files. A table of names maps a parameter of the transformer to a `From`; "{i}" in names
is the layer. Parameters that a spec does not have (a bias, a norm) are passed over, so one table
serves models with and without.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stoker.model.spec import AttentionSpec, ModelSpec


@dataclass(frozen=True)
class From:
    """The tensors that fill one parameter, stacked along the first axis, and what is done to them.

    Attributes:
        tensors: names. A single name for a fused parameter means that the checkpoint fuses alike.
        transpose: stored as (inputs, outputs), as GPT-2's Conv1D does.
        per_head: rows stored as q, k, v of head 0, then of head 1, and so on.
        pairs: the rotary embedding turns neighbours (2i, 2i + 1) of a head (Su et al., 2021) and
            not (i, i + R/2). Rows are put in our order; queries and keys alike, so their
            products stay the same.
        plus: added, where a norm's weight is stored as its difference from one; the sum is
            rounded to the model's dtype.
    """

    tensors: tuple[str, ...]
    transpose: bool = False
    per_head: bool = False
    pairs: bool = False
    plus: float = 0.0


Names = Mapping[str, From]


def names(prefix: str, table: Mapping[str, str]) -> dict[str, From]:
    """Each parameter from the tensors listed, separated by spaces, below `prefix`."""
    return {ours: From(tuple(prefix + one for one in text.split())) for ours, text in table.items()}


def changed(table: Names, parameters: str, **changes: bool | float) -> dict[str, From]:
    """The table with `changes` to the sources of parameters that hold one of the given words."""
    words = parameters.split()
    return {
        ours: replace(source, **changes) if any(word in ours for word in words) else source  # type: ignore[arg-type]
        for ours, source in table.items()
    }


@dataclass(frozen=True)
class Place:
    """Where one tensor goes."""

    parameter: str
    start: int  # of its rows in the parameter
    shape: tuple[int, ...]  # of its part of the parameter
    source: From
    mixer: AttentionSpec | None  # of the parameter's layer, if it is in one
    turned: int  # heads of the part, from its first, that a rotary embedding turns

    def expected(self) -> tuple[int, ...]:
        """The shape that the checkpoint's tensor must have."""
        return self.shape[::-1] if self.source.transpose else self.shape

    def fill(self, parameter: Tensor, tensor: Tensor) -> None:
        """Copy the tensor, of the expected shape, into its part of the parameter."""
        if self.source.transpose:
            tensor = tensor.t()
        if self.source.per_head and self.mixer is not None:
            heads = tensor.reshape(self.mixer.heads, 3, self.mixer.head_dim, -1)
            tensor = heads.transpose(0, 1).reshape(tensor.shape)
        if self.source.plus:
            tensor = tensor.float() + self.source.plus
        part = parameter[self.start : self.start + self.shape[0]]
        part.copy_(tensor)
        rope = self.mixer.rope if self.mixer else None
        if self.source.pairs and self.mixer is not None and rope is not None and self.turned:
            order = torch.cat((torch.arange(0, rope.dim, 2), torch.arange(1, rope.dim, 2)))
            # (heads, head_dim, rest); rest is 1 for biases and norms
            rows = part.view(-1, self.mixer.head_dim, self._row_size())[: self.turned]
            rows[:, : rope.dim] = rows[:, order.to(rows.device)]

    def _row_size(self) -> int:
        return self.shape[1] if self.parameter.endswith("qkv.weight") else 1


def places(
    table: Names, parameters: dict[str, Tensor], spec: ModelSpec
) -> Iterator[tuple[str, Place]]:
    """(name in the checkpoint, its place) for every tensor that `parameters` need.

    Of these only the shapes are looked at.
    """
    left = dict(parameters)
    for pattern, source in table.items():
        for i in range(len(spec.layers)) if "{i}" in pattern else [None]:
            ours = pattern.format(i=i)
            if ours not in left:
                continue
            mixer = spec.layers[i].mixer if i is not None else None
            parts = _parts(left.pop(ours), ours, mixer, whole=len(source.tensors) == 1)
            start = 0
            for name, (part, turned) in zip(source.tensors, parts, strict=True):
                shape = tuple(part.shape)
                yield name.format(i=i), Place(ours, start, shape, source, mixer, turned)
                start += shape[0]
    assert not left, f"the family's table lacks {sorted(left)}"


def _parts(
    parameter: Tensor, name: str, mixer: AttentionSpec | None, *, whole: bool
) -> list[tuple[Tensor, int]]:
    """The parts of a parameter, each with the number of its heads that are rotated."""
    if ".qkv." in name and mixer is not None:
        turned = (mixer.heads, mixer.kv_heads, 0)
        if whole:
            return [(parameter, sum(turned))]
        heads = (mixer.heads, mixer.kv_heads, mixer.kv_heads)
        split = torch.split(parameter, [n * mixer.head_dim for n in heads])
        return list(zip(split, turned, strict=True))
    if ".ffn.up." in name and not whole:
        return [(part, 0) for part in parameter.chunk(2)]
    turned_norm = parameter.numel() // mixer.head_dim if mixer and "_norm." in name else 0
    return [(parameter, turned_norm if ".mixer." in name else 0)]
