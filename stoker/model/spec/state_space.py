"""Selective state spaces: Mamba (Gu and Dao, 2023) and Mamba 2 (Dao and Gu, 2024)."""

from __future__ import annotations

from dataclasses import dataclass

from stoker.errors import ModelError
from stoker.model.cache_spec import StatePart, StateSpec
from stoker.model.spec.convolution import check_taps, conv_flops
from stoker.model.spec.part import NormSpec, PartSpec
from stoker.ops.gated_norm import GateNorm


@dataclass(frozen=True)
class MambaSpec(PartSpec):
    """A mixer: Mamba 1, in which each channel has steps and decays of its own.

    Attributes:
        channels: that go through the convolution and the scan.
        state: numbers that are kept of a channel.
        taps: inputs that an output of the convolution depends on, its own included.
        rank: numbers from which the steps of all channels are made.
        groups: parts of the channels, each with a b, a c and `rank` numbers of its own.
        bias: of the projections into and out of the mixer.
        conv_bias: of the convolution.
        norm: of the `rank` numbers, of b and of c, each by itself; none if None.

    Raises:
        ModelError: the convolution is too wide, or the groups are not equal.
    """

    channels: int
    state: int
    taps: int
    rank: int
    groups: int = 1
    bias: bool = False
    conv_bias: bool = True
    norm: NormSpec | None = None

    def __post_init__(self) -> None:
        check_taps(self.taps, "the kernel of the convolution (conv_kernel, mamba_d_conv)")
        _check_groups("channels", self.channels, self.groups)

    def cache_spec(self) -> StateSpec:
        inputs = StatePart((self.taps - 1, self.channels))
        return StateSpec((inputs, StatePart((self.state, self.channels), float32=True)))

    def product_weights(self, hidden: int) -> int:
        inside = self.channels * (2 * self.rank + 2 * self.state)
        return 3 * hidden * self.channels + inside

    def other_parameters(self, hidden: int, norm: NormSpec) -> int:
        of_channel = self.taps + self.conv_bias + self.state + 2  # a; d and the steps' bias
        norms = (
            sum(self.norm.parameters(n) for n in (self.rank, self.state, self.state))
            if self.norm
            else 0
        )
        return self.channels * of_channel + self.bias * (2 * self.channels + hidden) + norms

    @property
    def state_flops(self) -> int:
        """6 N + 3 for each channel, beside the convolution (Gu and Dao, 2023, algorithm 2).

        state = exp(dt a) state + (dt x) b takes 4 for each of N numbers, y = c^T state takes 2;
        dt x takes 1, and d x and its sum with y 2.
        """
        return conv_flops(self.channels, self.taps) + self.channels * (6 * self.state + 3)


@dataclass(frozen=True)
class Mamba2Spec(PartSpec):
    """A mixer: Mamba 2, in which the channels of a head share steps and decays.

    Attributes:
        heads, head_dim: the channels that go through the scan.
        groups: parts of the heads, each with a b and a c of its own.
        state: numbers that are kept of a channel.
        taps: inputs that an output of the convolution depends on, its own included.
        norm: behind the gate; none if None.
        limit: the least and the largest step.
        bias, out_bias: of the projections into the mixer and out of it.
        conv_bias: of the convolution.
        scales: multiply what is projected: gate, x, b, c and steps; nothing if none.

    Raises:
        ModelError: the convolution is too wide, or the groups are not equal.
    """

    heads: int
    head_dim: int
    groups: int
    state: int
    taps: int
    norm: GateNorm | None
    limit: tuple[float, float] = (0.0, float("inf"))
    bias: bool = False
    out_bias: bool = False
    conv_bias: bool = True
    scales: tuple[float, float, float, float, float] | None = None

    def __post_init__(self) -> None:
        check_taps(self.taps, "the kernel of the convolution (conv_kernel, mamba_d_conv)")
        _check_groups("heads", self.heads, self.groups)

    @property
    def channels(self) -> int:
        return self.heads * self.head_dim

    @property
    def sizes(self) -> tuple[int, int, int, int, int]:
        """Of what is projected: gate, x, b, c and steps."""
        each = self.groups * self.state
        return self.channels, self.channels, each, each, self.heads

    def cache_spec(self) -> StateSpec:
        inputs = StatePart((self.taps - 1, sum(self.sizes[1:4])))
        state = StatePart((self.heads, self.state, self.head_dim), float32=True)
        return StateSpec((inputs, state))

    def product_weights(self, hidden: int) -> int:
        return hidden * (sum(self.sizes) + self.channels)

    def other_parameters(self, hidden: int, norm: NormSpec) -> int:
        convolved = sum(self.sizes[1:4]) * (self.taps + self.conv_bias)
        norms = self.channels if self.norm else 0
        biases = self.bias * sum(self.sizes) + self.out_bias * hidden
        return convolved + 3 * self.heads + norms + biases

    @property
    def state_flops(self) -> int:
        """5 N + 3 for each channel, beside the convolution (Dao and Gu, 2024).

        As in Mamba 1, but that all N numbers decay alike: exp(dt a) is one number for a head.
        """
        scan = self.channels * (5 * self.state + 3) + self.heads  # dt a
        return conv_flops(sum(self.sizes[1:4]), self.taps) + scan


def _check_groups(what: str, count: int, groups: int) -> None:
    if count % groups:
        raise ModelError(
            f"{count} {what} of a state space in config.json don't form {groups} equal groups"
        )
