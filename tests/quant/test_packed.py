"""The interface carries formats that pack along inputs, along outputs and in blocks."""

import pytest
import torch
from packed_formats import Awq, Fp8Blocks, Gptq

from stoker.errors import ModelError
from stoker.model.loader import allocated
from stoker.model.spec.attention import AttentionSpec
from stoker.model.spec.model import LayerSpec, ModelSpec
from stoker.model.spec.networks import DenseSpec
from stoker.model.spec.part import NormSpec
from stoker.model.transformer import Transformer
from stoker.model.weights import names, places
from stoker.quant.rows8 import Int8Rows

MIXER = AttentionSpec(heads=2, kv_heads=1, head_dim=16, scale=0.25)
SPEC = ModelSpec(
    hidden=32,
    vocab=8,
    layers=(LayerSpec(MIXER, DenseSpec(48)),),
    norm=NormSpec("rms", 1e-6),
    context=16,
    tied_head=True,
)
TABLE = names(
    "",
    {
        "layers.{i}.mixer.qkv.weight": "{i}.q.weight {i}.k.weight {i}.v.weight",
        "layers.{i}.mixer.out.weight": "{i}.o.weight",
        "layers.{i}.ffn.up.weight": "{i}.gate.weight {i}.up.weight",
        "layers.{i}.ffn.down.weight": "{i}.down.weight",
        "layers.{i}.mixer_norm.weight": "{i}.norm1.weight",
        "layers.{i}.ffn_norm.weight": "{i}.norm2.weight",
        "embedding": "embedding",
        "norm.weight": "norm.weight",
    },
)
SIZES = {"q": (32, 32), "k": (16, 32), "v": (16, 32), "o": (32, 32)}
SIZES |= {"gate": (48, 32), "up": (48, 32), "down": (32, 48)}


@pytest.mark.parametrize("kind", [Gptq(), Awq(), Fp8Blocks(), Int8Rows()])
def test_a_quantised_checkpoint_fills_fused_projections(kind):
    """Each part of each stored matrix has its place, and q, k and v lie behind each other."""
    torch.manual_seed(0)
    weights = {name: torch.randn(size) for name, size in SIZES.items()}
    stored = {
        f"0.{name}.{part}": tensor
        for name, weight in weights.items()
        for part, tensor in kind.from_dense(weight).items()
    }
    with torch.device("meta"):
        model = Transformer(SPEC)
    layer = model.layers[0]
    projections = (layer.mixer.qkv, layer.mixer.out, layer.ffn.up, layer.ffn.down)
    for linear in projections:
        linear.store_as(kind)
    wanted = dict(places(TABLE, model, 1))
    assert wanted.keys() - stored.keys() == {
        "0.norm1.weight",
        "0.norm2.weight",
        "embedding",
        "norm.weight",
    }
    for name, tensor in stored.items():
        place = wanted.pop(name)
        assert place.expected() == tensor.shape
        allocated(model, place.parameter, torch.device("cpu"))
        place.fill(tensor)
    for linear, fused in zip(projections, ("q k v", "o", "gate up", "down"), strict=True):
        dense = kind.to_dense(linear.parts)
        alone = [kind.to_dense(kind.from_dense(weights[name])) for name in fused.split()]
        assert torch.equal(dense, torch.cat(alone))
        x = torch.randn(3, dense.shape[1])
        assert not linear.prepare((), "silu")  # stays in its own format, and fuses no gate
        torch.testing.assert_close(linear(x), x @ dense.T, rtol=0.02, atol=0.2)
        assert not linear.parts


def test_a_format_may_refuse_a_cut():
    parts = Awq().from_dense(torch.randn(32, 16))
    with pytest.raises(ModelError, match="can't be cut at 12, 20"):
        Awq().slice_outputs(parts, 12, 20)
