"""FLOPs that specs count of recurrences, against recurrences over numbers that count."""

from dataclasses import replace

import pytest
from zoo import make_config

from stoker.model.heads import resolve
from stoker.model.spec.convolution import ConvSpec
from stoker.model.spec.delta import DeltaSpec
from stoker.model.spec.lightning import LightningSpec
from stoker.model.spec.rg_lru import RgLruSpec
from stoker.model.spec.state_space import Mamba2Spec, MambaSpec
from stoker.model.work import matmul_flops, state_flops
from stoker.ops.delta_rule import DeltaRule


class Number:
    """Counts what is done with numbers."""

    done = 0

    def _count(self, other):
        Number.done += 1
        return self

    __mul__ = __add__ = __sub__ = _count


X = Number()


def dot(size):
    total = X
    for _ in range(size):
        total = total + X * X
    return total


def convolution(channels, taps):
    for _ in range(channels):
        dot(taps)


def mamba(spec):
    convolution(spec.channels, spec.taps)
    for _ in range(spec.channels):
        dt_x = X * X
        for _ in range(spec.state):
            decay = X * X  # before its exponential
            _ = decay * X + dt_x * X
        _ = dot(spec.state) + X * X


def mamba2(spec):
    convolution(spec.heads * spec.head_dim + 2 * spec.groups * spec.state, spec.taps)
    for _ in range(spec.heads):
        decay = X * X
        for _ in range(spec.head_dim):
            dt_x = X * X
            for _ in range(spec.state):
                _ = decay * X + dt_x * X
            _ = dot(spec.state) + X * X


def delta(spec):
    rule = spec.rule
    convolution(2 * rule.key_heads * rule.keys + rule.heads * rule.values, spec.taps)
    for _ in range(rule.heads):
        for _ in range(rule.values):
            for _ in range(rule.keys):
                _ = X * X
            correction = (X - dot(rule.keys)) * X
            for _ in range(rule.keys):
                _ = X + X * correction
            dot(rule.keys)


def lightning(spec):
    for _ in range(spec.heads):
        for _ in range(spec.head_dim):
            for _ in range(spec.head_dim):
                _ = X * X + X * X
            dot(spec.head_dim)


def rg_lru(spec):
    convolution(spec.channels, spec.taps)
    for _ in range(spec.channels):
        _ = X * X + X * (X * X)


CASES = {
    "convolution": (ConvSpec(6, 3), lambda spec: convolution(spec.channels, spec.taps)),
    "mamba": (MambaSpec(channels=6, state=5, taps=4, rank=2), mamba),
    "mamba2": (Mamba2Spec(4, 3, groups=2, state=5, taps=4, norm=None), mamba2),
    "delta": (DeltaSpec(DeltaRule(2, 4, keys=3, values=5), taps=4), delta),
    "lightning": (LightningSpec((0.1, 0.2, 0.3), 5, "silu", 1e-6), lightning),
    "rg_lru": (RgLruSpec(channels=6, blocks=2, taps=4, activation="gelu"), rg_lru),
}


@pytest.mark.parametrize("kind", CASES)
def test_a_recurrence_is_counted(kind):
    spec, run = CASES[kind]
    Number.done = 0
    run(spec)
    assert spec.state_flops == Number.done


def test_a_known_layer():
    """Of Qwen3-Next: 32 heads of 128 by 128, 16 key heads, 4 taps."""
    spec = DeltaSpec(DeltaRule(16, 32, keys=128, values=128), taps=4)
    assert spec.state_flops == 8 * (2 * 16 * 128 + 32 * 128) + 32 * (7 * 128 * 128 + 2 * 128)


@pytest.mark.parametrize(("name", "layers"), [("falcon_h1", 2), ("qwen3", 0)])
def test_a_model_sums_up_its_layers(name, layers):
    """Mixers side by side count as the one of them that keeps a state."""
    config, made = make_config(name)
    spec = resolve(config.to_dict() | {"architectures": [made.__name__]})[0]
    states = [layer.mixer.state for layer in spec.layers if hasattr(layer.mixer, "state")]
    assert len(states) == layers
    assert state_flops(spec, 7) == 7 * sum(one.state_flops for one in states)
    bare = replace(spec, layers=())
    assert state_flops(bare, 7) == 0
    assert matmul_flops(bare, 7, 0) == 0
