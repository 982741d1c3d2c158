"""The mixer of a `NarrowValuesSpec`: attention whose values are of another width than its keys."""

from __future__ import annotations

import torch
from torch import Tensor

from stoker.model import roles
from stoker.model.layers.attention import Attention
from stoker.model.layers.linear import Linear
from stoker.model.spec.model import ModelSpec
from stoker.model.spec.narrow_values import NarrowValuesSpec
from stoker.model.step import StepContext
from stoker.ops.kv_pages import Pages


class NarrowValues(Attention):
    """As attention; keys and values are stored each by themselves."""

    def __init__(self, spec: NarrowValuesSpec, model: ModelSpec, index: int) -> None:
        super().__init__(spec, model, index)
        self.heads, self.value_scale = spec.heads, spec.value_scale
        self.sizes = list(spec.sizes)
        rotary_dim = spec.rope.dim if spec.rope else 0
        rotated = (spec.heads, spec.kv_heads, 0)
        role = roles.Role(spec.sizes, rotated, spec.head_dim, rotary_dim)
        self.qkv = Linear(model.hidden, sum(self.sizes), spec.qkv_bias, role)
        self.out = Linear(spec.out_size, model.hidden, spec.out_bias)

    def _values(self, v: Tensor) -> Tensor:
        """What is stored (T, G * E) of the projected values."""
        return v if self.value_scale == 1 else v * self.value_scale

    def _stored(
        self, qkv: Tensor, rope: Tensor, step: StepContext, keys: Pages, values: Pages
    ) -> Tensor:
        ops, turned = step.ops, sum(self.sizes[:2])
        heads = qkv[:, :turned].contiguous().view(len(qkv), -1, self.spec.head_dim)
        heads = ops.rotate(heads, None, 0.0, rope)
        v = self._values(qkv[:, turned:])
        self._store(heads[:, self.heads :].flatten(1), keys, rope, step)
        self._store(v, values, rope, step)
        return heads[:, : self.heads].contiguous()

    def _store(self, x: Tensor, pages: Pages, rope: Tensor, step: StepContext) -> None:
        """Write keys, already turned, or values (T, G * width) to their pages.

        The operation stores both, of one width: it is given the same numbers and pages twice, and
        no queries.
        """
        twice, cells = torch.cat((x, x), dim=1), step.cells[self.group]
        step.ops.rotate_and_store(twice, None, rope[:, :, :0], cells, pages, pages)
