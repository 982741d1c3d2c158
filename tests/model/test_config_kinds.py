"""Configs as people publish them: nulls, old and new spellings, and values at the edge."""

import json

import pytest
from zoo import make_config

from stoker import LLM
from stoker.errors import ConfigError, ModelError
from stoker.model.families import spec_from_config
from stoker.model.heads import resolve


def config(name="llama", drop=(), **changes):
    made, model = make_config(name)
    fields = json.loads(made.to_json_string(False))
    fields |= {"architectures": [model.__name__], **changes}
    return {key: value for key, value in fields.items() if key not in drop}


def spec(*args, **changes):
    return spec_from_config(config(*args, **changes))[0]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"head_dim": 12}, {"head_dim": None}),
        ({"num_key_value_heads": 4}, {"num_key_value_heads": None}),
        ({"attention_bias": False}, {"attention_bias": None}),
        ({"rope_scaling": None}, {"rope_scaling": {}}),
        ({"rope_scaling": None}, {"rope_scaling": {"rope_type": "default"}}),
        ({"rope_scaling": None}, {"rope_scaling": {"type": "default"}}),
        ({"rope_scaling": None}, {"rope_scaling": {"rope_type": None, "factor": None}}),
        (
            {"rope_scaling": {"type": "linear", "factor": 2}},
            {"rope_scaling": {"rope_type": "linear", "type": "linear", "factor": 2.0}},
        ),
        (
            {"rope_scaling": {"type": "linear", "factor": 2}, "rope_theta": 500},
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0}},
        ),
        ({"quantization_config": None}, {"quantization_config": {}}),
        ({"per_layer_config": None}, {"per_layer_config": {}}),
    ],
)
def test_two_spellings_of_the_same(one, other):
    assert spec(drop=["rope_parameters"], **one) == spec(**{"rope_parameters": None, **other})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": "48"}, "hidden_size in config.json must be a whole number, not '48'"),
        ({"hidden_size": 48.0}, r"hidden_size in config.json must be a whole number, not 48\.0"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps in config.json must be a number, not nan"),
        ({"rms_norm_eps": float("inf")}, "rms_norm_eps in config.json must be a number, not inf"),
        ({"rms_norm_eps": 10**400}, "rms_norm_eps in config.json must be a number, not 1000"),
        (
            {"num_hidden_layers": 10**9},
            "num_hidden_layers .* must be at most 1,000, not 1000",
        ),
        ({"vocab_size": 2**63}, "vocab_size in config.json must be at most 2,147,483,647"),
        (
            {"vocab_size": 2**31 - 1, "hidden_size": 2**31 - 4},
            r"config.json describes a model of 4.6e\+18 parameters; .* vocab_size 2147483647",
        ),
        ({"rope_scaling": {"factor": 8.0}}, r"has a factor \(8.0\) and no rope_type; add one of"),
        ({"rope_scaling": {"type": "mrope"}}, "rope_type in config.json: rope type 'mrope'"),
        ({"rope_scaling": {"type": "linear", "factor": "2"}}, "factor .* a number, not '2'"),
        ({"rope_scaling": {"type": "yarn", "factor": 1e300}}, "factor in config.json must be at"),
        ({"rope_scaling": [2.0]}, "rope_scaling in config.json must be an object"),
        ({"partial_rotary_factor": 1e308}, "partial_rotary_factor in config.json must be at most"),
        ({"layer_types": ["odd"] * 3}, None),  # Llama has no such field
        ({"architectures": "LlamaForCausalLM"}, "architectures .* must be a list of names"),
        ({"text_config": [1]}, None),
    ],
)
def test_values_of_the_wrong_kind_are_refused_by_field(changes, message):
    fields = config(drop=["rope_parameters"], **changes)
    if message is None:
        assert spec_from_config(fields)[0] == spec()
        return
    with pytest.raises(ModelError, match=message):
        spec_from_config(fields)


def test_a_long_rope_with_an_original_context_of_one_token():
    """Its attention factor is a quotient by log 1."""
    rope = {"rope_type": "longrope", "short_factor": [1.0] * 6, "long_factor": [1.0] * 6}
    changes = {"rope_parameters": None, "original_max_position_embeddings": 1}
    made = spec("phi3", **changes, rope_scaling=rope)
    assert made.layers[0].mixer.rope.scaling.factor_of_attention == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_labels": 10**12}, "num_labels in config.json must be at most 1,000,000"),
        ({"num_labels": "3"}, "num_labels in config.json must be a whole number, not '3'"),
        ({"pad_token_id": [0]}, r"pad_token_id in config.json must be a token id, not \[0\]"),
        ({"problem_type": ["x"]}, r"problem_type \['x'\] in config.json is not known"),
    ],
)
def test_fields_of_a_classifier(changes, message):
    fields = config(drop=["id2label"], architectures=["LlamaForSequenceClassification"], **changes)
    with pytest.raises(ModelError, match=message):
        resolve(fields)


def test_a_context_whose_tables_would_fill_the_memory(checkpoint, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    good = checkpoint("qwen3").folder
    (folder / "model.safetensors").symlink_to(f"{good}/model.safetensors")
    with open(f"{good}/config.json") as file:
        fields = json.load(file)
    fields["max_position_embeddings"] = 2**31 - 1
    (folder / "config.json").write_text(json.dumps(fields))
    with pytest.raises(ConfigError, match=r"2,147,483,647 tokens.*set a smaller max_context"):
        LLM(str(folder), threads=1)
    LLM(str(folder), threads=1, max_context=100).close()


def test_gemma_4_as_published_is_as_saved():
    """Full attention has its sizes in fields of its own, or in transformers' per_layer_config."""
    published = {
        "architectures": ["Gemma4ForCausalLM"],
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "global_head_dim": 64,
        "num_global_key_value_heads": 2,
        "attention_k_eq_v": True,
        "hidden_size_per_layer_input": 0,
    }
    spec, _ = spec_from_config(published)
    assert [layer.mixer.head_dim for layer in spec.layers] == [256, 64, 256, 64]
    saved = {key: value for key, value in published.items() if "global" not in key}
    sizes = {"head_dim": 64, "num_key_value_heads": 2}
    saved["per_layer_config"] = {"1": sizes, "3": sizes}
    assert spec_from_config(saved)[0] == spec
    published["num_kv_shared_layers"] = 3
    with pytest.raises(ModelError, match="leaves layer 1 no layer of its kind before it"):
        spec_from_config(published)


def test_the_text_of_qwen2_vl_is_described_outside_or_within():
    """Published configs are flat and call their rotary embedding mrope; transformers 5 nests."""
    config, _ = make_config("qwen2_5_vl")
    nested = {**config.to_dict(), "architectures": ["Qwen2_5_VLForConditionalGeneration"]}
    text = {**nested["text_config"], "rope_theta": 10000.0}
    del text["rope_parameters"], text["layer_types"]
    flat = {**text, "architectures": nested["architectures"], "tie_word_embeddings": True}
    flat["rope_scaling"] = {"type": "mrope", "mrope_section": [2, 2, 2]}
    assert spec_from_config(flat)[0] == spec_from_config(nested)[0]
