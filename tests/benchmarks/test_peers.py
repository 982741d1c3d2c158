"""What peers.py tells of an engine's tokens, and the tensors it hands to llama.cpp."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from gguf_model import ARCHITECTURES
from peers import same


@pytest.mark.parametrize(
    ("outputs", "share"),
    [
        ([[1, 2, 3], [4]], 1),
        ([[1, 9, 3], [4]], 0.5),  # what comes after a difference does not count
        ([[9, 2, 3], [9]], 0),
    ],
)
def test_tokens_count_until_they_differ(outputs, share):
    assert same(outputs, [[1, 2, 3], [4]]) == share


def test_a_request_cut_short_is_no_agreement():
    with pytest.raises(ValueError, match="longer"):
        same([[1, 2], [4]], [[1, 2, 3], [4]])


def test_experts_are_stacked_by_number():
    layer = "model.layers.0.mlp"
    tensors = {
        f"{layer}.experts.{n}.up_proj.weight": np.full((2, 3), n)
        for n in (10, 2, *range(2), *range(3, 10))
    }
    router = np.zeros((11, 3))
    arranged = ARCHITECTURES["Qwen3MoeForCausalLM"].arrange(
        {**tensors, f"{layer}.gate.weight": router}
    )
    assert arranged.keys() == {f"{layer}.experts.up_proj.weight", f"{layer}.gate.weight"}
    stacked = arranged[f"{layer}.experts.up_proj.weight"]
    assert stacked.shape == (11, 2, 3)
    assert stacked[:, 0, 0].tolist() == [*range(11)]


def test_a_hybrid_is_arranged_as_llamacpp_wants_it():
    layer = "model.layers.0"
    joined = np.arange(8.0).reshape(4, 2)
    arranged = ARCHITECTURES["GraniteMoeHybridForCausalLM"].arrange(
        {
            f"{layer}.shared_mlp.input_linear.weight": joined,
            f"{layer}.shared_mlp.output_linear.weight": np.ones((2, 2)),
            f"{layer}.mamba.A_log": np.log([1.0, 2.0]),
            f"{layer}.mamba.D": np.ones(2),
            f"{layer}.mamba.dt_bias": np.ones(2),
            f"{layer}.mamba.norm.weight": np.ones(6),
            f"{layer}.mamba.conv1d.weight": np.ones((8, 1, 4)),
        }
    )
    assert arranged[f"{layer}.mlp.gate_proj.weight"].tolist() == joined[:2].tolist()
    assert arranged[f"{layer}.mlp.up_proj.weight"].tolist() == joined[2:].tolist()
    assert f"{layer}.mlp.down_proj.weight" in arranged
    assert arranged[f"{layer}.mamba.A_log"] == pytest.approx(np.array([[-1.0], [-2.0]]))
    assert arranged[f"{layer}.mamba.D"].shape == (2, 1)
    assert arranged[f"{layer}.mamba.norm.weight"].shape == (1, 6)
    assert arranged[f"{layer}.mamba.conv1d.weight"].shape == (8, 4)
    assert f"{layer}.mamba.dt_proj.bias" in arranged
