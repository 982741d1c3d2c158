"""The mixer of a `BiasedKeysSpec`: attention whose keys are worth more or less by themselves."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stoker.model.layers.linear import Linear
from stoker.model.layers.narrow_values import NarrowValues
from stoker.model.norms import RmsNorm
from stoker.model.roles import PLAIN
from stoker.model.spec.biased_keys import BiasedKeysSpec
from stoker.model.spec.model import ModelSpec
from stoker.model.step import StepContext
from stoker.ops.kv_pages import Pages


class BiasedKeys(NarrowValues):
    """As attention, with keys of one number more."""

    def __init__(self, spec: BiasedKeysSpec, model: ModelSpec, index: int) -> None:
        super().__init__(spec, model, index)
        self.scale = spec.scale
        first, second = (RmsNorm((spec.head_dim,), model.norm, PLAIN) for _ in range(2))
        self.q_norm, self.k_norm = first, second
        self.parts = ((spec.heads, first), (spec.kv_heads, second))
        self.worth = Linear(spec.sizes[2], spec.kv_heads, spec.qkv_bias)
        self.rates = nn.Parameter(torch.empty(spec.kv_heads), requires_grad=False)

    def _stored(
        self, qkv: Tensor, rope: Tensor, step: StepContext, keys: Pages, values: Pages
    ) -> Tensor:
        ops, rows = step.ops, len(qkv)
        q, k, v = (one.contiguous() for one in torch.split(qkv, self.sizes, dim=1))
        q, k = (
            ops.rotate(one.view(rows, heads, self.spec.head_dim), norm.weight, norm.eps, rope)
            for one, (heads, norm) in zip((q, k), self.parts, strict=True)
        )
        # in float64, whose last bits may depend on a number's place among others
        worth = (self.rates.double() * F.softplus(self.worth(v).double())).exp().to(k.dtype)
        k = torch.cat((k, worth[..., None]), dim=2)
        self._store(k.flatten(1), keys, rope, step)
        self._store(v, values, rope, step)
        return torch.cat((q, q.new_full((*q.shape[:2], 1), 1 / self.scale)), dim=2)
