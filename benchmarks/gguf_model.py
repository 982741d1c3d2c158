"""Writes a Qwen3 model folder as a GGUF file in float32, for llama.cpp.

The file names no vocabulary, since the benchmarks speak in token ids. Needs the packages gguf
and safetensors, and no torch. Called by peer_llamacpp.py.
"""

from __future__ import annotations

import json
from pathlib import Path


def write_gguf(folder: Path, target: Path) -> None:
    """Write the model in `folder` (config.json and model.safetensors in float32) to `target`."""
    import gguf
    from safetensors.numpy import load_file

    config = json.loads((folder / "config.json").read_text())
    layers = config["num_hidden_layers"]
    writer = gguf.GGUFWriter(target, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.QWEN3])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(layers)
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(_rope_base(config))
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(config["vocab_size"])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, layers)
    for name, tensor in load_file(folder / "model.safetensors").items():
        if name == "lm_head.weight" and config["tie_word_embeddings"]:
            continue  # llama.cpp takes the embedding where there is no head
        found = names.get_name(name, try_suffixes=(".weight",))
        assert found, f"GGUF has no name for {name}"
        assert tensor.dtype == "float32", f"{name} is {tensor.dtype}"
        writer.add_tensor(found, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _rope_base(config: dict[str, object]) -> float:
    """The rotary base, where this or older releases of transformers write it."""
    scaling = config.get("rope_parameters")
    place = scaling if isinstance(scaling, dict) else config
    return float(place["rope_theta"])
