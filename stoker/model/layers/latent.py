"""The mixer of a `LatentSpec`: attention over latent rows, which all heads share.

The map from a latent vector to a head's key is folded into the query, that to its value into the
output: every head then attends to the rows themselves, as if there were one key-value head
("absorbed"). Or the keys and values of all heads are made first ("expanded"), where that costs less
(`LatentSpec.expands`) and results may depend on how a sequence was cut into chunks, as anyhow they
do on a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stoker.model import roles
from stoker.model.layers.linear import LayerPart, Linear
from stoker.model.module import Module
from stoker.model.norms import RmsNorm
from stoker.model.spec.latent import LatentSpec
from stoker.model.spec.model import ModelSpec
from stoker.model.spec.part import NormSpec
from stoker.model.step import StepContext
from stoker.ops.attention import Scores
from stoker.ops.head_maps import HeadMaps, prepare_head_maps
from stoker.ops.kv_pages import Pages, load_blocks
from stoker.ops.latent import (
    Expansion,
    LatentNorm,
    attend_expanded,
    plan_expansion,
    values_of,
)
from stoker.quant.choose import Formats


class KeyValueMaps(Module):
    """The maps from latent vectors to the keys and values of heads, folded or as they are.

    Attributes:
        weight: (H * (plain + value), rank), a head's key before its value; dropped once prepared
            if the folded maps have copies of it.
        into: from a query's plain numbers to those of a latent vector.
        out_of: from mixed latent vectors to a head's output.
    """

    into: HeadMaps
    out_of: HeadMaps

    def __init__(self, spec: LatentSpec) -> None:
        super().__init__()
        self.spec = spec
        outputs = spec.heads * (spec.plain_dim + spec.value_dim)
        self.weight: nn.Parameter | None
        self.weight = nn.Parameter(torch.empty(outputs, spec.rank), requires_grad=False)
        self.prepared = False

    def prepare(self) -> None:
        """Make the folded maps; a second time nothing is done."""
        if self.prepared:
            return
        assert self.weight is not None
        weight = self.weight.view(self.spec.heads, -1, self.spec.rank)
        keys, values = weight[:, : self.spec.plain_dim], weight[:, self.spec.plain_dim :]
        self.into, self.out_of = prepare_head_maps(keys.mT), prepare_head_maps(values)
        self.prepared = True
        if self.keeps_bits:
            self.weight = None

    @property
    def keeps_bits(self) -> bool:
        """Whether a row's result is the same in any batch."""
        return self.into.keeps_bits and self.out_of.keeps_bits

    @property
    def packed(self) -> tuple[Tensor, ...]:
        """All that is kept of the weight once it is dropped."""
        return (self.into.weight, self.out_of.weight) if self.weight is None else ()

    def expand(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Keys (m, H, plain + shared) and values (m, H, value) of rows (m, rank + shared)."""
        assert self.weight is not None
        spec = self.spec
        both = F.linear(rows[:, : spec.rank], self.weight).view(len(rows), spec.heads, -1)
        shared = rows[:, None, spec.rank :].expand(-1, spec.heads, -1)
        keys = torch.cat((both[..., : spec.plain_dim], shared), dim=-1)
        return keys, both[..., spec.plain_dim :]


class LatentAttention(LayerPart):
    """Multi-head latent attention; writes and reads latent rows."""

    def __init__(self, spec: LatentSpec, model: ModelSpec, index: int) -> None:
        super().__init__(model, index)
        self.spec = spec
        self.group = model.group_of(index)
        self.rope = model.ropes.index(spec.rope)
        queries, norm = spec.heads * spec.key_dim, NormSpec("rms", spec.eps)
        role = roles.latent(spec, spec.heads, spec.key_dim)
        self.q_down = self.q_norm = None
        if spec.query_rank is not None:
            self.q_down = Linear(model.hidden, spec.query_rank, spec.bias)
            self.q_norm = RmsNorm((spec.query_rank,), norm, roles.PLAIN)
        self.q = Linear(spec.query_rank or model.hidden, queries, role=role)
        self.kv = Linear(model.hidden, spec.row, spec.bias, roles.latent(spec, 1, spec.row))
        self.kv_norm = RmsNorm((spec.rank,), norm, roles.PLAIN)
        self.kv_maps = KeyValueMaps(spec)
        self.out = Linear(spec.heads * spec.value_dim, model.hidden, spec.bias)
        self.gates = Linear(model.hidden, spec.heads) if spec.gates_heads else None
        self.scores = Scores(spec.scale)

    def prepare(self, formats: Formats) -> None:
        """As of any part; the maps of heads stay floats."""
        super().prepare(formats)
        self.kv_maps.prepare()

    def forward(self, x: Tensor, step: StepContext, residual: Tensor) -> Tensor:
        spec, ops, maps = self.spec, step.ops, self.kv_maps
        kv, gates = self.kv(x), None
        if self.gates is not None:
            gates = self.gates(x)
            gates = gates[step.rows] if self.drops_rows else gates
        if self.q_down is not None and self.q_norm is not None:
            x = self.q_norm(self.q_down(x), ops)
        q = self.q(x).view(len(x), spec.heads, spec.key_dim)
        del x
        if spec.growth:
            q = q * spec.growth.at(step.positions)[:, None, None].to(q.dtype)
        (pages,) = self.kept(step)
        norm = LatentNorm(self.kv_norm.weight, self.kv_norm.eps, spec.latent_gain)
        rope, cells = step.ropes[self.rope], step.cells[self.group]
        query = q.new_empty(len(q), spec.heads, spec.row)
        ops.store_latent(q, kv, norm, rope, cells, pages, query)
        del kv
        expansion = None if maps.keeps_bits else self._expansion(step)
        if expansion is None:
            maps.into(q[..., : spec.plain_dim], query[..., : spec.rank])
            del q
            mixed = self._absorbed(step.attention[self.group], query, pages, step)
            del query
            mixed, residual = self.going_on(mixed, residual, step)
            inner = self._out_of(mixed)
        else:
            inner = self._divided(expansion, q, query, pages, step)
            inner, residual = self.going_on(inner, residual, step)
        inner = inner.flatten(1)
        if gates is not None:
            inner = ops.sigmoid_gate(inner, gates)
        return self.joined(self.out, inner, residual, ops)

    def _expansion(self, step: StepContext) -> Expansion | None:
        """Which sequences of the step are expanded, worked out by the first layer that asks."""
        key = LatentAttention, self.group, self.spec
        if key not in step.memo:
            plan, attention = step.attention[self.group], step.ops.attention
            step.memo[key] = plan_expansion(plan, attention, self.spec.expands)
        found: Expansion | None = step.memo[key]
        return found

    def _absorbed(self, plan: Any, query: Tensor, pages: Pages, step: StepContext) -> Tensor:
        """Mixed latent vectors (T, H, rank) for queries (T, H, rank + shared)."""
        values = values_of(pages, self.spec.rank)
        return step.ops.attention.run(plan, query, pages, values, self.scores)

    def _out_of(self, mixed: Tensor) -> Tensor:
        """Outputs of heads (T, H, value) from mixed latent vectors."""
        return self.kv_maps.out_of(mixed, mixed.new_empty(*mixed.shape[:2], self.spec.value_dim))

    def _divided(
        self, expansion: Expansion, q: Tensor, query: Tensor, pages: Pages, step: StepContext
    ) -> Tensor:
        """Outputs of heads (T, H, value), some sequences being expanded and the others absorbed."""
        spec = self.spec
        inner = q.new_empty(*q.shape[:2], spec.value_dim)
        for rows, context, blocks in expansion.expanded:
            latent = load_blocks(pages, blocks)[:context, 0].to(q.dtype)
            keys, values = self.kv_maps.expand(latent)
            queries = torch.cat((q[rows, :, : spec.plain_dim], query[rows, :, spec.rank :]), dim=-1)
            inner[rows] = attend_expanded(queries, keys, values, spec.scale)
        if expansion.plan is not None:
            rest = query[expansion.rows]
            self.kv_maps.into(q[expansion.rows][..., : spec.plain_dim], rest[..., : spec.rank])
            mixed = self._absorbed(expansion.plan, rest, pages, step)
            inner[expansion.rows] = self._out_of(mixed)
        return inner
