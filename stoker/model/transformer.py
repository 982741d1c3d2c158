"""One transformer that executes any `ModelSpec` over a ragged batch and a paged cache.

Knows no family, no scheduler and no device: operations are chosen once by `prepare`.
Legend of shape suffixes: T tokens, R sampled rows, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from stoker.model.cache import PagedCache
from stoker.model.layers.block import Block
from stoker.model.layers.head_map import HeadMap
from stoker.model.layers.layers import make_layers, make_token_inputs
from stoker.model.layers.linear import Linear
from stoker.model.layers.streams import JoinStreams, MakeStreams
from stoker.model.module import Module
from stoker.model.norms import make_norm
from stoker.model.rope import Rope
from stoker.model.spec.model import ModelSpec
from stoker.model.step import StepContext, StepTensors
from stoker.ops.rope import rope_table
from stoker.ops.select import Operations, select_operations
from stoker.quant.choose import Formats, choose_formats
from stoker.quant.format import make_product


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
        self.embedding_norm = make_norm((spec.hidden,), spec.norm, spec.embedding_norm)
        self.token_inputs = make_token_inputs(spec)
        self.layers = make_layers(spec)
        self.make_streams = self.join_streams = None
        if spec.streams:
            self.make_streams = MakeStreams(spec.streams, spec.hidden)
            self.join_streams = JoinStreams(spec.streams, spec.hidden)
        self.norm = make_norm((spec.hidden,), spec.last_norm, spec.final_norm)
        self.project_out = Linear(spec.hidden, width) if spec.embedding_width else None
        rows = spec.vocab if spec.labels is None else spec.labels
        self.head_map = HeadMap(spec.head_map, spec) if spec.head_map else None
        self.head = None if spec.tied_head or not rows else Linear(width, rows, spec.head_bias)
        self.head_bias: nn.Parameter | None = None  # of a head that is the embedding
        if spec.tied_head and spec.head_bias:
            self.head_bias = nn.Parameter(torch.empty(rows), requires_grad=False)
        self._logits: Callable[[Tensor], Tensor] | None = None
        self._blocks: tuple[Block, ...] = ()
        self._ropes: list[Tensor] = []
        self.ops: Operations | None = None

    def tie_head(self) -> None:
        """Let the embedding be the head, before `prepare`."""
        assert self.head is not None
        self.head_bias, self.head = self.head.bias, None
        self.spec = replace(self.spec, tied_head=True)

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
        for part in reversed(list(self.modules())):  # the inner ones first
            if isinstance(part, Module):
                part.place(device, dtype)
        self._blocks = cast(tuple[Block, ...], tuple(self.layers))
        for block in self._blocks:
            block.prepare(formats)
        for name, module in self.named_modules():  # those between embedding, layers and head
            if isinstance(module, Linear) and name != "head" and not name.startswith("layers."):
                module.prepare(formats.projections)
        self._logits = self.head
        if self.spec.tied_head:
            self._logits = make_product(self.embedding, formats.head, self.head_bias)
        self.ops = ops or select_operations(device, dtype, keeps_state=self.spec.keeps_state)
        if self.head_map is not None and self._logits is not None:
            self._logits = self.head_map.before(self._logits, self.ops)
        self._embedding_scale = torch.tensor(self.spec.embedding_scale, dtype=dtype, device=device)
        self._ropes = [_rotary_table(rope, context).to(device) for rope in self.spec.ropes]
        self.freeze_attributes()

    def _embed(self, tensors: StepTensors) -> Tensor:
        x_TD = self.embedding[tensors.token_ids]
        if self.spec.embedding_scale != 1:
            x_TD = x_TD * self._embedding_scale
        if tensors.vectors is not None:
            rows, values = tensors.vectors
            values = values.to(x_TD.dtype)
            x_TD[rows] = values * self._embedding_scale if self.spec.scales_vectors else values
        if self.project_in is not None:
            x_TD = self.project_in(x_TD)
        if self.positions is not None and self.spec.positions:
            x_TD = x_TD + self.positions[tensors.positions + self.spec.positions.offset]
        if self.spec.embedding_norm:
            x_TD = self.embedding_norm(x_TD, self.ops)
        return x_TD

    def forward(
        self,
        tensors: StepTensors,
        cache: PagedCache,
        watch: Callable[[str, Tensor], None] | None = None,
    ) -> Tensor:
        """Logits (R, V) in the model's dtype; `watch` is shown each layer's output."""
        return self.logits(self.hidden(tensors, cache, watch))

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
        tensors: StepTensors,
        cache: PagedCache,
        watch: Callable[[str, Tensor], None] | None = None,
    ) -> Tensor:
        """Hidden states (R, D) of the sampled rows after the final norm, in the model's dtype.

        They are as wide as the embedding, where that has a width of its own. Behind the last
        layer that mixes tokens only the sampled rows go on.
        """
        assert self.ops is not None, "prepare() comes first"
        x = self._embed(tensors)
        groups = len(self.spec.cache_groups)
        cells, attention = tensors.cells, tensors.attention
        if len(attention) < groups:  # one for all
            cells, attention = cells * groups, attention * groups
        ropes = tuple([table[tensors.positions] for table in self._ropes])
        inputs = self.token_inputs
        made = None if inputs is None else inputs(tensors.token_ids, x, self.ops)
        step = StepContext(
            tensors.positions, tensors.sample_rows, cells, attention, cache, ropes, self.ops, made
        )
        if self.spec.last_mixing_layer < 0:
            x = x[tensors.sample_rows]
        x = x if self.make_streams is None else self.make_streams(x)
        for index, block in enumerate(self._blocks):
            x = block(x, step)
            if watch:
                watch(f"layers.{index}", x)
        x = x if self.join_streams is None else self.join_streams(x)
        x = self.norm(x, self.ops)
        return cast(Tensor, x if self.project_out is None else self.project_out(x))


def _rotary_table(rope: Rope | None, context: int) -> Tensor:
    """(context, 2, dim/2) float32; without a rotary embedding dim is 0."""
    if rope is None:
        return torch.empty(context, 2, 0)
    return rope_table(rope.inv_freq(context), context, rope.factor)
