"""A family of tiny models with layers that keep states: running sums that fade.

`layer_types` says what each layer is: "sum" and "wide" keep states of two kinds, so they are two
cache groups; "full" and "slide" are attention.
"""

import json
from dataclasses import dataclass
from itertools import pairwise

import torch
from safetensors.torch import save_file
from tiny import SIZES, VOCAB

from stoker.model.cache_spec import StatePart, StateSpec
from stoker.model.families import FAMILIES
from stoker.model.families.parts import LAYER, LLAMA, Family, attention, decoder
from stoker.model.layers.kinds import MIXERS
from stoker.model.layers.linear import LayerPart, Linear
from stoker.model.spec.part import PartSpec
from stoker.model.weights import names

NAME = "ToyStatesForCausalLM"
HIDDEN, WINDOW = SIZES["hidden_size"], 16
FADE = 0.9
KINDS = {
    "states": ["sum", "sum"],
    "two_states": ["wide", "sum", "wide"],
    "hybrid": ["sum", "full", "sum"],
    "all": ["wide", "slide", "sum", "full"],
}


@dataclass(frozen=True)
class ToySpec(PartSpec):
    """z = inner(x), s = s * FADE + z, y = project(s + the last two z's difference)."""

    size: int

    def cache_spec(self):
        return StateSpec((StatePart((self.size,), float32=True), StatePart((2, self.size))))

    def product_weights(self, hidden):
        return 2 * hidden * self.size


class Toy(LayerPart):
    """Token by token, so its results have the same bits however a step is made up."""

    def __init__(self, spec, model, index):
        super().__init__(model, index)
        self.group = model.group_of(index)
        self.inner = Linear(model.hidden, spec.size)
        self.project = Linear(spec.size, model.hidden)

    def forward(self, x, step, residual):
        sums, before = self.kept(step)
        plan, z = step.attention[self.group], self.inner(x)
        starts = plan.starts.tolist()
        assert plan.most >= max(end - start for start, end in pairwise(starts))
        assert starts[-1] == len(x)
        y = torch.empty_like(z)
        for n, slot in enumerate(plan.slots.tolist()):
            total, last = sums[slot].clone(), before[slot].clone()
            if plan.fresh[n]:
                total.zero_()
                last.zero_()
            for at in range(starts[n], starts[n + 1]):
                total = total * FADE + z[at].float()
                y[at] = total.to(z.dtype) + last[0] - last[1]
                last = torch.stack((z[at], last[0]))
            sums[slot], before[slot] = total, last
        return self.joined(self.project, *self.going_on(y, residual, step), step.ops)


def spec(f):
    mixer = attention(f)
    kinds = {
        "sum": ToySpec(48),
        "wide": ToySpec(80),
        "full": mixer,
        "slide": attention(f, window=WINDOW),
    }
    return decoder(f, [kinds[kind] for kind in f.items("layer_types", f.layers())])


TOY = {
    "layers.{i}.mixer.inner.weight": "inner.weight",
    "layers.{i}.mixer.project.weight": "project.weight",
}
FAMILY = Family("toys", spec, {**LLAMA, **names(LAYER + "toy.", TOY)}, "")


def register(monkeypatch):
    """Make the family known."""
    monkeypatch.setitem(FAMILIES, NAME, FAMILY)
    monkeypatch.setitem(MIXERS, ToySpec, Toy)


def save(folder, kind):
    """Write a random model of one of `KINDS`; returns its folder."""
    layers = KINDS[kind]
    config = {
        **SIZES,
        "architectures": [NAME],
        "num_hidden_layers": len(layers),
        "layer_types": layers,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
    }
    draw = torch.Generator().manual_seed(len(layers))
    tensors = {"model.norm.weight": (HIDDEN,)}
    tensors["model.embed_tokens.weight"] = tensors["lm_head.weight"] = (VOCAB, HIDDEN)
    for index, layer in enumerate(layers):
        beside = {"input_layernorm.weight": (HIDDEN,), "post_attention_layernorm.weight": (HIDDEN,)}
        sizes = {"gate_proj": (96, HIDDEN), "up_proj": (96, HIDDEN), "down_proj": (HIDDEN, 96)}
        mixer = {"q_proj": (64, 64), "k_proj": (32, 64), "v_proj": (32, 64), "o_proj": (64, 64)}
        beside |= {f"mlp.{name}.weight": shape for name, shape in sizes.items()}
        if layer in ("full", "slide"):
            beside |= {f"self_attn.{name}.weight": shape for name, shape in mixer.items()}
        else:
            size = {"sum": 48, "wide": 80}[layer]
            beside |= {"toy.inner.weight": (size, HIDDEN), "toy.project.weight": (HIDDEN, size)}
        tensors |= {f"model.layers.{index}.{name}": shape for name, shape in beside.items()}
    values = {name: 0.2 * torch.randn(shape, generator=draw) for name, shape in tensors.items()}
    save_file(values, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder
