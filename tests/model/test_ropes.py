"""Rotary embeddings and configs, in every spelling, against transformers' own reading of them."""

import contextlib
import json
import random
import shutil

import pytest
import torch
import transformers as hf
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from zoo import LONG, SIZES, VOCAB, ZOO, make, make_config

from stoker import LLM, SamplingParams
from stoker.errors import ModelError
from stoker.model.families import spec_from_config
from stoker.model.transformer import Transformer

ONE = SamplingParams(temperature=0, max_tokens=1, ignore_eos=True)
SCALINGS = {
    "linear": {"factor": 3.0},
    "dynamic": {"factor": 2.0},
    "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 64},
    "yarn, set by hand": {
        **{"factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 16, "beta_slow": 2},
        **{"truncate": False, "attention_factor": 1.5},
    },
    "yarn, weighted": {"factor": 4.0, "mscale": 0.7, "mscale_all_dim": 1.2},
    "longrope": {
        **{"short_factor": [1.0, 1.5, 2.0, 3.0], "long_factor": [2.0, 3.0, 4.0, 5.0]},
        **{"original_max_position_embeddings": 64, "partial_rotary_factor": 0.5},
    },
    "longrope, set by hand": {
        **{"short_factor": [1.0] * 8, "long_factor": [2.0] * 8, "factor": 3.0},
        **{"original_max_position_embeddings": 64},
    },
}


@pytest.mark.parametrize("context", [64, 256, 400])
@pytest.mark.parametrize("name", SCALINGS)
def test_frequencies(name, context):
    kind = name.split(",")[0]
    fields = {"rope_type": kind, "rope_theta": 50000.0, **SCALINGS[name]}
    config = hf.LlamaConfig(**{**SIZES, "head_dim": 16, "rope_parameters": fields})
    expected, factor = ROPE_INIT_FUNCTIONS[kind](config, "cpu", seq_len=context)
    saved = {**config.to_dict(), "architectures": ["LlamaForCausalLM"]}
    rope = spec_from_config(saved)[0].layers[0].mixer.rope
    torch.testing.assert_close(rope.inv_freq(context), expected, rtol=1e-6, atol=0)
    assert rope.factor == pytest.approx(factor, rel=1e-12)


@pytest.mark.parametrize(
    ("fields", "context"),
    [
        ({"rope_type": "linear", "factor": 4.0}, 256),
        ({"rope_type": "dynamic", "factor": 4.0}, 1024),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}, 256),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}, 1024),
    ],
)
def test_how_far_a_scaling_reaches(fields, context):
    config = {**SIZES, "rms_norm_eps": 1e-6, "architectures": ["LlamaForCausalLM"]}
    assert spec_from_config({**config, "rope_scaling": fields})[0].context == context


FACTORS = {key: value for key, value in LONG.items() if key != "rope_type"}
OLD = {
    "Llama": {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}},
    "Llama 3": {
        "rope_theta": 5e5,
        "rope_scaling": {
            **{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0},
            **{"high_freq_factor": 4.0, "original_max_position_embeddings": 64},
        },
    },
    "Qwen2": {
        "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
        "sliding_window": 32,
        "use_sliding_window": False,
        "head_dim": "absent",
    },
    "Qwen3": {"sliding_window": None, "attention_bias": True},
    "Phi3": {
        "head_dim": "absent",
        "original_max_position_embeddings": 64,
        "rope_scaling": {"type": "longrope", **FACTORS},
    },
    "Gemma": {"hidden_act": "gelu", "hidden_activation": None},
    "Gemma2": {"sliding_window": 32},
    "Gemma3": {
        "rope_theta": 1e6,
        "rope_local_base_freq": 20000.0,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "sliding_window": 32,
        "sliding_window_pattern": 2,
    },
    "Olmo3": {
        "head_dim": "absent",
        "rope_theta": 5e5,
        "sliding_window": 32,
        "rope_scaling": {"rope_type": "yarn", "factor": 8.0, "attention_factor": 1.2},
    },
    "SmolLM3": {"head_dim": "absent", "rope_theta": 2e6, "no_rope_layer_interval": 2},
    "Glm4": {"partial_rotary_factor": 0.5, "rope_theta": 20000.0},
    "Cohere": {"head_dim": "absent", "rope_theta": 8e6},
    "Cohere2": {"head_dim": "absent", "sliding_window": 32, "sliding_window_pattern": 2},
    "GPTNeoX": {
        **{"head_dim": "absent", "num_key_value_heads": "absent", "hidden_size": 64},
        **{"rotary_pct": 0.5, "rotary_emb_base": 20000},
    },
    "Starcoder2": {"head_dim": "absent", "rope_theta": 1e5},
    "Granite": {"head_dim": "absent", "attention_multiplier": 0.1},
    "Mistral": {"sliding_window": None, "rope_theta": 1e6},
}


@pytest.mark.parametrize("name", OLD)
def test_configs_in_the_older_spelling(name):
    """As they are on the hub, with fields beside each other and defaults left out."""
    family = name.split()[0]
    config_class = hf.Gemma3TextConfig if family == "Gemma3" else getattr(hf, f"{family}Config")
    old = {
        key: value
        for key, value in {**SIZES, "rms_norm_eps": 1e-6, **OLD[name]}.items()
        if value != "absent"
    }
    architecture = {"architectures": [f"{family}ForCausalLM"]}
    new = config_class.from_dict(json.loads(json.dumps(old))).to_dict()
    expected, _ = spec_from_config({**new, **architecture})
    spec, _ = spec_from_config({**old, **architecture})
    assert spec == expected


@pytest.mark.parametrize("word", ["su", "yarn"])
def test_the_first_words_for_longrope(word):
    sizes = {**SIZES, "head_dim": None, "rms_norm_eps": 1e-5, "architectures": ["Phi3ForCausalLM"]}
    specs = []
    for kind in (word, "longrope"):
        scaling = {"rope_scaling": {"type": kind, **FACTORS}}
        scaling["original_max_position_embeddings"] = 64
        specs.append(spec_from_config({**sizes, **scaling})[0])
    assert specs[0] == specs[1]


BAD = ["x", -1, 0, 1.5, True, [], ["x"], {}, {"x": 1}, None]


@pytest.mark.parametrize("name", ZOO)
def test_any_value_of_any_field_is_read_or_refused(name):
    """A ModelError that names a field, never a TypeError from inside."""
    config, model_class = make_config(name)
    fields = {**config.to_dict(), "architectures": [model_class.__name__]}
    spec_from_config(fields)
    ropes = fields.get("rope_parameters") or {}
    cases = [{**fields, key: bad} for key in fields for bad in BAD]
    cases += [{**fields, "rope_parameters": {**ropes, key: bad}} for key in ropes for bad in BAD]
    for case in cases:
        with contextlib.suppress(ModelError):
            spec, _ = spec_from_config(case)
            with torch.device("meta"):
                Transformer(spec)
            for one in spec.ropes:
                if one is not None:
                    assert len(one.inv_freq(64)) * 2 == one.dim


def first_logits(folder, prompt, context=None):
    with LLM(str(folder), max_context=context, max_batch_tokens=50) as llm:
        rows, forward = [], llm.engine.runner.forward
        llm.engine.runner.forward = lambda *asked, **how: (
            rows.append(forward(*asked, **how)) or rows[-1]
        )
        llm.generate([prompt], ONE)
    return rows[-1][-1]


def test_dynamic_frequencies_are_those_of_the_context(save_checkpoint):
    """With a context of 300 and a window of 256: as transformers for 300 tokens at once."""
    model = save_checkpoint("dynamic", make("llama_dynamic"))
    rng = random.Random(0)
    tokens = [rng.randrange(VOCAB) for _ in range(300)]
    expected = model.logits(tokens)
    for length in (20, 299):
        row = first_logits(model.folder, tokens[:length], 300)
        assert (row - expected[length - 1]).abs().max() < 1e-4
    short = first_logits(model.folder, tokens[:20], 256)
    fresh = make("llama_dynamic")(torch.tensor([tokens[:20]])).logits[0, -1]
    assert (short - fresh).abs().max() < 1e-4
    assert (short - expected[19]).abs().max() > 1e-3, "nothing was stretched"


def test_longrope_takes_the_set_of_the_context(save_checkpoint, tmp_path):
    """Past the original 64 positions: as transformers where its short set is the long one."""
    model = save_checkpoint("long", make("phi4_mini"))
    shutil.copytree(model.folder, tmp_path / "long")
    path = tmp_path / "long" / "config.json"
    fields = json.loads(path.read_text())
    fields["rope_parameters"]["short_factor"] = fields["rope_parameters"]["long_factor"]
    path.write_text(json.dumps(fields))
    always_long = hf.Phi3ForCausalLM.from_pretrained(tmp_path / "long").eval()
    rng = random.Random(0)
    tokens = [rng.randrange(VOCAB) for _ in range(120)]
    with torch.inference_mode():
        expected = always_long(torch.tensor([tokens])).logits[0]
    assert (model.logits(tokens) - expected).abs().max() < 1e-4, "transformers has changed"
    for length in (20, 119):
        row = first_logits(model.folder, tokens[:length])
        assert (row - expected[length - 1]).abs().max() < 1e-4
    short = first_logits(model.folder, tokens[:20], 64)
    assert (short - model.logits(tokens[:20])[-1]).abs().max() < 1e-4
    assert (short - expected[19]).abs().max() > 1e-3, "the sets do not differ"
