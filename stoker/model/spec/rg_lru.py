"""The recurrent block of Griffin: a convolution and a gated linear recurrence, beside a gate."""

from __future__ import annotations

from dataclasses import dataclass

from stoker.errors import ModelError
from stoker.model.cache_spec import StatePart, StateSpec
from stoker.model.spec.convolution import check_taps, conv_flops
from stoker.model.spec.part import NormSpec, PartSpec


@dataclass(frozen=True)
class RgLruSpec(PartSpec):
    """A mixer: out(act(y) * rg_lru(conv(x))), with x and y of one projection (De et al., 2024).

    Attributes:
        channels: of the recurrence.
        blocks: parts of the channels; each makes its gates of its own channels alone.
        taps: inputs that an output of the convolution depends on, its own included.
        activation: of y.

    Raises:
        ModelError: the convolution is too wide, or the blocks are not equal.
    """

    channels: int
    blocks: int
    taps: int
    activation: str

    def __post_init__(self) -> None:
        check_taps(self.taps, "conv1d_width")
        if self.channels % self.blocks:
            raise ModelError(
                f"lru_width {self.channels} in config.json doesn't form {self.blocks} equal blocks "
                "(num_attention_heads)"
            )

    def cache_spec(self) -> StateSpec:
        inputs = StatePart((self.taps - 1, self.channels))
        return StateSpec((inputs, StatePart((self.channels,), float32=True)))

    def product_weights(self, hidden: int) -> int:
        return self.channels * (3 * hidden + 2 * self.channels // self.blocks)

    def other_parameters(self, hidden: int, norm: NormSpec) -> int:
        of_channel = self.taps + 1 + 2 + 2 + 1  # convolution, projections, gates, rate
        return self.channels * of_channel + hidden

    @property
    def state_flops(self) -> int:
        """4 for each channel, beside the convolution (De et al., Griffin, 2024).

        state = a state + room (i x) takes 3 products and a sum.
        """
        return conv_flops(self.channels, self.taps) + 4 * self.channels
