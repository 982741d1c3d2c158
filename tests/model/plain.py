"""Plain models for families that transformers does not have: slow, obvious, without a cache.

Each layer is stated by its sizes, beside the config that means them.
"""

import json

import torch
import torch.nn.functional as F
from checkpoint import Checkpoint
from safetensors.torch import save_file
from torch import nn
from zoo import SIZES, VOCAB

HIDDEN, HEADS, DIM = 48, 4, 12
LINEAR = "linear"


class PlainAttention(nn.Module):
    def __init__(self, kv_heads):
        super().__init__()
        self.kv_heads = kv_heads
        self.q_proj = nn.Linear(HIDDEN, HEADS * DIM, bias=False)
        self.k_proj = nn.Linear(HIDDEN, kv_heads * DIM, bias=False)
        self.v_proj = nn.Linear(HIDDEN, kv_heads * DIM, bias=False)
        self.o_proj = nn.Linear(HEADS * DIM, HIDDEN, bias=False)

    def forward(self, x, cos, sin):
        count = len(x)
        q = self.q_proj(x).view(count, HEADS, DIM)
        k, v = (p(x).view(count, self.kv_heads, DIM) for p in (self.k_proj, self.v_proj))
        q, k = rotated(q, cos, sin), rotated(k, cos, sin)
        out = []
        for head in range(HEADS):
            shared = head // (HEADS // self.kv_heads)
            scores = q[:, head] @ k[:, shared].T / DIM**0.5
            mask = torch.ones(count, count).tril().bool()
            out.append(scores.masked_fill(~mask, float("-inf")).softmax(-1) @ v[:, shared])
        return self.o_proj(torch.cat(out, dim=-1))


def rotated(x, cos, sin):
    low, high = x.chunk(2, dim=-1)
    return x * cos[:, None] + torch.cat((-high, low), dim=-1) * sin[:, None]


class PlainNetwork(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.gate_proj = nn.Linear(HIDDEN, size, bias=False)
        self.up_proj = nn.Linear(HIDDEN, size, bias=False)
        self.down_proj = nn.Linear(size, HIDDEN, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Replaced(nn.Module):
    """A linear map under the name that the published weights have."""

    def __init__(self, name):
        super().__init__()
        self.name = name
        setattr(self, name, nn.Linear(HIDDEN, HIDDEN, bias=False))

    def forward(self, x, *_):
        return getattr(self, self.name)(x)


class PlainLayer(nn.Module):
    def __init__(self, kv_heads, size):
        super().__init__()
        if kv_heads is not None:
            self.input_layernorm = nn.RMSNorm(HIDDEN, 1e-5)
            linear = kv_heads == LINEAR
            self.self_attn = Replaced("linear_attn") if linear else PlainAttention(kv_heads)
        if size is not None:
            self.post_attention_layernorm = nn.RMSNorm(HIDDEN, 1e-5)
            self.mlp = Replaced("linear_mlp") if size == LINEAR else PlainNetwork(size)

    def forward(self, x, cos, sin):
        if hasattr(self, "self_attn"):
            x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        if hasattr(self, "mlp"):
            x = x + self.mlp(self.post_attention_layernorm(x))
        return x


class PlainDecoder(nn.Module):
    """A decoder over `layers` of (KV heads, size), each a number, `LINEAR`, or None for nothing."""

    def __init__(self, layers, vocab):
        super().__init__()
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(vocab, HIDDEN)
        self.model.layers = nn.ModuleList(PlainLayer(*sizes) for sizes in layers)
        self.model.norm = nn.RMSNorm(HIDDEN, 1e-5)
        self.lm_head = nn.Linear(HIDDEN, vocab, bias=False)

    @torch.inference_mode()
    def forward(self, tokens):
        """Logits (len(tokens), V)."""
        frequencies = 10000.0 ** -(torch.arange(0, DIM, 2) / DIM)
        angles = torch.outer(torch.arange(len(tokens)).float(), frequencies).repeat(1, 2)
        x = self.model.embed_tokens(torch.tensor(tokens))
        for layer in self.model.layers:
            x = layer(x, angles.cos(), angles.sin())
        return self.lm_head(self.model.norm(x))


class PlainCheckpoint(Checkpoint):
    """A row of `PLAIN`, saved."""

    def __init__(self, folder, name, vocab=VOCAB):
        super().__init__(folder, make_plain(name, vocab))
        (folder / "config.json").write_text(json.dumps({**PLAIN[name][0], "vocab_size": vocab}))
        tensors = {key: x.contiguous() for key, x in self.model.state_dict().items()}
        save_file(tensors, folder / "model.safetensors")

    def _forward(self, tokens):
        return self.model(tokens)

    def _generate(self, prompt, count):
        tokens = list(prompt)
        for _ in range(count):
            tokens.append(self.logits(tokens)[-1].argmax().item())
        return tokens[len(prompt) :]


def blocks(*layers):
    """A config of DeciLM with these `block_configs`."""
    return {
        "architectures": ["DeciLMForCausalLM"],
        "model_type": "nemotron-nas",
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "num_attention_heads": HEADS,
        "num_key_value_heads": None,
        "intermediate_size": None,
        "num_hidden_layers": len(layers),
        "hidden_act": "silu",
        "max_position_embeddings": SIZES["max_position_embeddings"],
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "block_configs": [{"attention": mixer, "ffn": network} for mixer, network in layers],
    }


ALL = {"no_op": False, "replace_with_linear": False}  # as written out where nothing is special
SINKS = {"num_sink_tokens": None, "sparsify": None, "unshifted_sink": False, "window_length": None}
NO_OP, REPLACED = {"no_op": True}, {"replace_with_linear": True}


def heads_in_group(count):
    return {**ALL, **SINKS, "n_heads_in_group": count}


def multiplier(value):
    return {**ALL, "sparsify": None, "ffn_mult": value}


# name -> (config, the layers' KV heads and sizes); int(2 * 8.5 * 48 / 3) = 272, up to 512
PLAIN = {
    "decilm": (
        blocks(
            (heads_in_group(2), multiplier(1.3125)),
            (NO_OP, multiplier(8.5)),
            (REPLACED, {"intermediate_size": 40}),
            (heads_in_group(4), NO_OP),
            (heads_in_group(1), REPLACED),
            (NO_OP, NO_OP),
            ({"num_key_value_heads": 2}, {"intermediate_size": 72}),
        ),
        [(2, 256), (None, 512), (LINEAR, 40), (1, None), (4, LINEAR), (None, None), (2, 72)],
    ),
    "decilm_ends": (  # neither the first nor the last layers look at other tokens
        blocks(
            (NO_OP, {"intermediate_size": 40}),
            (heads_in_group(4), {"intermediate_size": 24}),
            (heads_in_group(2), NO_OP),
            (REPLACED, NO_OP),
            (NO_OP, {"intermediate_size": 56}),
        ),
        [(None, 40), (1, 24), (2, None), (LINEAR, None), (None, 56)],
    ),
    "no_attention": (
        blocks((NO_OP, {"intermediate_size": 40}), (REPLACED, {"intermediate_size": 24})),
        [(None, 40), (LINEAR, 24)],
    ),
    "decilm_7b": (
        {
            **blocks(),
            "num_hidden_layers": 3,
            "block_configs": None,
            "intermediate_size": 72,
            "num_key_value_heads_per_layer": [4, 1, 2],
        },
        [(4, 72), (1, 72), (2, 72)],
    ),
}


def make_plain(name, vocab=VOCAB):
    """The model of a row, with random norms too."""
    torch.manual_seed(0)
    model = PlainDecoder(PLAIN[name][1], vocab).eval().requires_grad_(False)
    for key, parameter in model.named_parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, 0.8, 0.3)
        else:
            nn.init.normal_(parameter, std=0.5 if "embed" in key else 0.2)
    return model
