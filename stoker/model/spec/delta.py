"""The gated delta rule: a state that is corrected by each token, behind a short convolution."""

from __future__ import annotations

from dataclasses import dataclass

from stoker.errors import ModelError
from stoker.model.cache_spec import StatePart, StateSpec
from stoker.model.spec.convolution import check_taps, conv_flops
from stoker.model.spec.part import NormSpec, PartSpec
from stoker.ops.delta_rule import MOST_KEYS, DeltaRule


@dataclass(frozen=True)
class DeltaSpec(PartSpec):
    """A mixer: out(gated_delta(silu(conv(q, k, v)))), with all inputs from one projection.

    Attributes:
        rule: sizes and kinds; see ops/delta_rule.py.
        taps: inputs that an output of the convolution depends on, its own included.
        decay_rank, gate_rank: numbers from which all decays, or all gates, are made by a second
            linear map; none: they come from the input.

    Raises:
        ModelError: the convolution or a key is too wide, or heads can't be shared evenly.
    """

    rule: DeltaRule
    taps: int
    decay_rank: int | None = None
    gate_rank: int | None = None

    def __post_init__(self) -> None:
        rule = self.rule
        check_taps(self.taps, "the kernel of the convolution (linear_conv_kernel_dim)")
        if rule.keys > MOST_KEYS:
            raise ModelError(
                f"keys of {rule.keys} numbers in config.json (linear_key_head_dim) are not "
                f"supported; the most that a state takes is {MOST_KEYS}"
            )
        if rule.heads % rule.key_heads:
            raise ModelError(
                f"{rule.heads} value heads in config.json can't share {rule.key_heads} key heads "
                "evenly (linear_num_value_heads, linear_num_key_heads)"
            )

    @property
    def sizes(self) -> tuple[int, int, int, int, int, int]:
        """Of what is projected: queries, keys, values, gates, corrections, decays."""
        rule = self.rule
        keys, values = rule.key_heads * rule.keys, rule.heads * rule.values
        gates, decays = self.gate_rank or values, self.decay_rank or self.decays
        return keys, keys, values, gates, rule.heads, decays

    @property
    def decays(self) -> int:
        """Decays of a token."""
        return self.rule.heads * (self.rule.keys if self.rule.by_channel else 1)

    def cache_spec(self) -> StateSpec:
        rule = self.rule
        inputs = StatePart((self.taps - 1, sum(self.sizes[:3])))
        state = StatePart((rule.heads, rule.keys, rule.values), float32=True)
        return StateSpec((inputs, state))

    def product_weights(self, hidden: int) -> int:
        values = self.rule.heads * self.rule.values
        inside = (self.decay_rank or 0) * self.decays + (self.gate_rank or 0) * values
        return hidden * (sum(self.sizes) + values) + inside

    def other_parameters(self, hidden: int, norm: NormSpec) -> int:
        convolved = sum(self.sizes[:3]) * self.taps
        return convolved + self.rule.heads + self.decays + self.rule.values

    @property
    def state_flops(self) -> int:
        """7 K V + 2 V for each head, beside the convolution (Yang et al., 2025).

        decay * state takes 1 for each of K V numbers; k^T state, the sum with k u^T and q^T state
        take 2 each; u = beta (v - k^T state) takes 2 for each of V.
        """
        rule = self.rule
        scan = rule.heads * rule.values * (7 * rule.keys + 2)
        return conv_flops(sum(self.sizes[:3]), self.taps) + scan
