"""Tests that the models which the recipe trains are those that transformers loads."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
TOKENIZER = ROOT / "stoker" / "shipped" / "stoker-tiny" / "tokenizer.json"
sys.path.insert(0, str(ROOT / "recipes" / "tiny"))

import train  # noqa: E402
from delta import CHUNK, delta_rule  # noqa: E402
from export import check, export  # noqa: E402
from model import TinyModel  # noqa: E402
from parts import SHAPES  # noqa: E402


def random_model(name):
    """The model of a shape, smaller, none of its weights zero or one."""
    torch.manual_seed(0)
    shape = replace(SHAPES[name], hidden=64, ffn=64, context=256)
    model = TinyModel(replace(shape, layers=min(shape.layers, 4)))
    with torch.no_grad():
        for weight in model.state_dict().values():
            weight.add_(torch.randn_like(weight) * 0.05)
    return model


@pytest.mark.parametrize("name", SHAPES)
def test_exported_model_agrees_with_transformers(name, tmp_path):
    model = random_model(name)
    torch.save({"shape": model.shape.as_dict(), "model": model.state_dict()}, tmp_path / "made.pt")
    export(tmp_path / "made.pt", TOKENIZER, tmp_path / "out")
    assert check(tmp_path / "made.pt", tmp_path / "out") < 1e-4


@pytest.mark.parametrize("name", SHAPES)
def test_every_weight_is_trained_by_one_optimiser(name):
    model = random_model(name)
    optims = train.optimisers(model)
    held = [
        weight for optim in optims for group in optim.param_groups for weight in group["params"]
    ]
    assert sorted(map(id, held)) == sorted(map(id, model.parameters()))
    ids = torch.randint(0, model.shape.vocab, (2, 70))
    model.logits(model(ids)).logsumexp(-1).mean().backward()
    assert all(weight.grad is not None for weight in model.parameters())


def test_loads_of_experts_are_balanced():
    model = random_model("moe")
    ids = torch.randint(0, model.shape.vocab, (4, 70))
    layer = model.model.layers[1].mlp

    def spread():
        with torch.no_grad():
            model(ids)
        return int(layer.loads.max() - layer.loads.min())

    before = spread()
    for _ in range(100):
        model.balance()
        spread()
    assert spread() < before / 3


def test_chunks_of_the_delta_rule_equal_its_steps():
    torch.manual_seed(0)
    q, k = torch.randn(2, 2, 3, 2 * CHUNK, 8)
    k = k / k.norm(dim=-1, keepdim=True)
    v = torch.randn(2, 3, 2 * CHUNK, 5)
    decay, beta = -0.3 * torch.rand(2, 3, 2 * CHUNK), torch.rand(2, 3, 2 * CHUNK)
    state, outputs = torch.zeros(2, 3, 8, 5), []
    for t in range(2 * CHUNK):
        state = state * decay[:, :, t, None, None].exp()
        known = (state * k[:, :, t, :, None]).sum(-2)
        change = (v[:, :, t] - known) * beta[:, :, t, None]
        state = state + k[:, :, t, :, None] * change[:, :, None]
        outputs.append((state * q[:, :, t, :, None]).sum(-2))
    torch.testing.assert_close(
        delta_rule(q, k, v, decay, beta), torch.stack(outputs, 2), atol=1e-4, rtol=1e-4
    )
