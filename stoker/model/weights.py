"""How a checkpoint's tensors fill our parameters: data that families write and the loader obeys.

Knows no files. A table of names maps a parameter of the transformer to a `From`; "{i}" in names
is the layer, "{e}" an expert, "{user}" a layer that uses the same block (`SharedBlockSpec`).
Parameters that a spec does not have (a bias, a norm) are passed over, so one table serves models
with and without.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from stoker.model.layers.experts import StackedLinear
from stoker.model.layers.linear import Linear
from stoker.model.roles import PLAIN, Role


@dataclass(frozen=True)
class From:
    """The tensors that fill one parameter, stacked along the outputs, and what is done to them.

    Experts may be stored one by one or together. Two experts, each with a gate and an up
    projection of 3 outputs, as the rows of one of our parameters (2, 6, inputs):

        "experts.{e}.gate experts.{e}.up"   experts.0.gate | experts.0.up || experts.1.gate | ...
        "gate up", each (2, 3, inputs)      gate[0]        | up[0]        || gate[1]        | ...
        "gate_up", (2, 6, inputs)           gate_up[0]                    || gate_up[1]

    Attributes:
        tensors: names. A single name for a fused parameter means that the checkpoint fuses alike.
        transpose: stored as (inputs, outputs), as GPT-2's Conv1D does.
        either: experts are stored as `transpose` says or the other way around, which their shape
            tells; if that is square, as `transpose` says.
        flat: experts are stored below each other, (experts * outputs, inputs).
        alternating: the outputs of a gate and of what it gates take turns.
        headed: the channels of a state space are stored in two axes, of heads and of what each has.
        fills: for each tensor the parts of the projection (`Role`) that it holds, neighbours, in
            the order stored; if empty, a part each, or all of them in a lone tensor.
        by_group: rows stored as what group 0 has of each part, as the queries, the key and the
            value of key-value head 0, then of group 1, and so on.
        by_head: the same, for each head.
        quarters: rows stored as queries, values and keys of the first quarter of the heads, then
            of the second, and so on.
        pairs: the rotary embedding turns neighbours (2i, 2i + 1) of a head (Su et al., 2021) and
            not (i, i + R/2). Rows are put in our order; queries and keys alike, so their
            products stay the same.
        plus: added, where a norm's weight is stored as its difference from one; the sum is
            rounded to the model's dtype.
        optional: zeros if the checkpoint has none.
        otherwise: other ways in which checkpoints store the parameter.
    """

    tensors: tuple[str, ...]
    transpose: bool = False
    either: bool = False
    flat: bool = False
    alternating: bool = False
    headed: bool = False
    fills: tuple[tuple[int, ...], ...] = ()
    by_group: bool = False
    by_head: bool = False
    quarters: bool = False
    pairs: bool = False
    plus: float = 0.0
    optional: bool = False
    otherwise: tuple[From, ...] = ()


Names = Mapping[str, From]


def names(prefix: str, table: Mapping[str, str]) -> dict[str, From]:
    """Each parameter from the tensors listed, separated by spaces, below `prefix`."""
    return {ours: From(tuple(prefix + one for one in text.split())) for ours, text in table.items()}


def changed(table: Names, parameters: str, **changes: Any) -> dict[str, From]:
    """The table with `changes` to the sources of parameters that hold one of the given words."""
    words = parameters.split()
    return {
        ours: replace(source, **changes) if any(word in ours for word in words) else source
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
        parts: the parts of the projection that they are, as the tensor has them.
        expert: whose outputs they are; None for those of all experts, and where there are none.
        way: 0, or the number of `source` in the parameter's `otherwise`, counted from 1.
    """

    parameter: str
    owner: nn.Module
    start: int
    stop: int
    source: From
    rotated: int
    parts: tuple[int, ...] = ()
    expert: int | None = None
    way: int = 0

    def target(self) -> Tensor:
        """The part of the parameter, a view; on the meta device until it has been allocated."""
        leaf = self.parameter.rpartition(".")[2]
        if isinstance(self.owner, Linear) and leaf in self.owner.parts:
            parts = self.owner.parts
            return self.owner.format.slice_outputs(parts, self.start, self.stop)[leaf]
        parameter: Tensor = getattr(self.owner, leaf)
        if not isinstance(self.owner, StackedLinear):
            return parameter[self.start : self.stop]
        if self.expert is None:
            return parameter[:, self.start : self.stop]
        kept = self.owner.kept
        slot = 0 if self.dropped else self.expert if kept is None else kept.index(self.expert)
        return parameter[slot, self.start : self.stop]

    @property
    def dropped(self) -> bool:
        """Whether the tensor is of an expert that is not loaded."""
        kept = self.owner.kept if isinstance(self.owner, StackedLinear) else None
        return self.idle or (
            self.expert is not None and kept is not None and self.expert not in kept
        )

    @property
    def idle(self) -> bool:
        """Whether the tensor is of an expert that has no weights."""
        expert = -1 if self.expert is None else self.expert
        return isinstance(self.owner, StackedLinear) and expert >= self.owner.total

    def _of_working(self, experts: int) -> int:
        """How many of the experts in a tensor of all have weights."""
        owner = self.owner
        if not isinstance(owner, StackedLinear) or self.expert is not None:
            return experts
        return owner.total if experts == owner.total + owner.idle else experts

    def expected(self) -> tuple[int, ...]:
        """The shape that the checkpoint's tensor must have, or one that it may have."""
        shape = self._stacked()
        return (prod(shape[:-1]), shape[-1]) if self.source.flat else shape

    def _stacked(self) -> tuple[int, ...]:
        """That shape, if experts are not below each other."""
        shape = tuple(self.target().shape)
        if isinstance(self.owner, StackedLinear) and self.expert is None:
            shape = (self.owner.total, *shape[1:])
        if self.source.transpose and len(shape) > 1:
            return (*shape[:-2], shape[-1], shape[-2])
        return shape

    def accepts(self, shape: tuple[int, ...]) -> bool:
        """Whether a tensor of this shape can fill it; axes of length 1 don't count."""
        expected = self.expected()
        shape = (self._of_working(shape[0]), *shape[1:]) if shape else shape
        if self.source.headed and len(shape) > 1:
            shape = (shape[0] * shape[1], *shape[2:])
        if self.source.either and len(shape) == 3:
            return shape in (expected, (expected[0], expected[2], expected[1]))
        return _without_ones(shape) == _without_ones(expected)

    def fill(self, tensor: Tensor) -> None:
        """Copy the tensor, of a shape that it accepts, into its part of the parameter."""
        if self.dropped:
            return
        role, target = _role(self.owner), self.target()
        tensor = tensor[: self._of_working(len(tensor))] if tensor.dim() else tensor
        if self.source.either and tensor.shape != self.expected():
            tensor = tensor.mT
        tensor = tensor.reshape(self._stacked())
        if isinstance(self.owner, StackedLinear) and self.owner.kept and self.expert is None:
            tensor = tensor[list(self.owner.kept)]
        if self.source.transpose and tensor.dim() > 1:
            tensor = tensor.mT
        if self.source.alternating:
            axis = 1 if isinstance(self.owner, StackedLinear) and self.expert is None else 0
            gates, gated = (torch.arange(at, tensor.shape[axis], 2) for at in (0, 1))
            tensor = tensor.index_select(axis, torch.cat((gates, gated)).to(tensor.device))
        if self.parts:
            tensor = _in_order(tensor, role, self.parts, self.source)
        if self.source.quarters:
            queries, values, keys = tensor.reshape(4, 3, -1, tensor.shape[-1]).unbind(1)
            tensor = torch.cat((queries, keys, values)).reshape(tensor.shape)
        if self.source.plus:
            tensor = tensor.float() + self.source.plus
        target.copy_(tensor)
        if (self.source.pairs or role.pairs) and self.rotated and role.rotary_dim:
            dim, start = role.rotary_dim, role.rotary_start
            order = torch.cat((torch.arange(0, dim, 2), torch.arange(1, dim, 2)))
            # (heads, head_dim, inputs); of biases and norms (heads, head_dim, 1)
            width = target.shape[1] if isinstance(self.owner, Linear) and target.dim() == 2 else 1
            rows = target.view(-1, role.head_dim, width)[: self.rotated]
            rows[:, start : start + dim] = rows[:, start + order.to(rows.device)]


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
                of_layer = _of_users(source, modules.get(f"layers.{i}"))
                for way, one in enumerate((of_layer, *of_layer.otherwise)):
                    for name, place in _split(owner, part, replace(one, otherwise=())):
                        stored = name if part == leaf else name.removesuffix(leaf) + part
                        named = stored.format(i=i, e=place.expert, **_halves(i))
                        yield named, replace(place, parameter=ours, way=way)
    assert not left, f"the family's table lacks {sorted(left)}"


def _of_users(source: From, block: nn.Module | None) -> From:
    """With the names by each layer that uses a block, one of which a checkpoint has."""
    if "{user}" not in source.tensors[0]:
        return source
    users: tuple[int, ...] = getattr(block, "users", ())
    use = str(getattr(block, "use", ""))
    first, *others = (
        tuple(one.replace("{user}", str(user)).replace("{use}", use) for one in source.tensors)
        for user in users
    )
    otherwise = tuple(replace(source, tensors=tensors) for tensors in others)
    return replace(source, tensors=first, otherwise=otherwise)


def _halves(layer: int | None) -> dict[str, int]:
    """Of checkpoints whose layers stand for two of ours each: which one, and which of both."""
    return {} if layer is None else {"pair": layer // 2, "side": layer % 2}


def _stored_as(owner: nn.Module | None, leaf: str) -> list[str]:
    """The parameters that stand for `leaf`: the parts of its format if it is a projection's weight.

    Names in a file end alike: a weight in 8-bit rows is "weight" and "weight_scale" in both.
    """
    return [*owner.parts] if isinstance(owner, Linear) and leaf == "weight" else [leaf]


def _split(owner: nn.Module, leaf: str, source: From) -> Iterator[tuple[str, Place]]:
    """(name, place) of each tensor that fills a parameter, of which the name is left open."""
    role = _role(owner)
    sizes, rotated = role.sizes, role.rotated or (0,) * len(role.sizes)
    fills = source.fills or tuple((part,) for part in range(len(sizes)))
    if not source.fills and len(source.tensors) == 1:
        fills = (tuple(range(len(sizes))),)
    experts = [None]
    if "{e}" in source.tensors[0]:
        assert isinstance(owner, StackedLinear)
        experts = range(owner.total + owner.idle)  # type: ignore[assignment]
    for expert in experts:
        start = 0
        # the last have no tensors, if the projection lacks those parts
        for name, parts in zip(source.tensors, fills, strict=False):
            whole = len(parts) == len(sizes)
            stop = _outputs(owner, leaf) if whole else start + sum(sizes[part] for part in parts)
            turned = sum(rotated[part] for part in parts)
            held = parts if len(parts) > 1 else ()
            place = Place("", owner, start, stop, source, turned, held, expert)
            if place.idle:
                place = replace(place, source=replace(source, optional=True))
            yield name, place
            start = stop


def _outputs(owner: nn.Module, leaf: str) -> int:
    """Outputs of a projection, those of one expert, or elements along the first axis."""
    if isinstance(owner, Linear):
        return owner.outputs
    shape: torch.Size = getattr(owner, leaf).shape
    return shape[1] if isinstance(owner, StackedLinear) else shape[0]


def _in_order(tensor: Tensor, role: Role, parts: tuple[int, ...], source: From) -> Tensor:
    """The rows part by part, as the role has them.

    By group, with 4 query heads, 2 key-value heads, a letter for the rows of each head:

        q0 q1 k0 v0  q2 q3 k1 v1   ->   q0 q1 q2 q3  k0 k1  v0 v1
    """
    sizes = [role.sizes[part] for part in parts]
    groups = role.groups if source.by_group else sizes[0] // role.head_dim if source.by_head else 1
    if groups == 1 and list(parts) == sorted(parts):
        return tensor
    shares = [size // groups for size in sizes]
    grouped = tensor.reshape(groups, sum(shares), tensor[0].numel())
    found = dict(zip(parts, torch.split(grouped, shares, dim=1), strict=True))
    ordered = [found[part].reshape(-1, grouped.shape[2]) for part in sorted(parts)]
    return torch.cat(ordered).reshape(tensor.shape)


def _without_ones(shape: tuple[int, ...]) -> list[int]:
    return [size for size in shape if size != 1]


def _role(owner: nn.Module) -> Role:
    role = getattr(owner, "role", PLAIN)
    assert isinstance(role, Role)
    return role
