"""A layer with a block of shared weights before its mixer; see `SharedBlockSpec`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from stoker.model import roles
from stoker.model.layers.attention import Attention
from stoker.model.layers.block import Block
from stoker.model.layers.linear import LayerPart, Linear
from stoker.model.layers.networks import Dense, gate_up_sizes
from stoker.model.module import Module
from stoker.model.norms import make_norm
from stoker.model.spec.model import ModelSpec
from stoker.model.spec.shared import SharedBlockSpec
from stoker.model.step import StepContext
from stoker.ops.select import Operations
from stoker.quant.choose import Formats


class KeptEmbeddings(Module):
    """Stands where a model has token inputs: its layers read the embeddings themselves."""

    def forward(self, ids: Tensor, embedded: Tensor, ops: Operations) -> Tensor:
        """A copy of the embeddings (T, D), which the first layer may overwrite."""
        return embedded.clone()


class SharedLinear(Module):
    """y = x W^T + b, with weights that another layer may have, plus maps of low rank of its own.

    Attributes:
        base: the projection, in the layer that has its weights.
        down: to the ranks of all maps, side by side.
        ups: of each map, whose outputs lie side by side.
    """

    def __init__(self, linear: Linear, lent: bool, sizes: Sequence[int] = (), rank: int = 0):
        super().__init__()
        self.base = None if lent else linear
        self._used = [linear]  # in a list, so that a borrowed one isn't a part of this
        self.rank = rank
        self.down = self.ups = None
        if rank:
            role = roles.Role((rank,) * len(sizes))
            self.down = Linear(linear.inputs, rank * len(sizes), role=role)
            self.ups = nn.ModuleList(Linear(rank, size) for size in sizes)

    def borrow(self, lender: SharedLinear) -> None:
        """Use the projection of another, which holds its own."""
        self._used = lender._used

    def forward(self, x: Tensor, add: Tensor | None = None) -> Tensor:
        y = cast(Tensor, self._used[0](x, add))
        if self.down is None or self.ups is None:
            return y
        ranks = torch.split(self.down(x), self.rank, dim=1)
        maps = [up(one.contiguous()) for up, one in zip(self.ups, ranks, strict=True)]
        return y + cast(Tensor, maps[0] if len(maps) == 1 else torch.cat(maps, dim=1))


class SharedBlock(LayerPart):
    """x + linear(network(norm(attention(norm(x | e))))), for embeddings e."""

    def __init__(self, spec: SharedBlockSpec, model: ModelSpec, index: int) -> None:
        super().__init__(model, index)
        hidden, lent = model.hidden, spec.borrows
        attention = self.attention = Attention(spec.attention, model, index)
        attention.drops_rows = False  # the mixer behind still wants all
        sizes = spec.sizes
        qkv = Linear(2 * hidden, sum(sizes), role=roles.qkv(spec.attention))
        wide = SharedLinear(qkv, lent, sizes, spec.attention_rank)
        out = SharedLinear(attention.out, lent)
        attention.qkv, attention.out = cast(Linear, wide), cast(Linear, out)
        ffn = self.ffn = Dense(spec.ffn, model, index)
        outputs, _ = gate_up_sizes(spec.ffn)
        up = SharedLinear(ffn.up, lent, [outputs], spec.ffn_rank)
        down = SharedLinear(ffn.down, lent)
        ffn.up, ffn.down = cast(Linear, up), cast(Linear, down)
        self.projections = (wide, out, up, down)
        self.norms = (make_norm((2 * hidden,), model.norm), make_norm((hidden,), model.norm))
        if not lent:
            self.in_norm, self.ffn_norm = self.norms
        self.linear = Linear(hidden, hidden)

    def borrow(self, lender: SharedBlock) -> None:
        """Use the weights of another layer's block."""
        self.norms = lender.norms
        for ours, theirs in zip(self.projections, lender.projections, strict=True):
            ours.borrow(theirs)

    def forward(self, x: Tensor, step: StepContext, residual: Tensor) -> Tensor:
        assert step.token_inputs is not None
        in_norm, ffn_norm = self.norms
        y = in_norm(torch.cat((x, step.token_inputs), dim=-1), step.ops)
        y = self.attention.forward(y, step, torch.zeros_like(x))
        y = self.ffn.forward(ffn_norm(y, step.ops), step, torch.zeros_like(x))
        return self.joined(self.linear, y, residual, step.ops)


class BlockBehindShared(Block):
    """A layer whose mixer reads what a shared block makes of the residual.

    Attributes:
        users: the layers by one of which checkpoints name the tensors of the block.
        use: by which they number the maps beside its projections.
    """

    def __init__(self, model: ModelSpec, index: int) -> None:
        super().__init__(model, index)
        spec = model.layers[index].shared
        assert spec is not None
        assert self.mixer is not None
        assert self.ffn is None, "a network behind the mixer is not built"
        self.users, self.use = spec.users, spec.use
        self.shared = SharedBlock(spec, model, index)

    def borrow(self, layers: nn.ModuleList) -> None:
        """Use the weights of the layer that holds them, once all are made."""
        holder = layers[self.users[0]]
        assert isinstance(holder, BlockBehindShared)
        self.shared.borrow(holder.shared)

    def prepare(self, formats: Formats) -> None:
        self.shared.prepare(formats)
        super().prepare(formats)

    def forward(self, x: Tensor, step: StepContext) -> Tensor:
        assert self.mixer is not None
        y = self.shared.forward(x, step, x.clone())
        return self.mixer.forward(self.mixer_norm(y, step.ops), step, x)
