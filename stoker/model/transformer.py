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

from stoker.model import roles
from stoker.model.cache import PagedCache
from stoker.model.layers.linear import Linear
from stoker.model.module import Module
from stoker.model.norms import RmsNorm, make_norm
from stoker.model.rope import Rope
from stoker.model.spec import AttentionSpec, DenseSpec, LayerSpec, ModelSpec, NormSpec
from stoker.ops.attention import Scores
from stoker.ops.rope import HeadNorms, rope_table
from stoker.ops.select import Operations, select_operations
from stoker.quant.choose import Formats, choose_formats
from stoker.quant.format import make_product


@dataclass(frozen=True)
class ForwardInput:
    """The tensors of one step.

    Attributes:
        token_ids: (T,) int64.
        positions: (T,) int64, absolute.
        cells: (T,) int64, where each token's keys and values go.
        sample_rows: (R,) int64, the tokens whose logits or final states are wanted.
        attention: the attention implementation's plan for this step.
    """

    token_ids: Tensor
    positions: Tensor
    cells: Tensor
    sample_rows: Tensor
    attention: Any


class AttentionMixer(Module):
    """Grouped-query attention with a fused QKV projection; writes and reads the cache."""

    def __init__(self, spec: AttentionSpec, hidden: int, norm: NormSpec, index: int) -> None:
        super().__init__()
        self.spec, self.index = spec, index
        self.sizes = [n * spec.head_dim for n in (spec.heads, spec.kv_heads, spec.kv_heads)]
        self.qkv = Linear(hidden, sum(self.sizes), spec.qkv_bias, roles.qkv(spec))
        self.out = Linear(spec.heads * spec.head_dim, hidden, spec.out_bias)
        if spec.qk_norm:
            self.q_norm, self.k_norm = (
                make_norm(self._norm_shape(heads), norm, role=roles.heads(spec, heads))
                for heads in (spec.heads, spec.kv_heads)
            )
        self.scores = Scores(spec.scale, spec.window, spec.softcap)
        self.fused_norms = spec.qk_norm == "head" and norm.kind == "rms"

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

    def forward(
        self, x_TD: Tensor, rope: Tensor, cache: PagedCache, batch: ForwardInput, ops: Operations
    ) -> Tensor:
        """Mixed values before the output projection, (T, heads * head_dim)."""
        spec, norms, qkv = self.spec, None, self.qkv(x_TD)
        if self.fused_norms:
            assert isinstance(self.q_norm, RmsNorm)
            assert isinstance(self.k_norm, RmsNorm)
            norms = HeadNorms(self.q_norm.weight, self.k_norm.weight, self.q_norm.eps)
        elif spec.qk_norm:
            qkv = self._with_norms(qkv, ops)
        keys, values = cache.layers[self.index]
        q = ops.rotate_and_store(qkv, norms, rope, batch.cells, keys, values)
        if spec.growth:
            q = q * spec.growth.at(batch.positions)[:, None, None].to(q.dtype)
        mixed = ops.attention.run(batch.attention, q, keys, values, self.scores)
        return mixed.flatten(1)


class Ffn(Module):
    """down(act(gate(x)) * up(x)) with gate and up in one projection, or down(act(up(x)))."""

    def __init__(self, spec: DenseSpec, hidden: int) -> None:
        super().__init__()
        self.spec = spec
        role = roles.gate_up(spec.size) if spec.gated else roles.PLAIN
        self.up = Linear(hidden, (2 if spec.gated else 1) * spec.size, spec.bias, role)
        self.down = Linear(spec.size, hidden, spec.bias)
        self.fused = False

    def prepare(self, formats: Formats) -> None:
        """Let the up projection apply the activation itself, if its format knows how."""
        gate = self.spec.activation if self.spec.gated else None
        self.fused = self.up.prepare(formats.projections, gate)

    def forward(self, x_TD: Tensor, ops: Operations) -> Tensor:
        """The values before the down projection, (T, F)."""
        up = self.up(x_TD)
        return up if self.fused else ops.activate(up, self.spec.activation, self.spec.gated)


class Block(Module):
    """A layer; see `LayerSpec` for what it computes."""

    def __init__(self, layer: LayerSpec, hidden: int, norm: NormSpec, index: int) -> None:
        super().__init__()
        self.layer = layer
        pre, post, shape = layer.pre_norms, layer.post_norms, (hidden,)
        after = layer.sum_norms
        self.mixer_norm = make_norm(shape, norm, pre)
        self.mixer = AttentionMixer(layer.mixer, hidden, norm, index)
        self.mixer_post_norm = make_norm(shape, norm, post)
        self.mixer_sum_norm = make_norm(shape, norm, after)
        self.ffn_norm = make_norm(shape, norm, pre and layer.parallel != "one norm")
        self.ffn = Ffn(layer.ffn, hidden)
        self.ffn_post_norm = make_norm(shape, norm, post)
        self.ffn_sum_norm = make_norm(shape, norm, after)

    def pack(self, formats: Formats) -> None:
        """Convert the weights, which are then dropped; twice is fine."""
        self.ffn.prepare(formats)
        for module in self.modules():
            if isinstance(module, Linear):
                module.prepare(formats.projections)

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
        normed = self.mixer_norm(x_TD, ops)
        mixed = self.mixer(normed, rope, cache, batch, ops)
        if rows is not None:
            x_TD, mixed = x_TD[rows], mixed[rows]
            normed = normed[rows] if self.layer.parallel else normed
        if self.layer.parallel:  # before the sum, which may take the memory of x
            normed = self.ffn_norm(x_TD, ops) if self.layer.parallel == "two norms" else normed
            inner = self.ffn(normed, ops)
        after = self._joined(x_TD, self.mixer.out, mixed, self.mixer_post_norm, ops)
        after = self.mixer_sum_norm(after, ops)
        if not self.layer.parallel:
            inner = self.ffn(self.ffn_norm(after, ops), ops)
        return cast(
            Tensor,
            self.ffn_sum_norm(
                self._joined(after, self.ffn.down, inner, self.ffn_post_norm, ops), ops
            ),
        )

    def _joined(
        self, x: Tensor, project: nn.Module, inner: Tensor, post_norm: nn.Module, ops: Operations
    ) -> Tensor:
        """The residual x plus the projection of `inner`, in one pass where nothing lies between.

        x may be overwritten.
        """
        if not self.layer.post_norms and self.layer.residual_scale == 1:
            return cast(Tensor, project(inner, add=x))
        y, scale = post_norm(project(inner), ops), self.layer.residual_scale
        return cast(Tensor, x + (y if scale == 1 else y * scale))


class Transformer(Module):
    """Executes `spec`. Make it empty, load its weights, `prepare` it, then call it."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        width = spec.embedding_width or spec.hidden
        self.embedding = nn.Parameter(torch.empty(spec.vocab, width), requires_grad=False)
        self.project_in = Linear(width, spec.hidden) if spec.embedding_width else None
        self.positions = None
        if spec.positions:
            table = torch.empty(spec.positions.rows, spec.hidden)
            self.positions = nn.Parameter(table, requires_grad=False)
        self.layers = nn.ModuleList(
            Block(layer, spec.hidden, spec.norm, index) for index, layer in enumerate(spec.layers)
        )
        self.norm = make_norm((spec.hidden,), spec.norm, spec.final_norm)
        self.project_out = Linear(spec.hidden, width) if spec.embedding_width else None
        rows = spec.vocab if spec.labels is None else spec.labels
        self.head = None if spec.tied_head or not rows else Linear(width, rows)
        self._logits: Callable[[Tensor], Tensor] | None = None
        self._blocks: tuple[Block, ...] = ()
        self._ropes: dict[Rope | None, Tensor] = {}
        self.ops: Operations | None = None

    def prepare(
        self, context: int, formats: Formats | None = None, ops: Operations | None = None
    ) -> None:
        """Choose operations for the device the weights are on; tabulate `context` positions.

        What has not been packed yet is packed, as floats if `formats` is None. `ops` are the
        operations to use; None takes the fastest (ops/select.py). Frequencies that depend on the
        length of a sequence are those for `context` tokens.
        """
        device, dtype = self.embedding.device, self.embedding.dtype
        formats = formats or choose_formats("auto", dtype, device)
        if self.head is not None:
            self.head.prepare(formats.head)
        self._blocks = cast(tuple[Block, ...], tuple(self.layers))
        for block in self._blocks:
            block.pack(formats)
        for module in (self.project_in, self.project_out):
            if module is not None:
                module.prepare(formats.projections)
        self._logits = self.head
        if self.spec.tied_head:
            self._logits = make_product(self.embedding, formats.head)
        self.ops = ops or select_operations(device, dtype)
        self._embedding_scale = torch.tensor(self.spec.embedding_scale, dtype=dtype, device=device)
        for layer in self.spec.layers:
            rope = layer.mixer.rope
            if rope is None:
                self._ropes[rope] = torch.empty(context, 2, 0, device=device)
            elif rope not in self._ropes:
                table = rope_table(rope.inv_freq(context), context, rope.factor)
                self._ropes[rope] = table.to(device)
        self.freeze_attributes()

    def _embed(self, batch: ForwardInput) -> Tensor:
        x_TD = self.embedding[batch.token_ids]
        if self.spec.embedding_scale != 1:
            x_TD = x_TD * self._embedding_scale
        if self.project_in is not None:
            x_TD = self.project_in(x_TD)
        if self.positions is not None and self.spec.positions:
            x_TD = x_TD + self.positions[batch.positions + self.spec.positions.offset]
        return x_TD

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
        assert self.ops is not None
        logits = self._logits(hidden_RD)
        if self.spec.logit_scale != 1:
            logits = logits * self.spec.logit_scale
        cap = self.spec.logit_softcap
        return self.ops.soft_cap(logits, cap) if cap else logits

    def hidden(
        self,
        batch: ForwardInput,
        cache: PagedCache,
        watch: Callable[[str, Tensor], None] | None = None,
    ) -> Tensor:
        """Hidden states (R, D) of the sampled rows after the final norm, in the model's dtype.

        They are as wide as the embedding, where that has a width of its own. After the last
        layer's attention only the sampled rows go on.
        """
        assert self.ops is not None, "prepare() comes first"
        x_TD = self._embed(batch)
        ropes = {key: table[batch.positions] for key, table in self._ropes.items()}
        for index, layer in enumerate(self.spec.layers):
            rows = batch.sample_rows if index + 1 == len(self.spec.layers) else None
            x_TD = self._blocks[index](x_TD, ropes[layer.mixer.rope], cache, batch, self.ops, rows)
            if watch:
                watch(f"layers.{index}", x_TD)
        x_TD = self.norm(x_TD, self.ops)
        return cast(Tensor, x_TD if self.project_out is None else self.project_out(x_TD))
