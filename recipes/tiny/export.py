"""Turns a training checkpoint into a model folder that transformers loads unchanged.

Writes bfloat16 weights, the configuration, the tokenizer and its chat template, then checks
the logits of both implementations against each other. Does not train or evaluate.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from delta import KERNEL
from model import TinyModel
from parts import EPS, Shape
from safetensors.torch import load_file, save_file
from tokenizer import CHAT_TEMPLATE, END, END_OF_TEXT
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer


def write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


FAMILIES = {  # by what a shape has: the class and the model_type
    "plain": ("Qwen3ForCausalLM", "qwen3"),
    "experts": ("Glm4MoeForCausalLM", "glm4_moe"),
    "delta": ("Qwen3_5ForCausalLM", "qwen3_5_text"),
}


def family(shape: Shape) -> str:
    """The key of FAMILIES that a shape belongs to."""
    return "experts" if shape.experts else "plain" if shape.attention_every == 1 else "delta"


def family_config(shape: Shape) -> dict[str, object]:
    """The fields of config.json that only this family has."""
    if family(shape) == "plain":
        return {
            "max_window_layers": shape.layers,
            "rope_theta": shape.theta,
            "sliding_window": None,
            "use_sliding_window": False,
        }
    rotation = {
        "rope_type": "default",
        "rope_theta": shape.theta,
        "partial_rotary_factor": shape.rotary,
    }
    if family(shape) == "experts":
        return {
            "first_k_dense_replace": 0,
            "moe_intermediate_size": shape.expert_ffn,
            "n_group": 1,
            "n_routed_experts": shape.experts,
            "n_shared_experts": shape.ffn // shape.expert_ffn,
            "norm_topk_prob": True,
            "num_experts_per_tok": shape.active,
            "num_nextn_predict_layers": 0,
            "rope_parameters": rotation,
            "routed_scaling_factor": 1.0,
            "topk_group": 1,
            "use_qk_norm": True,
        }
    kinds = ("linear_attention", "full_attention")
    return {
        "full_attention_interval": shape.attention_every,
        "layer_types": [kinds[shape.attends(layer)] for layer in range(shape.layers)],
        "linear_conv_kernel_dim": KERNEL,
        "linear_key_head_dim": shape.delta_key,
        "linear_num_key_heads": shape.heads,
        "linear_num_value_heads": shape.heads,
        "linear_value_head_dim": shape.delta_value,
        "rope_parameters": rotation,
    }


def model_config(shape: Shape, end: int, end_of_text: int) -> dict[str, object]:
    """config.json of a model of this shape."""
    architecture, model_type = FAMILIES[family(shape)]
    shared: dict[str, object] = {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": None,
        "dtype": "bfloat16",
        "eos_token_id": end,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "initializer_range": 0.02,
        "intermediate_size": shape.ffn,
        "max_position_embeddings": shape.context,
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "pad_token_id": end_of_text,
        "rms_norm_eps": EPS,
        "tie_word_embeddings": True,
        "use_cache": True,
        "vocab_size": shape.vocab,
    }
    fields = sorted((shared | family_config(shape)).items())
    return {"architectures": [architecture], "model_type": model_type, **dict(fields)}


def offset(shape: Shape, name: str) -> float:
    """What the family adds to a stored parameter: Qwen3.5 has most gains as 1 + w."""
    return float(family(shape) == "delta" and "norm" in name and "linear_attn" not in name)


def stored_dtype(name: str) -> torch.dtype:
    """bfloat16, but for what decides between experts whose scores are close."""
    return torch.float32 if name.endswith("e_score_correction_bias") else torch.bfloat16


def tokenizer_config(context: int) -> dict[str, object]:
    """tokenizer_config.json with the chat template."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": False,
        "bos_token": None,
        "eos_token": END,
        "pad_token": END_OF_TEXT,
        "unk_token": None,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
        "chat_template": CHAT_TEMPLATE,
    }


def export(checkpoint: Path, tokenizer: Path, out: Path) -> None:
    """Write the model folder."""
    out.mkdir(parents=True, exist_ok=True)
    state = torch.load(checkpoint)
    shape = Shape(**state["shape"])
    ids = Tokenizer.from_file(str(tokenizer))
    end, end_of_text = ids.token_to_id(END), ids.token_to_id(END_OF_TEXT)
    weights = {
        name: (w - offset(shape, name)).to(stored_dtype(name)).contiguous()
        for name, w in state["model"].items()
    }
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)
    write_json(out / "config.json", model_config(shape, end, end_of_text))
    write_json(out / "tokenizer_config.json", tokenizer_config(shape.context))
    generation = {
        "do_sample": False,
        "eos_token_id": [end, end_of_text],
        "pad_token_id": end_of_text,
    }
    write_json(out / "generation_config.json", generation)
    ids.save(str(out / "tokenizer.json"))


def check(checkpoint: Path, out: Path) -> float:
    """Largest difference between the logits of transformers and of the training model."""
    shape = Shape(**torch.load(checkpoint)["shape"])
    ours = TinyModel(shape)
    stored = load_file(out / "model.safetensors")
    ours.load_state_dict({name: w.float() + offset(shape, name) for name, w in stored.items()})
    theirs = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    text = "Sort these words: stone, apple 12 river"
    ids = torch.tensor([AutoTokenizer.from_pretrained(out)(text)["input_ids"]])
    with torch.no_grad():
        return float((ours.logits(ours(ids)) - theirs(ids).logits).abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    export(args.checkpoint, args.tokenizer, args.out)
    difference = check(args.checkpoint, args.out)
    print("largest difference of logits:", difference)
    if difference > 1e-3:
        raise SystemExit("the exported model does not agree with the training model")


if __name__ == "__main__":
    main()
