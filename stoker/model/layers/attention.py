"""The mixer of an `AttentionSpec`: softmax attention over the paged cache."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from stoker.model import roles
from stoker.model.layers.linear import LayerPart, Linear
from stoker.model.norms import PlainNorm, RmsNorm, make_norm
from stoker.model.spec.attention import AttentionSpec
from stoker.model.spec.model import ModelSpec
from stoker.model.spec.part import NormSpec
from stoker.model.step import StepContext
from stoker.ops.attention import Scores
from stoker.ops.kv_pages import Pages
from stoker.ops.rope import HeadNorms
from stoker.ops.select import Operations


class Attention(LayerPart):
    """Grouped-query attention with a fused QKV projection; writes and reads the cache."""

    scores: Scores
    norms: HeadNorms | None = None  # if they are fused with the rotation

    def __init__(self, spec: AttentionSpec, model: ModelSpec, index: int) -> None:
        super().__init__(model, index)
        self.spec = spec
        self.source = index if spec.reads is None else spec.reads  # of keys and values
        self.group = model.group_of(self.source)
        self.rope = model.ropes.index(spec.rope)
        self.sizes = [count * spec.head_dim for count in spec.heads_made]
        outputs = sum(self.sizes) + spec.gate_size
        self.qkv = Linear(model.hidden, outputs, spec.qkv_bias, roles.qkv(spec))
        self.out = Linear(spec.heads * spec.head_dim, model.hidden, spec.out_bias)
        self.norm_kind = model.norm.kind
        self.q_norm = self.k_norm = None
        if spec.qk_norm:
            self.q_norm = self._head_norm(spec.heads, model.norm)
        if spec.qk_norm and spec.reads is None:
            self.k_norm = self._head_norm(spec.kv_heads, model.norm)
        if spec.value_norm:
            self.v_norm = PlainNorm(spec.head_dim, model.norm)
        self.out_norm = make_norm((spec.heads * spec.head_dim,), model.norm, spec.out_norm)
        self.sinks = None
        if spec.sinks:
            self.sinks = nn.Parameter(torch.empty(spec.heads), requires_grad=False)

    def _head_norm(self, heads: int, norm: NormSpec) -> nn.Module:
        spec, dim = self.spec, self.spec.head_dim
        if spec.qk_norm == "unit":
            return PlainNorm(dim, norm)
        shape = {"head": (dim,), "own": (heads, dim)}.get(str(spec.qk_norm), (heads * dim,))
        return make_norm(shape, norm, role=roles.heads(spec, heads))

    def place(self, device: torch.device, dtype: torch.dtype) -> None:
        spec, slopes = self.spec, None
        fused = self.norm_kind == "rms" and spec.qk_norm in ("head", "unit")
        if fused and not spec.rotates_first:
            keys = self.q_norm if self.k_norm is None else self.k_norm
            assert isinstance(self.q_norm, RmsNorm | PlainNorm)
            assert isinstance(keys, RmsNorm | PlainNorm)
            values = self.v_norm.weight if spec.value_norm else None
            self.norms = HeadNorms(self.q_norm.weight, keys.weight, self.q_norm.eps, values)
        if spec.slopes is not None:
            slopes = torch.tensor(spec.slopes, dtype=torch.float32, device=device)
        self.scores = Scores(
            spec.scale,
            spec.window,
            spec.softcap,
            self.sinks,
            chunked=spec.chunked,
            slopes=slopes,
        )

    def _normed(self, x: Tensor, norm: nn.Module, ops: Operations) -> Tensor:
        """Queries or keys (T, heads * D) through their norm."""
        if self.spec.qk_norm == "projection":
            return cast(Tensor, norm(x, ops))
        heads = x.contiguous().view(len(x), -1, self.spec.head_dim)
        return cast(Tensor, norm(heads, ops)).flatten(1)

    def _queries_alone(self, q: Tensor, rope: Tensor, ops: Operations) -> Tensor:
        """Queries (T, H, D), normed and rotated, from their projection (T, H * D)."""
        weight, eps = (self.norms.q, self.norms.eps) if self.norms else (None, 0.0)
        if self.q_norm is not None and not self.norms:
            q = self._normed(q, self.q_norm, ops)
        return ops.rotate(q.view(len(q), -1, self.spec.head_dim), weight, eps, rope)

    def _stored(
        self, qkv: Tensor, rope: Tensor, step: StepContext, keys: Pages, values: Pages
    ) -> Tensor:
        """Queries (T, H, D) from the projections (T, .); keys and values go to the cache."""
        ops = step.ops
        if self.spec.keys_as_values:
            qkv = torch.cat((qkv, qkv[:, self.sizes[0] :]), dim=-1)
        if self.spec.rotates_first:
            turned = sum(self.sizes[:2])
            heads = qkv[:, :turned].contiguous().view(len(qkv), -1, self.spec.head_dim)
            rotated = ops.rotate(heads, None, 0.0, rope).flatten(1)
            qkv, rope = torch.cat((rotated, qkv[:, turned:]), dim=-1), rope[:, :, :0]
        if self.q_norm is not None and self.k_norm is not None and not self.norms:
            q, k, v = torch.split(qkv, [*self.sizes[:2], self.sizes[1]], dim=-1)
            q, k = self._normed(q, self.q_norm, ops), self._normed(k, self.k_norm, ops)
            qkv = torch.cat((q, k, v), dim=-1)
        return ops.rotate_and_store(qkv, self.norms, rope, step.cells[self.group], keys, values)

    def _gated(self, mixed: Tensor, gate: Tensor, ops: Operations) -> Tensor:
        """What the heads give, (T, H * D), times the function of the gate, (T, H * D) or (T, H)."""
        if self.spec.gate == "sigmoid":
            return ops.sigmoid_gate(mixed, gate)
        if self.spec.gates_heads:
            gate = gate.repeat_interleave(self.spec.head_dim, dim=-1)
        return ops.activate(torch.cat((gate, mixed), dim=-1), "softplus", True)

    def kept(self, step: StepContext) -> tuple[Any, ...]:
        found = step.cache.layers[self.source]
        assert found is not None, "the cache was made for another model"
        return found

    def forward(self, x: Tensor, step: StepContext, residual: Tensor) -> Tensor:
        spec, ops, qkv, gate = self.spec, step.ops, self.qkv(x), None
        del x
        if spec.gate:
            gate, qkv = qkv[:, : spec.gate_size], qkv[:, spec.gate_size :].contiguous()
        if spec.clip is not None:
            qkv = qkv.clamp(-spec.clip, spec.clip)
        keys, values = self.kept(step)
        rope = step.ropes[self.rope]
        if spec.reads is None:
            q = self._stored(qkv, rope, step, keys, values)
        else:
            q = self._queries_alone(qkv, rope, ops)
        if spec.growth:
            q = q * spec.growth.at(step.positions)[:, None, None].to(q.dtype)
        mixed = ops.attention.run(step.attention[self.group], q, keys, values, self.scores)
        del qkv, q
        mixed = mixed.flatten(1)
        if gate is not None:
            mixed = self._gated(mixed, gate, ops)
        mixed, residual = self.going_on(mixed, residual, step)
        return self.joined(self.out, self.out_norm(mixed, ops), residual, ops)
