"""Tiny random checkpoints made with transformers."""

import gc
import json
import os
import random

if not os.path.exists("/dev/nvidiactl"):  # no GPU: Triton, when imported, shall interpret
    os.environ.setdefault("TRITON_INTERPRET", "1")

import pytest
import torch
import triton_interpreter
from checkpoint import Checkpoint
from tiny import SIZES, VOCAB
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from stoker.ops.triton.available import triton_serves

if triton_serves("cpu"):
    triton_interpreter.mend()

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def pytest_collection_finish():
    """Leave what is imported by now out of the collections that each closed engine makes."""
    gc.collect()
    gc.freeze()


def _llama(**changes):
    return LlamaForCausalLM(
        LlamaConfig(**{**SIZES, "num_hidden_layers": 3, "rope_parameters": LLAMA3_ROPE, **changes})
    )


def _qwen3(**changes):
    sizes = {**SIZES, "num_hidden_layers": 4, "tie_word_embeddings": True}
    return Qwen3ForCausalLM(Qwen3Config(**{**sizes, **changes}))


MAKERS = {
    "llama": _llama,
    "llama_bias": lambda: _llama(attention_bias=True, mlp_bias=True),
    "qwen3": _qwen3,
    "qwen3_window": lambda: _qwen3(use_sliding_window=True, sliding_window=16, max_window_layers=1),
}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A function from a name in MAKERS to its `Checkpoint`."""
    made = {}

    def get(name):
        if name not in made:
            torch.manual_seed(0)
            model = MAKERS[name]()
            folder = tmp_path_factory.mktemp(name)
            model.save_pretrained(folder)
            made[name] = Checkpoint(folder, model)
        return made[name]

    return get


@pytest.fixture(scope="session")
def save_checkpoint(tmp_path_factory):
    """A function from a name and a transformers model to its `Checkpoint`."""

    def save(name, model):
        folder = tmp_path_factory.mktemp(name)
        model.save_pretrained(folder)
        return Checkpoint(folder, model)

    return save


@pytest.fixture(scope="session")
def prompts():
    """32 ragged prompts, some with a common beginning."""
    rng = random.Random(0)
    stem = [rng.randrange(VOCAB) for _ in range(40)]
    ragged = [[rng.randrange(VOCAB) for _ in range(rng.randint(1, 60))] for _ in range(24)]
    shared = [
        stem[: rng.randint(20, 40)] + [rng.randrange(VOCAB) for _ in range(rng.randint(1, 20))]
        for _ in range(8)
    ]
    return ragged + shared


TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(scope="session")
def text_model(tmp_path_factory):
    """The folder of a tiny model with a byte-level tokenizer and a chat template."""
    folder = tmp_path_factory.mktemp("text")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
    tokenizer.train_from_iterator(
        ["hello world, hello there"] * 3,
        trainers.BpeTrainer(
            vocab_size=VOCAB,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    _qwen3().save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 0}))
    return str(folder)
