"""Writes a model folder as a GGUF file, in float32 or with matrices in 8 bits, for llama.cpp.

Qwen3, Qwen3Moe, and GraniteMoeHybrid without experts: `ARCHITECTURES` is the table. The file
names no vocabulary, since the benchmarks speak in token ids. Needs the packages gguf and
safetensors, and no torch. Called by peer_llamacpp.py; `peers.py tiny-moe
tiny-hybrid` compares the tokens.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

Config = dict[str, Any]
Tensors = dict[str, Any]  # numpy arrays by their names in the checkpoint

# Read in float32 by llama.cpp, whatever the type of the others: its own converter keeps them so.
FLOAT32_ENDS = ("ffn_gate_inp.weight", "ssm_conv1d.weight", "_norm.weight", "ssm_a", "ssm_d")


def write_gguf(folder: Path, target: Path, q8: bool = False) -> None:
    """Write the model in `folder` (config.json and model.safetensors in float32) to `target`.

    Args:
        q8: write matrices as Q8_0: 32 numbers of a row share one scale in float16.
    """
    import gguf
    from gguf.quants import quantize
    from safetensors.numpy import load_file

    config = json.loads((folder / "config.json").read_text())
    architecture = ARCHITECTURES[config["architectures"][0]]
    number = getattr(gguf.MODEL_ARCH, architecture.name)
    layers = config["num_hidden_layers"]
    writer = gguf.GGUFWriter(target, gguf.MODEL_ARCH_NAMES[number])
    kind = gguf.LlamaFileType.MOSTLY_Q8_0 if q8 else gguf.LlamaFileType.ALL_F32
    writer.add_file_type(kind)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(layers)
    writer.add_head_count(config["num_attention_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(_rope_base(config))
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(config["vocab_size"])
    architecture.describe(writer, config)
    names = gguf.get_tensor_name_map(number, layers)
    for name, tensor in architecture.arrange(load_file(folder / "model.safetensors")).items():
        if name == "lm_head.weight" and config["tie_word_embeddings"]:
            continue  # llama.cpp takes the embedding where there is no head
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert found, f"GGUF has no name for {name}"
        assert tensor.dtype == "float32", f"{name} is {tensor.dtype}"
        if q8 and tensor.ndim > 1 and not found.endswith(FLOAT32_ENDS):
            eight = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(found, quantize(tensor, eight), raw_dtype=eight)
        else:
            writer.add_tensor(found, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _rope_base(config: Config) -> float:
    """The rotary base, where this or older releases of transformers write it."""
    scaling = config.get("rope_parameters")
    place = scaling if isinstance(scaling, dict) else config
    return float(place["rope_theta"])


def _describe_qwen3(writer: Any, config: Config) -> None:
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count_kv(config["num_key_value_heads"])


def _describe_qwen3_moe(writer: Any, config: Config) -> None:
    assert config["norm_topk_prob"], "llama.cpp always normalises the weights of the chosen"
    assert config["decoder_sparse_step"] == 1, "dense layers are not written"
    assert not config["mlp_only_layers"], "dense layers are not written"
    _describe_qwen3(writer, config)
    writer.add_expert_count(config["num_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_expert_feed_forward_length(config["moe_intermediate_size"])


def _describe_granite_hybrid(writer: Any, config: Config) -> None:
    assert not config["num_local_experts"], "experts of this architecture are not written"
    assert config["position_embedding_type"] is None, "positions are not written"
    assert config["mamba_n_groups"] == 1, "groups of states are not written"
    heads = {"attention": config["num_key_value_heads"], "mamba": 0}
    writer.add_head_count_kv([heads[kind] for kind in config["layer_types"]])  # 0: Mamba 2
    writer.add_rope_scaling_finetuned(False)  # which llama.cpp reads as: no rotary positions
    writer.add_feed_forward_length(config["shared_intermediate_size"])
    writer.add_attention_scale(config["attention_multiplier"])
    writer.add_embedding_scale(config["embedding_multiplier"])
    writer.add_residual_scale(config["residual_multiplier"])
    writer.add_logit_scale(config["logits_scaling"])
    writer.add_ssm_conv_kernel(config["mamba_d_conv"])
    writer.add_ssm_state_size(config["mamba_d_state"])
    writer.add_ssm_group_count(config["mamba_n_groups"])
    writer.add_ssm_inner_size(config["mamba_n_heads"] * config["mamba_d_head"])
    writer.add_ssm_time_step_rank(config["mamba_n_heads"])  # its name there for the heads


def _as_they_are(tensors: Tensors) -> Tensors:
    return tensors


def _stack_experts(tensors: Tensors) -> Tensors:
    """Experts 0 to n - 1 of a layer, `experts.3.up_proj` and so on, as one array (n, out, in)."""
    import numpy as np

    stacks: dict[str, dict[int, Any]] = {}
    others = {}
    for name, tensor in tensors.items():
        before, found, after = name.partition(".experts.")
        if found:
            number, _, part = after.partition(".")
            stacks.setdefault(f"{before}.experts.{part}", {})[int(number)] = tensor
        else:
            others[name] = tensor
    stacked = {name: np.stack([n[i] for i in range(len(n))]) for name, n in stacks.items()}
    return {**others, **stacked}


def _arrange_granite_hybrid(tensors: Tensors) -> Tensors:
    """Names and shapes as llama.cpp wants them; what is joined in the checkpoint, parted."""
    import numpy as np

    arranged = {}
    for name, tensor in tensors.items():
        layer, _, part = name.partition(".shared_mlp.")
        if part == "input_linear.weight":
            gate, up = np.split(tensor, 2)
            arranged[f"{layer}.mlp.gate_proj.weight"] = np.ascontiguousarray(gate)
            arranged[f"{layer}.mlp.up_proj.weight"] = np.ascontiguousarray(up)
        elif part == "output_linear.weight":
            arranged[f"{layer}.mlp.down_proj.weight"] = tensor
        elif name.endswith(".A_log"):
            arranged[name] = -np.exp(tensor)[:, None]
        elif name.endswith("mamba.D"):
            arranged[name] = tensor[:, None]
        elif name.endswith("mamba.norm.weight"):
            arranged[name] = tensor[None]
        elif name.endswith(".dt_bias"):
            arranged[name.replace(".dt_bias", ".dt_proj.bias")] = tensor
        elif name.endswith("conv1d.weight"):
            arranged[name] = tensor[:, 0]  # (channels, 1, taps)
        else:
            arranged[name] = tensor
    return arranged


class Architecture(NamedTuple):
    """How one kind of model is written.

    Attributes:
        name: its name in `gguf.MODEL_ARCH`.
        describe: adds the fields that not every model has.
        arrange: gives tensors names that GGUF knows, and its shapes.
    """

    name: str
    describe: Callable[[Any, Config], None]
    arrange: Callable[[Tensors], Tensors]


ARCHITECTURES = {
    "Qwen3ForCausalLM": Architecture("QWEN3", _describe_qwen3, _as_they_are),
    "Qwen3MoeForCausalLM": Architecture("QWEN3MOE", _describe_qwen3_moe, _stack_experts),
    "GraniteMoeHybridForCausalLM": Architecture(
        "GRANITE_HYBRID", _describe_granite_hybrid, _arrange_granite_hybrid
    ),
}
