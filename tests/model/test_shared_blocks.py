"""Blocks whose weights several layers share: held once, and quantised once."""

from pathlib import Path

import pytest
import torch
from zoo import make

from stoker import LLM, SamplingParams
from stoker.model.checkpoint import SafetensorsFolder
from stoker.model.families import spec_from_config
from stoker.model.loader import load_model, weight_bytes, weights
from stoker.quant.choose import choose_formats

PROMPTS = [[7 * n % 200 for n in range(length)] for length in (1, 9, 40)]


@pytest.fixture(scope="module")
def zamba2(save_checkpoint):
    return save_checkpoint("zamba2_shared", make("zamba2"))


def test_weights_are_held_once(zamba2):
    device = torch.device("cpu")
    formats = choose_formats("auto", torch.float32, device)
    loaded = load_model(SafetensorsFolder(Path(zamba2.folder)), device, "float32", formats)
    loaded.model.prepare(64, formats)
    pointers = [tensor.data_ptr() for _, tensor in weights(loaded.model)]
    assert len(pointers) == len(set(pointers))
    held = sum(tensor.numel() for _, tensor in weights(loaded.model))
    assert held < 1.3 * loaded.model.spec.parameters()  # panels are padded
    source = SafetensorsFolder(Path(zamba2.folder))
    assert weight_bytes(source, device, "float32", formats) <= 1.3 * 4 * held
    blocks = [layer.shared for layer in loaded.model.layers if hasattr(layer, "shared")]
    assert len(blocks) == 4
    for ours, theirs in zip(blocks[:2], blocks[2:], strict=True):
        assert ours.norms is theirs.norms
        assert ours.attention.qkv.down is not theirs.attention.qkv.down


@pytest.mark.parametrize("quantization", ["int8", "llm_int8"])
def test_eight_bits_come_near(quantization, zamba2):
    params = SamplingParams(temperature=0, max_tokens=1, logprobs=3)
    with LLM(zamba2.folder, quantization=quantization, max_batch_tokens=16) as llm:
        outputs = llm.generate(PROMPTS, params)
    for prompt, output in zip(PROMPTS, outputs, strict=True):
        exact = zamba2.logits(prompt)[-1].log_softmax(-1)
        for token, found in output.outputs[0].logprobs[0].items():
            assert abs(exact[token] - found.logprob) < 0.5


ZAMBA2 = {
    "architectures": ["Zamba2ForCausalLM"],
    "add_bias_linear": False,
    "adapter_rank": 128,
    "chunk_size": 256,
    "hidden_act": "gelu",
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "max_position_embeddings": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000,
    "time_step_limit": None,
    "time_step_min": 0.001,
    "use_conv_bias": True,
    "use_long_context": False,
    "vocab_size": 32000,
}
SIZES = {
    "1.2B": {
        "hidden_size": 2048,
        "hybrid_layer_ids": [5, 11, 17, 23, 29, 35],
        "mamba_d_state": 128,
        "mamba_headdim": 64,
        "n_mamba_heads": 64,
        "num_hidden_layers": 38,
        "num_mem_blocks": 1,
        "use_mem_rope": True,
        "use_shared_attention_adapter": True,
    },
    "2.7B": {
        "hidden_size": 2560,
        "hybrid_layer_ids": [6, 12, 18, 24, 30, 36, 42, 47, 51],
        "mamba_d_state": 64,
        "mamba_headdim": 64,
        "n_mamba_heads": 80,
        "num_hidden_layers": 54,
        "num_mem_blocks": 2,
        "use_mem_rope": False,
        "use_shared_attention_adapter": False,
    },
    "7B": {
        "hidden_size": 3584,
        "hybrid_layer_ids": [5, 11, 17, 23, 29, 35, 41, 47, 53, 59, 65, 71, 77],
        "mamba_d_state": 64,
        "mamba_headdim": 64,
        "mamba_ngroups": 2,
        "n_mamba_heads": 112,
        "num_hidden_layers": 81,
        "num_mem_blocks": 2,
        "use_mem_rope": True,
        "use_shared_attention_adapter": False,
    },
}


@pytest.mark.parametrize(("name", "billions"), [("1.2B", 1.2), ("2.7B", 2.7), ("7B", 7.4)])
def test_published_sizes(name, billions):
    shared = SIZES[name]["hybrid_layer_ids"]
    kinds = ["hybrid" if n in shared else "mamba" for n in range(SIZES[name]["num_hidden_layers"])]
    spec, _ = spec_from_config({**ZAMBA2, **SIZES[name], "layers_block_type": kinds})
    assert round(spec.parameters() / 1e9, 1) == billions
    pages, states = spec.cache_groups
    assert pages.layers == tuple(shared)
    assert len(states.layers) == len(kinds)
    holders = [n for n in shared if not spec.layers[n].shared.borrows]
    assert holders == shared[: SIZES[name]["num_mem_blocks"]]


def test_zamba_7b_as_it_was_published():
    config = {
        "architectures": ["ZambaForCausalLM"],
        "attention_head_dim": 464,
        "attention_hidden_size": 7424,
        "attn_layer_offset": 4,
        "attn_layer_period": 6,
        "hidden_act": "gelu",
        "hidden_mamba_act": "silu",
        "hidden_size": 3712,
        "intermediate_size": 14848,
        "mamba_d_conv": 4,
        "mamba_d_state": 16,
        "mamba_dt_rank": 232,
        "mamba_expand": 2,
        "max_position_embeddings": 4096,
        "n_mamba_heads": 2,
        "num_attention_heads": 16,
        "num_hidden_layers": 76,
        "num_key_value_heads": 16,
        "rms_norm_eps": 1e-05,
        "use_mamba_kernels": True,
        "vocab_size": 32000,
    }
    spec, _ = spec_from_config(config)
    assert round(spec.parameters() / 1e9, 1) == 7.2
    assert spec.cache_groups[0].layers == (2, *range(7, 76, 6))
