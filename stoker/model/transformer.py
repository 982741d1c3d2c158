"""One transformer that executes any `ModelSpec` over a ragged batch and a paged cache.

Knows no family, no scheduler and no device: operations are chosen once by `prepare`.
Legend of shape suffixes: T tokens, R sampled rows, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from stoker.model.cache import PagedCache
from stoker.model.spec import Attention, Dense, Layer, ModelSpec, Rope
from stoker.ops.linear import LinearFn, prepare_linear
from stoker.ops.rope import HeadNorms, rope_table
from stoker.ops.select import Operations, select_operations


@dataclass(frozen=True)
class ForwardInput:
    """The tensors of one step.

    Attributes:
        token_ids: (T,) int64.
        positions: (T,) int64, absolute.
        slots: (T,) int64, where each token's keys and values go.
        sample_rows: (R,) int64, the tokens whose logits or final states are wanted.
        attention: the attention implementation's plan for this step.
    """

    token_ids: Tensor
    positions: Tensor
    slots: Tensor
    sample_rows: Tensor
    attention: Any


class Linear(nn.Module):
    """A projection whose weight is packed, and dropped, once it has been loaded."""

    def __init__(self, inputs: int, outputs: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(outputs), requires_grad=False) if bias else None
        self._apply_fn: LinearFn | None = None

    def prepare(self, make: Callable[[Tensor, Tensor | None], LinearFn]) -> None:
        """Let `make` choose the implementation; a weight that it has laid out anew is dropped."""
        self._apply_fn = make(self.weight, self.bias)
        if hasattr(self._apply_fn, "weight"):
            del self.weight

    def forward(self, x: Tensor, add: Tensor | None = None) -> Tensor:
        assert self._apply_fn is not None, "prepare() comes first"
        return self._apply_fn(x, add)


class Norm(nn.Module):
    """The weight of an RMS norm over the last dimension."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size), requires_grad=False)


class AttentionMixer(nn.Module):
    """Grouped-query attention with a fused QKV projection; writes and reads the cache."""

    def __init__(self, spec: Attention, hidden: int, eps: float, index: int) -> None:
        super().__init__()
        self.spec, self.index, self.eps = spec, index, eps
        rows = (spec.heads + 2 * spec.kv_heads) * spec.head_dim
        self.qkv = Linear(hidden, rows, spec.qkv_bias)
        self.out = Linear(spec.heads * spec.head_dim, hidden, spec.out_bias)
        self.q_norm = Norm(spec.head_dim) if spec.qk_norm else None
        self.k_norm = Norm(spec.head_dim) if spec.qk_norm else None

    def forward(
        self, x_TD: Tensor, rope: Tensor, cache: PagedCache, batch: ForwardInput, ops: Operations
    ) -> Tensor:
        """Mixed values before the output projection, (T, heads * head_dim)."""
        norms = None
        if self.q_norm is not None and self.k_norm is not None:
            norms = HeadNorms(self.q_norm.weight, self.k_norm.weight, self.eps)
        keys, values = cache.layers[self.index]
        q = ops.rotate_and_store(self.qkv(x_TD), norms, rope, batch.slots, keys, values)
        scale, window = self.spec.scale, self.spec.window
        mixed = ops.attention.run(batch.attention, q, keys, values, scale=scale, window=window)
        return mixed.flatten(1)


class GatedFfn(nn.Module):
    """down(act(gate(x)) * up(x)) with gate and up in one projection."""

    def __init__(self, spec: Dense, hidden: int) -> None:
        super().__init__()
        self.gate_up = Linear(hidden, 2 * spec.size, spec.bias)
        self.down = Linear(spec.size, hidden, spec.bias)

    def forward(self, x_TD: Tensor, ops: Operations, add: Tensor) -> Tensor:
        """The network's output plus `add`, the residual."""
        return cast(Tensor, self.down(ops.gated(self.gate_up(x_TD)), add=add))


class Block(nn.Module):
    """A layer: x += mixer(norm(x)); x += ffn(norm(x))."""

    def __init__(self, layer: Layer, hidden: int, eps: float, index: int) -> None:
        super().__init__()
        self.eps = eps
        self.mixer_norm = Norm(hidden)
        self.mixer = AttentionMixer(layer.mixer, hidden, eps, index)
        self.ffn_norm = Norm(hidden)
        self.ffn = GatedFfn(layer.ffn, hidden)

    def forward(
        self,
        x_TD: Tensor,
        rope: Tensor,
        cache: PagedCache,
        batch: ForwardInput,
        ops: Operations,
        rows: Tensor | None,
    ) -> Tensor:
        """The layer's output (T, D), or (R, D) if just `rows` of it are wanted."""
        mixed = self.mixer(
            ops.rms_norm(x_TD, self.mixer_norm.weight, self.eps), rope, cache, batch, ops
        )
        if rows is not None:
            x_TD, mixed = x_TD[rows], mixed[rows]
        x_TD = self.mixer.out(mixed, add=x_TD)
        normed = ops.rms_norm(x_TD, self.ffn_norm.weight, self.eps)
        return cast(Tensor, self.ffn(normed, ops, add=x_TD))


class Transformer(nn.Module):
    """Executes `spec`. Make it empty, load its weights, `prepare` it, then call it."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.embedding = nn.Parameter(torch.empty(spec.vocab, spec.hidden), requires_grad=False)
        self.layers = nn.ModuleList(
            Block(layer, spec.hidden, spec.norm_eps, index)
            for index, layer in enumerate(spec.layers)
        )
        self.norm = Norm(spec.hidden)
        rows = spec.vocab if spec.labels is None else spec.labels
        self.head = None if spec.tied_head or not rows else Linear(spec.hidden, rows)
        self._logits: LinearFn | None = None
        self._ropes: dict[Rope, Tensor] = {}
        self.ops: Operations | None = None

    def prepare(
        self, context: int, make: Callable[[Tensor, Tensor | None], LinearFn] = prepare_linear
    ) -> None:
        """Choose operations for the device the weights are on; tabulate `context` positions.

        `make` turns a weight and a bias into a linear map (ops/linear.py, ops/int8.py).
        """
        device = self.embedding.device
        for module in self.modules():
            if isinstance(module, Linear):
                module.prepare(make)
        self._logits = self.head
        if self.spec.tied_head:
            self._logits = make(self.embedding, None)
        self.ops = select_operations(device, self.embedding.dtype)
        for layer in self.spec.layers:
            rope = layer.mixer.rope
            if rope not in self._ropes:
                self._ropes[rope] = rope_table(rope.inv_freq(), context).to(device)

    def forward(
        self,
        batch: ForwardInput,
        cache: PagedCache,
        watch: Callable[[str, Tensor], None] | None = None,
    ) -> Tensor:
        """Logits (R, V) in the model's dtype; `watch` is shown each layer's output."""
        return self.logits(self.hidden(batch, cache, watch))

    def logits(self, hidden_RD: Tensor) -> Tensor:
        """The head's output (R, V), or (R, labels), for final hidden states (R, D)."""
        assert self._logits is not None, "not prepared, or a model without a head"
        return self._logits(hidden_RD)

    def hidden(
        self,
        batch: ForwardInput,
        cache: PagedCache,
        watch: Callable[[str, Tensor], None] | None = None,
    ) -> Tensor:
        """Hidden states (R, D) of the sampled rows after the final norm, in the model's dtype.

        After the last layer's attention only the sampled rows go on.
        """
        assert self.ops is not None, "prepare() comes first"
        x_TD = self.embedding[batch.token_ids]
        ropes = {key: table[batch.positions] for key, table in self._ropes.items()}
        for index, layer in enumerate(self.spec.layers):
            rows = batch.sample_rows if index + 1 == len(self.spec.layers) else None
            x_TD = self.layers[index](x_TD, ropes[layer.mixer.rope], cache, batch, self.ops, rows)
            if watch:
                watch(f"layers.{index}", x_TD)
        return self.ops.rms_norm(x_TD, self.norm.weight, self.spec.norm_eps)
