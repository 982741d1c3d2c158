"""How a checkpoint's tensors fill our parameters: data that families write and the loader obeys.

Knows no files. A table of names maps a parameter of the transformer to a `From`; "{i}" in names
is the layer. Parameters that a spec does not have (a bias, a norm) are passed over, so one table
serves models with and without.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from stoker.model.layers.linear import Linear
from stoker.model.roles import PLAIN, Role


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
    """Where one tensor goes: some outputs of a parameter.

    Attributes:
        parameter: its name.
        owner: the module that has it.
        start, stop: the outputs, or elements along the first axis.
        source: what is done to the tensor on its way.
        rotated: heads among these outputs, from the first, that a rotary embedding turns.
    """

    parameter: str
    owner: nn.Module
    start: int
    stop: int
    source: From
    rotated: int

    def target(self) -> Tensor:
        """The part of the parameter, a view; on the meta device until it has been allocated."""
        leaf = self.parameter.rpartition(".")[2]
        if isinstance(self.owner, Linear) and leaf in self.owner.parts:
            parts = self.owner.parts
            return self.owner.format.slice_outputs(parts, self.start, self.stop)[leaf]
        parameter: Tensor = getattr(self.owner, leaf)
        return parameter[self.start : self.stop]

    def expected(self) -> tuple[int, ...]:
        """The shape that the checkpoint's tensor must have."""
        shape = tuple(self.target().shape)
        return shape[::-1] if self.source.transpose else shape

    def fill(self, tensor: Tensor) -> None:
        """Copy the tensor, of the expected shape, into its part of the parameter."""
        role, target = _role(self.owner), self.target()
        if self.source.transpose:
            tensor = tensor.t()
        if self.source.per_head:  # (heads, 3, head_dim, inputs): q, k and v of a head together
            heads = tensor.reshape(-1, 3, role.head_dim, tensor[0].numel())
            tensor = heads.transpose(0, 1).reshape(tensor.shape)
        if self.source.plus:
            tensor = tensor.float() + self.source.plus
        target.copy_(tensor)
        if self.source.pairs and self.rotated and role.rotary_dim:
            dim = role.rotary_dim
            order = torch.cat((torch.arange(0, dim, 2), torch.arange(1, dim, 2)))
            # (heads, head_dim, inputs); of biases and norms (heads, head_dim, 1)
            width = target.shape[1] if isinstance(self.owner, Linear) and target.dim() == 2 else 1
            rows = target.view(-1, role.head_dim, width)[: self.rotated]
            rows[:, :dim] = rows[:, order.to(rows.device)]


def places(table: Names, model: nn.Module, layers: int) -> Iterator[tuple[str, Place]]:
    """(name in the checkpoint, its place) for every tensor that `model`'s parameters need.

    Args:
        table: of the family.
        model: may be on the meta device; of its parameters only the shapes are looked at.
        layers: how many it has.
    """
    modules = dict(model.named_modules())
    left = {name for name, _ in model.named_parameters()}
    for pattern, source in table.items():
        for i in range(layers) if "{i}" in pattern else [None]:
            path, _, leaf = pattern.format(i=i).rpartition(".")
            owner = modules.get(path)
            for part in _stored_as(owner, leaf):
                ours = f"{path}.{part}" if path else part
                if owner is None or ours not in left:
                    continue
                left.remove(ours)
                for name, start, stop, rotated in _split(owner, part, source):
                    stored = name if part == leaf else name.removesuffix(leaf) + part
                    yield stored.format(i=i), Place(ours, owner, start, stop, source, rotated)
    assert not left, f"the family's table lacks {sorted(left)}"


def _stored_as(owner: nn.Module | None, leaf: str) -> list[str]:
    """The parameters that stand for `leaf`: the parts of its format if it is a projection's weight.

    Names in a file end alike: a weight in 8-bit rows is "weight" and "weight_scale" in both.
    """
    return [*owner.parts] if isinstance(owner, Linear) and leaf == "weight" else [leaf]


def _split(owner: nn.Module, leaf: str, source: From) -> Iterator[tuple[str, int, int, int]]:
    """(tensor, first output, end, rotated heads) for each tensor that fills a parameter."""
    role = _role(owner)
    if len(source.tensors) == 1:
        outputs = owner.outputs if isinstance(owner, Linear) else len(getattr(owner, leaf))
        yield source.tensors[0], 0, outputs, sum(role.rotated)
        return
    start = 0
    rotated = role.rotated or (0,) * len(role.sizes)
    for name, size, heads in zip(source.tensors, role.sizes, rotated, strict=True):
        yield name, start, start + size, heads
        start += size


def _role(owner: nn.Module) -> Role:
    role = getattr(owner, "role", PLAIN)
    assert isinstance(role, Role)
    return role
