"""Attention whose query heads belong to experts (JetMoE)."""

import pytest
from zoo import make, make_config

from stoker import LLM, SamplingParams
from stoker.errors import ConfigError, ModelError
from stoker.model.families import spec_from_config
from stoker.model.work import step_bytes

PUBLISHED = {
    "activation_function": "silu",
    "architectures": ["JetMoeForCausalLM"],
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "kv_channels": 128,
    "max_position_embeddings": 4096,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 24,
    "num_key_value_heads": 16,
    "num_local_experts": 8,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "vocab_size": 32000,
}


def test_jetmoe_8b_as_it_was_published():
    spec, _ = spec_from_config(PUBLISHED)
    assert round(spec.parameters() / 1e9, 1) == 8.5
    read = step_bytes(spec, [1], 1, 1)  # of a decode: a quarter of the experts
    assert round(read / 1e9, 1) == 2.3
    assert (spec.norm.eps, spec.final_eps) == (1e-6, 1e-5)


def test_heads_are_those_of_the_experts():
    with pytest.raises(ModelError, match=r"num_attention_heads=16 .*only 32"):
        spec_from_config({**PUBLISHED, "num_attention_heads": 16})


def test_eight_bits_come_near(save_checkpoint):
    model = save_checkpoint("jetmoe_int8", make("jetmoe"))
    prompts = [[7 * n % 200 for n in range(length)] for length in (1, 9, 40)]
    params = SamplingParams(temperature=0, max_tokens=1, logprobs=3)
    with LLM(model.folder, quantization="int8", max_batch_tokens=16) as llm:
        outputs = llm.generate(prompts, params)
    for prompt, output in zip(prompts, outputs, strict=True):
        exact = model.logits(prompt)[-1].log_softmax(-1)
        for token, found in output.outputs[0].logprobs[0].items():
            assert abs(exact[token] - found.logprob) < 0.5
    with pytest.raises(ConfigError, match="llm_int8"):
        LLM(model.folder, quantization="llm_int8")


def test_the_class_has_no_other_defaults():
    fields = type(make_config("jetmoe")[0])().to_dict()
    whole, _ = spec_from_config({**fields, "architectures": PUBLISHED["architectures"]})
    kept = ("vocab_size", "hidden_size", "num_hidden_layers", "max_position_embeddings")
    few = {name: fields[name] for name in kept}
    assert spec_from_config({**few, "architectures": PUBLISHED["architectures"]})[0] == whole
