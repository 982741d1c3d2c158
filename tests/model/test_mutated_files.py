"""Damaged configs, tokenizer files and safetensors headers: each loads, or is refused by name.

Never a traceback, a hang or much memory. `python -m pytest -m slow` runs ten thousand.
"""

import json
import random
import resource
import shutil
import signal
from pathlib import Path

import pytest
import torch
from file_mutations import mutate_safetensors, mutate_text
from tiny import VOCAB
from zoo import ZOO, make_config

from stoker import LLM, SamplingParams
from stoker.errors import StokerError
from stoker.model.checkpoint import INDEX, SINGLE
from stoker.model.heads import resolve
from stoker.model.json_files import read_json
from stoker.model.loader import empty_model, resolve_dtype

SECONDS = 30  # for one case, on a busy machine
MEMORY = 1 << 30
MANY = {  # cases of the long test
    "config.json": 500,
    "generation_config.json": 300,
    "tokenizer.json": 1200,
    "tokenizer_config.json": 900,
    "special_tokens_map.json": 500,
    INDEX: 400,
    SINGLE: 1200,
}
JSON_FILES = [name for name in MANY if name != SINGLE]
DECILM = {
    "architectures": ["DeciLMForCausalLM"],
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": VOCAB,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 128,
    "block_configs": [
        {"attention": {"n_heads_in_group": 2}, "ffn": {"ffn_mult": 2.625}},
        {"attention": {"no_op": True}, "ffn": {"ffn_mult": 1.5}},
        {"attention": {"replace_with_linear": True}, "ffn": {"no_op": True}},
    ],
}


class TooSlowError(BaseException):
    """No library catches it."""


@pytest.fixture(autouse=True)
def limits():
    """Fail a case that takes too long, and a test that takes much memory."""

    def stop(signum, frame):
        raise TooSlowError

    before = signal.signal(signal.SIGALRM, stop)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) * 1024 < MEMORY


def outcome(work):
    """The message of the StokerError that `work` ends with; "" if it ends well."""
    signal.alarm(SECONDS)
    try:
        work()
    except StokerError as problem:
        return str(problem) or "no message"
    finally:
        signal.alarm(0)
    return ""


def configs():
    """A config of every family as it is saved, and some beside them."""
    found = [DECILM]
    for name in ZOO:
        config, model = make_config(name)
        found.append(
            {**json.loads(config.to_json_string(False)), "architectures": [model.__name__]}
        )
    llama = found[1]
    found.append({**llama, "architectures": ["LlamaForSequenceClassification"], "num_labels": 3})
    found.append({**llama, "per_layer_config": {"1": {"intermediate_size": 64, "skip": ["mlp"]}}})
    found.append({**llama, "architectures": None})
    return found


def config_case(text, folder):
    """What becomes of a config.json, short of loading weights."""
    (folder / "config.json").write_bytes(text)
    config = read_json(folder, "config.json")
    spec = resolve(config)[0]
    resolve_dtype(config, "auto", torch.device("cuda"))
    for rope in spec.ropes:
        if rope is not None:
            rope.inv_freq(min(spec.context, 4096))
    empty_model(spec, torch.float32)


def run_configs(count, seed, folder):
    """How many configs were refused, and how many of those of which a field was changed; and how
    many of these with a word on it."""
    rng, texts = random.Random(seed), [json.dumps(one) for one in configs()]
    refused = with_field = named = 0
    for _ in range(count):
        text, keys = mutate_text(rng.choice(texts), rng)
        said = outcome(lambda text=text: config_case(text, folder))
        if said:
            assert "config.json" in said, said
            refused += 1
            with_field += bool(keys)
            named += any(key in said for key in keys)
    return refused, with_field, named


def use(folder):
    """Load a model and have it answer a text, a chat and token ids."""
    params = SamplingParams(max_tokens=2, temperature=0, stop=["<|user|>"])
    with LLM(str(folder), threads=1, max_running=2, cache_memory=1 << 22) as llm:
        llm.generate(["hello there", [1, 2, 3]], params)
        llm.chat([{"role": "user", "content": "hello"}], params)


def run_folders(count, seed, good, place, names):
    """How many folders were refused in which one of the files `names` was changed."""
    rng = random.Random(seed)
    refused = 0
    for _ in range(count):
        name = rng.choice(names)
        folder = place / "model"
        shutil.copytree(good, folder)
        path = folder / name
        data = path.read_bytes()
        if name == SINGLE:
            path.write_bytes(mutate_safetensors(data, rng))
        else:
            path.write_bytes(mutate_text(data.decode(), rng)[0])
            if name == INDEX:
                (folder / SINGLE).rename(folder / "weights.safetensors")
        said = outcome(lambda folder=folder: use(folder))
        # a token id that a tokenizer has and the model has not is told with the prompt
        prompt = "token id" in said and name.startswith("tokenizer")
        assert not said or name in said or "safetensors" in said or prompt, (name, said)
        refused += bool(said)
        shutil.rmtree(folder)
    return refused


@pytest.fixture(scope="module")
def good(text_model, tmp_path_factory):
    """A model with every file that is read."""
    folder = tmp_path_factory.mktemp("good") / "model"
    shutil.copytree(text_model, folder)
    special = {"eos_token": {"content": "<|end|>", "lstrip": False}, "bos_token": "<|user|>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    names = "model.embed_tokens.weight", "model.norm.weight"
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "weights.safetensors")}
    (folder / INDEX).write_text(json.dumps(index))
    use(folder)
    return Path(folder)


def test_configs(tmp_path):
    refused, with_field, named = run_configs(300, 0, tmp_path)
    assert 60 < refused < 300
    assert named > with_field * 0.8


def test_model_folders(good, tmp_path):
    assert 10 < run_folders(40, 0, good, tmp_path, JSON_FILES) < 40


def test_safetensors_headers(good, tmp_path):
    assert 10 < run_folders(20, 0, good, tmp_path, [SINGLE]) <= 20


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_many_configs(tmp_path, seed):
    print("configs: refused, a field changed, and named:", run_configs(1000, seed, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize(("file", "count"), MANY.items())
def test_many_folders(good, tmp_path, file, count):
    print(f"{file}: {run_folders(count, 1, good, tmp_path, [file])} of {count} refused")
