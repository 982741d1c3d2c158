"""How checkpoints store experts, one by one or together, and what is said if some are missing."""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from zoo import MIXTURES, make

from stoker.errors import ModelError
from stoker.model.checkpoint import SINGLE, SafetensorsFolder
from stoker.model.families import spec_from_config
from stoker.model.loader import load_model

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    """A function from a row of the zoo to its model and its folder, as transformers saves it."""
    made = {}

    def get(name):
        if name not in made:
            model, folder = make(name), tmp_path_factory.mktemp(name)
            model.save_pretrained(folder)
            made[name] = model, folder
        return made[name]

    return get


@pytest.fixture
def changed(mixture, tmp_path):
    """A function that loads a copy of a row with other tensors and fields of config.json."""

    def load(name, change=None, **fields):
        folder = tmp_path / "model"
        shutil.copytree(mixture(name)[1], folder, dirs_exist_ok=True)
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
        if change:
            tensors = load_file(folder / SINGLE)
            tensors = change(tensors) or tensors
            contiguous = {key: tensor.contiguous() for key, tensor in tensors.items()}
            save_file(contiguous, folder / SINGLE, metadata={"format": "pt"})
        return load_model(SafetensorsFolder(folder), CPU).model

    return load


def weights(model):
    return dict(model.named_parameters())


def equal(model, other):
    ours, theirs = weights(model), weights(other)
    return ours.keys() == theirs.keys() and all(map(torch.equal, ours.values(), theirs.values()))


@pytest.mark.parametrize("name", MIXTURES)
def test_the_names_that_transformers_has_in_memory_load_alike(mixture, changed, name):
    """It renames and stacks what published checkpoints hold; either may be on disk."""
    model, folder = mixture(name)
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    published = load_model(SafetensorsFolder(folder), CPU).model
    assert equal(changed(name, lambda _: state), published)


def test_stacked_experts_as_qwen3_vl_published_them(mixture, changed):
    """(experts, inputs, outputs), where transformers 5 saves (experts, outputs, inputs)."""
    published = load_model(SafetensorsFolder(mixture("qwen3_vl_moe")[1]), CPU).model

    def turn(tensors):
        names = [name for name in tensors if "experts" in name]
        assert len(names) == 4
        return tensors | {name: tensors[name].mT for name in names}

    assert equal(changed("qwen3_vl_moe", turn), published)


def test_missing_experts_are_named_by_layer_and_number(changed):
    def drop(tensors):
        for name in [*tensors]:
            if re.search(r"layers\.2\.block_sparse_moe\.experts\.[35]\.", name):
                del tensors[name]

    message = "lacks experts 3, 5 of layer 2: model.layers.2.block_sparse_moe.experts.3.w1.weight"
    with pytest.raises(ModelError, match=re.escape(message)):
        changed("mixtral", drop)


def test_one_projection_of_an_expert_is_missing(changed):
    def drop(tensors):
        del tensors["model.layers.1.mlp.experts.7.up_proj.weight"]

    with pytest.raises(ModelError, match=r"lacks expert 7 of layer 1: .*experts.7.up_proj.weight"):
        changed("olmoe", drop)


def test_experts_of_many_layers_are_missing(changed):
    def drop(tensors):
        for name in [*tensors]:
            if ".experts.0." in name:
                del tensors[name]

    with pytest.raises(ModelError, match="lacks expert 0 of layer 0 and experts of 2 more layers"):
        changed("mixtral", drop)


def test_fewer_experts_than_config_says(changed):
    fields = {"num_local_experts": 10}
    with pytest.raises(ModelError, match=r"router.weight\): it is for 8 .* config.json says 10"):
        changed("mixtral", **fields)
    with pytest.raises(ModelError, match=r"_up.weight\): it is for 8 .* config.json says 10"):
        changed("granite_moe", **fields)


def test_more_experts_than_config_says(changed):
    with pytest.raises(ModelError, match=r"it is for 8 experts, where config.json says 6"):
        changed("mixtral", num_local_experts=6)

    def narrow(tensors):
        for name in tensors:
            if name.endswith("gate.weight"):
                tensors[name] = tensors[name][:6]

    with pytest.raises(ModelError, match=r"no place for: .*experts.6.w1.weight"):
        changed("mixtral", narrow, num_local_experts=6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_experts_per_tok": 9}, "sends a token to 9 experts of 8"),
        ({"num_experts_per_tok": 0}, "num_experts_per_tok .* must be a whole number, not 0"),
        ({"n_group": 3}, "8 experts in config.json don't form 3 equal groups"),
        ({"n_group": 4, "topk_group": 5}, "sends a token to 5 groups of experts of 4"),
        ({"n_group": 4, "topk_group": 1}, "to 3 experts, and the 1 groups .* have 2 each"),
        ({"num_local_experts": 9}, "twice, and differently: n_routed_experts 8, num_local"),
        ({"first_k_dense_replace": -1}, "first_k_dense_replace .* must be a whole number, not -1"),
        ({"mlp_layer_types": ["dense"] * 2}, "mlp_layer_types .* has 2 entries for 3 layers"),
        ({"mlp_layer_types": ["moe"] * 3}, "network 'moe' is not supported.*sparse"),
        ({"quantization_config": {"quant_method": "mxfp4"}}, "quantised with mxfp4"),
    ],
)
def test_fields_of_experts_that_make_no_sense(mixture, fields, message):
    config = json.loads((mixture("glm4_moe")[1] / "config.json").read_text())
    with pytest.raises(ModelError, match=message):
        spec_from_config({**config, **fields})


@pytest.mark.parametrize(
    ("ending", "method"),
    [("_blocks", "MXFP4"), (".qweight", "GPTQ"), (".weight_scale_inv", "FP8")],
)
def test_quantised_experts_are_refused_by_name(changed, ending, method):
    """Also where config.json does not say so."""

    def quantise(tensors):
        name = "model.layers.0.block_sparse_moe.experts.0.w1"
        del tensors[name + ".weight"]
        tensors[name + ending] = torch.zeros(4, 4, dtype=torch.uint8)

    with pytest.raises(ModelError, match=rf"experts.0.w1{ending} .* experts quantised as {method}"):
        changed("mixtral", quantise)


def test_layers_that_draft_are_left_out(mixture, changed):
    """GLM-4.5 stores layers for multi-token prediction behind the last."""
    plain = load_model(SafetensorsFolder(mixture("glm4_moe")[1]), CPU).model

    def add(tensors):
        tensors["model.layers.3.eh_proj.weight"] = torch.zeros(4, 8)
        tensors["model.layers.3.mlp.experts.0.up_proj.weight"] = torch.zeros(4, 8)

    assert equal(changed("glm4_moe", add), plain)


def test_routers_stay_in_float32(mixture):
    folder = mixture("glm4_moe")[1]
    model = load_model(SafetensorsFolder(folder), CPU, "bfloat16").model
    experts = model.layers[1].ffn
    assert experts.router.weight.dtype == experts.router.correction.dtype == torch.float32
    assert experts.expert_up.weight.dtype == torch.bfloat16
    exact = load_model(SafetensorsFolder(folder), CPU, "float32").model.layers[1].ffn.router
    assert torch.equal(exact.correction, experts.router.correction)
