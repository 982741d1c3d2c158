"""A short convolution between two gates, as in LFM2 (Liquid AI, 2025)."""

from __future__ import annotations

from dataclasses import dataclass

from stoker.errors import ModelError
from stoker.model.cache_spec import StatePart, StateSpec
from stoker.model.spec.part import NormSpec, PartSpec
from stoker.ops.causal_conv import MOST_TAPS


@dataclass(frozen=True)
class ConvSpec(PartSpec):
    """A mixer: out(c * conv(b * x)), with b, c and x of one projection.

    Attributes:
        channels: of the convolution, each of which is convolved by itself.
        taps: inputs that an output depends on, its own included.
        bias: of both projections and of the convolution.

    Raises:
        ModelError: the convolution is too wide.
    """

    channels: int
    taps: int
    bias: bool = False

    def __post_init__(self) -> None:
        check_taps(self.taps, "conv_L_cache")

    def cache_spec(self) -> StateSpec:
        return StateSpec((StatePart((self.taps - 1, self.channels)),))

    def product_weights(self, hidden: int) -> int:
        return 4 * hidden * self.channels

    def other_parameters(self, hidden: int, norm: NormSpec) -> int:
        biases = self.bias * (4 * self.channels + hidden)
        return self.channels * self.taps + biases

    @property
    def state_flops(self) -> int:
        return conv_flops(self.channels, self.taps)


def conv_flops(channels: int, taps: int) -> int:
    """FLOPs for a token of a convolution of each channel by itself: 2 K for K taps."""
    return 2 * taps * channels


def check_taps(taps: int, field: str) -> None:
    """See that the convolutions serve this width.

    Raises:
        ModelError: they don't; names the config's field.
    """
    if not 2 <= taps <= MOST_TAPS:
        raise ModelError(
            f"{field} in config.json must be from 2 to {MOST_TAPS}, the widths of convolutions "
            f"that are supported, not {taps}"
        )
