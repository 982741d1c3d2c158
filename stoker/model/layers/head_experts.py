"""The mixer of a `HeadExpertsSpec`: attention whose query heads belong to experts."""

from __future__ import annotations

import torch
from torch import Tensor

from stoker.model import roles
from stoker.model.layers.attention import Attention
from stoker.model.layers.experts import Router, StackedLinear, parameter
from stoker.model.layers.linear import Linear
from stoker.model.spec.head_experts import HeadExpertsSpec
from stoker.model.spec.model import ModelSpec
from stoker.model.step import StepContext
from stoker.ops.chosen_maps import chosen_maps
from stoker.ops.linear import LinearFn
from stoker.ops.routing import Routes
from stoker.quant.choose import Formats
from stoker.quant.format import make_product


class HeadExperts(Attention):
    """As attention; `qkv` gives keys and values alone, and the experts have no other projection."""

    def __init__(self, spec: HeadExpertsSpec, model: ModelSpec, index: int) -> None:
        super().__init__(spec, model, index)
        mixture, width = spec.experts, spec.kv_heads * spec.head_dim
        self.shape = (mixture.routing.active, spec.kv_heads, spec.head_dim)
        self.qkv = Linear(model.hidden, 2 * width, role=roles.keys_and_values(spec))
        del self.out
        self.router = Router(mixture, model.hidden)
        self.expert_up = StackedLinear(mixture, model.hidden, width)
        self.expert_down = StackedLinear(mixture, width, model.hidden)
        self.bias = parameter(model.hidden)
        self._queries: list[LinearFn] = []
        self._outs: list[LinearFn] = []

    def prepare(self, formats: Formats) -> None:
        """As of any part; each expert's maps become a product."""
        if not self._queries:
            for stacked, made in ((self.expert_up, self._queries), (self.expert_down, self._outs)):
                made += [make_product(one, formats.projections) for one in stacked.take_weight()]
                stacked.packed = tuple(kept for one in made for kept in one.tensors)
            self.router.prepare()
        super().prepare(formats)

    def _by_experts(self, maps: list[LinearFn], x: Tensor, routes: Routes) -> Tensor:
        """Rows (T, K, inputs), each through the map of its expert: (T, K, outputs)."""
        y = chosen_maps(maps, x.flatten(0, 1), routes.experts.flatten())
        return y.view(*x.shape[:2], y.shape[-1])

    def forward(self, x: Tensor, step: StepContext, residual: Tensor) -> Tensor:
        routes, (active, groups, dim) = self.router(x), self.shape
        q = self._by_experts(self._queries, x[:, None].expand(-1, active, -1), routes)
        q = q.view(len(x), active, groups, dim).transpose(1, 2)
        keys, values = self.kept(step)
        qkv = torch.cat((q.flatten(1), self.qkv(x)), dim=1)
        q = self._stored(qkv, step.ropes[self.rope], step, keys, values)
        plan = step.attention[self.group]
        mixed = step.ops.attention.run(plan, q, keys, values, self.scores)
        mixed, residual = self.going_on(mixed, residual, step)
        if self.drops_rows:
            routes = Routes(*(one[step.rows] for one in routes))
        mixed = mixed.view(len(mixed), groups, active, dim).transpose(1, 2).flatten(2)
        each = self._by_experts(self._outs, mixed, routes)
        total = self.bias
        for place in range(active):  # one by one, so that a row's bits don't depend on others
            total = total + each[:, place] * routes.weights[:, place, None].to(each.dtype)
        return self.added(total, residual, step.ops)
