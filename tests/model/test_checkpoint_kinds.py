"""Checkpoints as people publish them: a head that differs, stray index files, float64, no name."""

import json
import logging
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from stoker import LLM, SamplingParams
from stoker.errors import ModelError
from stoker.model.checkpoint import INDEX, SINGLE
from stoker.model.families import FAMILIES, architecture
from stoker.model.loader import resolve_dtype

PROMPT = [5, 6, 7, 8]
GREEDY = SamplingParams(temperature=0, max_tokens=8)


@pytest.fixture
def copy(checkpoint, tmp_path):
    """A function that copies a model folder, to be changed."""

    def make(name):
        folder = tmp_path / name
        shutil.copytree(checkpoint(name).folder, folder)
        return folder

    return make


def edit_config(folder, drop=(), **changes):
    path = folder / "config.json"
    fields = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in fields.items() if k not in drop}))


def edit_weights(folder, change):
    tensors = load_file(folder / SINGLE)
    changed = change(tensors)
    tensors = tensors if changed is None else changed
    save_file(tensors, folder / SINGLE, metadata={"format": "pt"})


def greedy(folder, **options):
    with LLM(str(folder), threads=1, **options) as llm:
        return llm.generate([PROMPT], GREEDY)[0].outputs[0].token_ids


def transformers_greedy(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.tensor([PROMPT])
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False
    )
    return out[0, len(PROMPT) :].tolist()


# -- a head beside a config that ties it ---------------------------------------------------


@pytest.mark.parametrize("stored", ["both, different", "both, equal", "embedding", "head"])
@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_a_head_beside_a_config_that_ties_it(copy, caplog, name, stored):
    """As in transformers: tied where they are equal or one is lacking, else each is used."""
    folder = copy(name)
    edit_config(folder, tie_word_embeddings=True)

    def change(tensors):
        embedding = tensors["model.embed_tokens.weight"]
        if stored == "both, different":
            tensors["lm_head.weight"] = embedding.flip(0).contiguous()
        elif stored == "both, equal":
            tensors["lm_head.weight"] = embedding.clone()
        elif stored == "head":
            tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
        else:
            tensors.pop("lm_head.weight", None)

    edit_weights(folder, change)
    with caplog.at_level(logging.WARNING, "stoker"):
        found = greedy(folder)
    assert found == transformers_greedy(folder)
    different = stored == "both, different"
    assert ("the stored head is used" in caplog.text) == different
    with LLM(str(folder), threads=1, dtype="int8") as llm:
        assert llm.spec.tied_head != different
        assert len(llm.generate([PROMPT], GREEDY)[0].outputs[0].token_ids) == 8


def test_neither_head_nor_embedding(copy):
    folder = copy("qwen3")

    def drop(tensors):
        del tensors["model.embed_tokens.weight"]

    edit_weights(folder, drop)
    with pytest.raises(ModelError, match=r"lacks model.embed_tokens.weight"):
        greedy(folder)


# -- an index beside a single file ---------------------------------------------------------


def write_index(folder, *files, name="x"):
    path = folder / INDEX
    path.write_text(json.dumps({"weight_map": {f"{name}.{i}": f for i, f in enumerate(files)}}))


@pytest.mark.parametrize(
    "index",
    [
        '{"weight_map": {"a": "model-00001-of-00002.safetensors"}}',
        '{"weight_map": {"a": "model.safetensors"}}',
        '{"weight_map": {"a": "model.safetensors", "b": "gone.safetensors"}}',
        '{"weight_map": {"a": 7}}',
        '{"metadata": {}}',
        "{",
        "[]",
    ],
)
def test_a_single_file_goes_before_an_index_of_others(copy, index):
    folder = copy("qwen3")
    expected = greedy(folder)
    (folder / INDEX).write_text(index)
    assert greedy(folder) == expected
    assert transformers_greedy(folder) == expected


def test_whole_shards_beside_a_single_file(copy):
    """transformers takes the single file, so a stale set of shards changes nothing."""
    folder = copy("qwen3")
    expected = greedy(folder)
    tensors = {name: torch.zeros_like(one) for name, one in load_file(folder / SINGLE).items()}
    save_file(tensors, folder / "model-00001-of-00001.safetensors")
    write_index(folder, "model-00001-of-00001.safetensors")
    assert greedy(folder) == expected == transformers_greedy(folder)


def split(folder, first, second):
    """Move the weights to two files."""
    tensors = load_file(folder / SINGLE)
    (folder / SINGLE).unlink()
    names = sorted(tensors)
    for file, part in ((first, names[::2]), (second, names[1::2])):
        save_file({name: tensors[name] for name in part}, folder / file)


def test_an_index_that_names_the_single_file_and_more(copy):
    folder = copy("qwen3")
    expected = greedy(folder)
    split(folder, SINGLE, "more.safetensors")
    write_index(folder, SINGLE, "more.safetensors")
    assert greedy(folder) == expected


def test_shards_without_an_index(copy):
    folder = copy("qwen3")
    expected = greedy(folder)
    shards = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    split(folder, *shards)
    assert greedy(folder) == expected
    (folder / shards[1]).unlink()
    with pytest.raises(ModelError, match=r"the checkpoint lacks .* no safetensors"):
        greedy(folder)


@pytest.mark.parametrize("name", [7, None, "../model.safetensors", "/etc/passwd", "", "..", ["a"]])
def test_an_index_must_name_files_of_the_folder(copy, name):
    folder = copy("qwen3")
    (folder / SINGLE).rename(folder / "other.safetensors")
    write_index(folder, name)
    with pytest.raises(ModelError, match=r"weight_map in .*index.json must name a file"):
        greedy(folder)


def test_a_weight_file_of_another_name(copy):
    folder = copy("qwen3")
    (folder / SINGLE).rename(folder / "consolidated.safetensors")
    with pytest.raises(ModelError, match=r"rename consolidated.safetensors to model.safetensors"):
        greedy(folder)


# -- dtypes --------------------------------------------------------------------------------


def test_float64_weights(copy):
    folder = copy("llama")
    edit_weights(folder, lambda tensors: {n: one.double() for n, one in tensors.items()})
    edit_config(folder, dtype="float64")
    assert greedy(folder) == transformers_greedy(folder)


@pytest.mark.parametrize(
    ("config", "dtype"),
    [
        ({"dtype": "float16"}, "float16"),
        ({"torch_dtype": "float16"}, "float16"),
        ({"torch_dtype": "torch.float16"}, "float16"),
        ({"dtype": None, "torch_dtype": "float32"}, "float32"),
        ({"text_config": {"dtype": "float16"}}, "float16"),
        ({"text_config": ["float16"]}, "bfloat16"),
        ({"dtype": "float64"}, "float32"),
        ({"dtype": ["float16"]}, "bfloat16"),
        ({}, "bfloat16"),
    ],
)
def test_the_dtype_on_a_gpu_follows_the_config_in_all_its_spellings(config, dtype):
    assert resolve_dtype(config, "auto", torch.device("cuda")) == dtype


# -- a config without architectures --------------------------------------------------------


@pytest.mark.parametrize("given", [None, [], "absent"])
def test_no_architectures_but_a_model_type(copy, given):
    folder = copy("qwen3")
    expected = greedy(folder)
    edit_config(folder, drop=["architectures"] if given == "absent" else [], architectures=given)
    assert greedy(folder) == expected == transformers_greedy(folder)


def test_every_family_of_transformers_is_found_by_its_model_type():
    by_type = {name: kind for kind, name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items()}
    served = [name for name in FAMILIES if name in by_type]
    assert len(served) > 20
    for name in served:
        config = AutoConfig.for_model(by_type[name]).to_dict()
        assert architecture({**config, "architectures": None}) == name
    assert architecture({"model_type": "mistral3"}) == "Mistral3ForConditionalGeneration"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "names no architecture; add .*LlamaForCausalLM"),
        ({"model_type": "xlnet"}, "names no architectures, and its model_type 'xlnet' .*gemma"),
        ({"model_type": "lama"}, "did you mean 'llama'"),
        ({"model_type": 7}, "its model_type 7 stands for none"),
        ({"model_type": ["llama"]}, r"its model_type \['llama'\] stands for none"),
        ({"architectures": {"a": 1}}, "architectures in config.json must be a list of names"),
        ({"architectures": [None]}, "architectures in config.json must be a list of names"),
    ],
)
def test_what_is_missing_is_named(config, message):
    with pytest.raises(ModelError, match=message):
        architecture(config)
