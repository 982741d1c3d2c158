"""The mixer of an `AttentionSpec`: softmax attention over the paged cache."""

from __future__ import annotations

import torch
from torch import Tensor

from stoker.model import roles
from stoker.model.layers.linear import LayerPart, Linear
from stoker.model.norms import RmsNorm, make_norm
from stoker.model.spec.attention import AttentionSpec
from stoker.model.spec.model import ModelSpec
from stoker.model.step import StepContext
from stoker.ops.attention import Scores
from stoker.ops.rope import HeadNorms
from stoker.ops.select import Operations


class Attention(LayerPart):
    """Grouped-query attention with a fused QKV projection; writes and reads the cache."""

    def __init__(self, spec: AttentionSpec, model: ModelSpec, index: int) -> None:
        super().__init__(model, index)
        self.spec = spec
        self.group = model.group_of(index)
        self.rope = model.ropes.index(spec.rope)
        self.sizes = [n * spec.head_dim for n in (spec.heads, spec.kv_heads, spec.kv_heads)]
        self.qkv = Linear(model.hidden, sum(self.sizes), spec.qkv_bias, roles.qkv(spec))
        self.out = Linear(spec.heads * spec.head_dim, model.hidden, spec.out_bias)
        if spec.qk_norm:
            self.q_norm, self.k_norm = (
                make_norm(self._norm_shape(heads), model.norm, role=roles.heads(spec, heads))
                for heads in (spec.heads, spec.kv_heads)
            )
        self.scores = Scores(spec.scale, spec.window, spec.softcap)
        self.fused_norms = spec.qk_norm == "head" and model.norm.kind == "rms" and model.norm.weight

    def _norm_shape(self, heads: int) -> tuple[int, ...]:
        dim = self.spec.head_dim
        return {"head": (dim,), "own": (heads, dim)}.get(str(self.spec.qk_norm), (heads * dim,))

    def _with_norms(self, qkv: Tensor, ops: Operations) -> Tensor:
        """The projections (T, (H + 2G) * D) with queries and keys normed."""
        q, k, v = torch.split(qkv, self.sizes, dim=-1)
        if self.spec.qk_norm != "projection":
            q, k = (
                x.view(len(x), -1, self.spec.head_dim) for x in (q.contiguous(), k.contiguous())
            )
        q, k = self.q_norm(q, ops), self.k_norm(k, ops)
        return torch.cat((q.flatten(1), k.flatten(1), v), dim=-1)

    def forward(self, x: Tensor, step: StepContext, residual: Tensor) -> Tensor:
        spec, norms, ops, qkv = self.spec, None, step.ops, self.qkv(x)
        del x
        if spec.clip is not None:
            qkv = qkv.clamp(-spec.clip, spec.clip)
        if self.fused_norms:
            assert isinstance(self.q_norm, RmsNorm)
            assert isinstance(self.k_norm, RmsNorm)
            norms = HeadNorms(self.q_norm.weight, self.k_norm.weight, self.q_norm.eps)
        elif spec.qk_norm:
            qkv = self._with_norms(qkv, ops)
        keys, values = self.kept(step)
        rope, cells = step.ropes[self.rope], step.cells[self.group]
        q = ops.rotate_and_store(qkv, norms, rope, cells, keys, values)
        if spec.growth:
            q = q * spec.growth.at(step.positions)[:, None, None].to(q.dtype)
        mixed = ops.attention.run(step.attention[self.group], q, keys, values, self.scores)
        del qkv, q
        mixed = mixed.flatten(1)
        return self.joined(self.out, *self.going_on(mixed, residual, step), ops)
