"""Softmax attention with grouped key-value heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from stoker.errors import ModelError
from stoker.model.cache_spec import AnyCacheSpec, CacheSpec
from stoker.model.rope import Growth, Rope
from stoker.model.spec.part import NormSpec, PartSpec


@dataclass(frozen=True)
class AttentionSpec(PartSpec):
    """A mixer: softmax attention with grouped key-value heads.

    Attributes:
        scale: of the scores, before softmax.
        rope: none for a layer that is blind to positions, or has them in its input.
        qk_norm: norms of queries and keys: over each head with weights (head_dim,) that all
            heads share ("head"), with (heads, head_dim) ("own") or without ("unit"), or over all
            heads at once ("projection").
        rotates_first: those norms come after the rotation (Hunyuan 1).
        value_norm: values too have a norm over each head, without weights (Gemma 3n, 2025).
        keys_as_values: values are the projected keys, before norm and rotation (Gemma 4, 2026).
        reads: an earlier layer, whose keys and values this one reads; it has none of its own
            (Brandon et al., cross-layer attention, 2024).
        window: keys seen, counted back from the query's own; all if none.
        chunked: those of the query's own chunk of `window` positions instead.
        clip: queries, keys and values are clamped to +-clip before anything else.
        softcap: scores become softcap * tanh(score / softcap).
        growth: of the queries with their position.
        slopes: of each head, times the distance of a key taken from its score (ALiBi).
        sinks: each head has a learned score more, without a value (gpt-oss, 2025).
        gate: what the heads give is multiplied by this function of a linear map of the layer's
            input, number by number or, if `gates_heads`, head by head (Qwen3-Next, 2025).
        out_norm: what the heads give goes through a norm before the projection out of them.

    Raises:
        ModelError: the heads can't share the key-value heads evenly.
    """

    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    rope: Rope | None = None
    qkv_bias: bool = False
    out_bias: bool = False
    qk_norm: Literal["head", "own", "unit", "projection"] | None = None
    rotates_first: bool = False
    value_norm: bool = False
    keys_as_values: bool = False
    reads: int | None = None
    window: int | None = None
    chunked: bool = False
    clip: float | None = None
    softcap: float | None = None
    growth: Growth | None = None
    slopes: tuple[float, ...] | None = None
    sinks: bool = False
    gate: Literal["sigmoid", "softplus"] | None = None
    gates_heads: bool = False
    out_norm: bool = False

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise ModelError(
                f"{self.heads} attention heads in config.json can't share {self.kv_heads} "
                "key-value heads evenly (num_attention_heads, num_key_value_heads)"
            )
        assert not self.value_norm or self.qk_norm in ("head", "unit"), "all heads are normed alike"
        assert not self.rotates_first or self.qk_norm == "head", "norms of heads have their place"
        assert not (self.rotates_first and (self.value_norm or self.reads is not None))

    @property
    def heads_made(self) -> tuple[int, ...]:
        """Heads that the projection gives: of queries, keys and values, those that there are."""
        if self.reads is not None:
            return (self.heads,)
        made = (self.heads, self.kv_heads, self.kv_heads)
        return made[:2] if self.keys_as_values else made

    @property
    def gate_size(self) -> int:
        """Numbers of the gate, which the projection gives before the heads."""
        if self.gate is None:
            return 0
        return self.heads if self.gates_heads else self.heads * self.head_dim

    @property
    def ropes(self) -> tuple[Rope | None, ...]:
        return (self.rope,)

    @property
    def mixes(self) -> bool:
        return True

    @property
    def special_scores(self) -> bool:
        return self.softcap is not None or self.chunked or self.slopes is not None

    def cache_spec(self) -> CacheSpec | None:
        if self.reads is not None:
            return None
        return CacheSpec(self.kv_heads, self.head_dim, self.window)

    def product_weights(self, hidden: int) -> int:
        heads = self.head_dim * (self.heads + sum(self.heads_made))
        return hidden * (heads + self.gate_size)

    def other_parameters(self, hidden: int, norm: NormSpec) -> int:
        biases = self.qkv_bias * (sum(self.heads_made) * self.head_dim + self.gate_size)
        normed = self.heads_made[:2]
        heads = {None: 0, "unit": 0, "head": len(normed)}.get(self.qk_norm, sum(normed))
        norms = norm.parameters((heads + self.out_norm * self.heads) * self.head_dim)
        return biases + self.out_bias * hidden + norms + self.sinks * self.heads

    @property
    def flops_per_pair(self) -> int:
        return 4 * self.heads * self.head_dim


@dataclass(frozen=True)
class AroundAttentionSpec(PartSpec):
    """A part that has attention among other things, and answers for it.

    Attributes:
        attention: the mixer inside.
    """

    attention: AttentionSpec

    @property
    def ropes(self) -> tuple[Rope | None, ...]:
        return self.attention.ropes

    @property
    def special_scores(self) -> bool:
        return self.attention.special_scores

    def cache_specs(self) -> tuple[AnyCacheSpec, ...]:
        return self.attention.cache_specs()

    @property
    def flops_per_pair(self) -> int:
        return self.attention.flops_per_pair
