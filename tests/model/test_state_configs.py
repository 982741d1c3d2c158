"""Configs of models that keep states: old spellings, what is refused, bounded steps."""

import pytest
import torch
import transformers as hf
from zoo import make_config

from stoker import LLM, SamplingParams
from stoker.errors import ModelError
from stoker.model.families import spec_from_config
from stoker.model.spec.attention import AttentionSpec
from stoker.model.spec.convolution import ConvSpec
from stoker.model.spec.state_space import Mamba2Spec


def config_of(name, **changes):
    fields = {**make_config(name)[0].to_dict(), **changes}
    fields["architectures"] = [make_config(name)[1].__name__]
    return {key: value for key, value in fields.items() if value is not ...}


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("lfm2", {"conv_L_cache": 17}, r"conv_L_cache .* from 2 to 16.*not 17"),
        ("mamba", {"conv_kernel": 1}, r"conv_kernel.* from 2 to 16.*not 1"),
        ("bamba", {"mamba_d_conv": 40}, r"mamba_d_conv.* from 2 to 16.*not 40"),
        ("mamba", {"hidden_act": "relu"}, r"hidden_act='relu'.*only 'silu'"),
        ("mamba2", {"num_heads": 7}, r"7 heads of 10 .* 80 channels"),
        ("bamba", {"mamba_n_groups": 4}, r"6 heads .* 4 equal groups"),
        ("bamba", {"time_step_limit": [1.0, 0.5]}, r"time_step_limit .* not \[1.0, 0.5\]"),
        ("bamba", {"time_step_limit": [1.0]}, r"time_step_limit .* not \[1.0\]"),
        ("lfm2", {"layer_types": ["conv", "mamba", "conv"]}, r"layer_types .*'linear_attention'"),
        ("nemotron_h", {"layers_block_type": ..., "hybrid_override_pattern": "M-X"}, r"not 'M-X'"),
        ("nemotron_h", {"num_hidden_layers": 9}, r"kinds of 4 layers, .* num_hidden_layers 9"),
        (
            "granite_hybrid",
            {"position_embedding_type": "alibi"},
            r"_embedding_type='alibi'",
        ),
        ("zamba", {"hidden_mamba_act": "gelu"}, r"hidden_mamba_act='gelu'.*only 'silu'"),
        ("zamba", {"attention_hidden_size": 79}, r"attention_hidden_size=79.*only 80"),
        ("zamba2", {"use_long_context": True}, r"use_long_context=True.*only False"),
        ("zamba2", {"tie_word_embeddings": False}, r"tie_word_embeddings=False.*only True"),
        ("zamba2", {"hybrid_layer_ids": [1]}, r"hybrid_layer_ids=\[1\].*only \[1, 2, 4, 5\]"),
        ("zamba2", {"layers_block_type": ...}, r"must list its 6 layers in layers_block_type"),
        ("zamba2", {"num_key_value_heads": 2}, r"_adapter .* as many num_key_value_heads"),
        ("zamba2", {"mamba_headdim": 7}, r"mamba_headdim=7.*only 20"),
        ("jamba", {"attn_layer_offset": 3}, r"attn_layer_offset 3 .* attn_layer_period 3"),
    ],
)
def test_what_can_not_be_is_refused_by_field_and_value(name, changes, message):
    with pytest.raises(ModelError, match=message):
        spec_from_config(config_of(name, **changes))


def test_infinity_in_every_spelling():
    for infinity in (float("inf"), {"__float__": "Infinity"}, "Infinity"):
        spec, _ = spec_from_config(config_of("bamba", time_step_limit=[0.1, infinity]))
        assert spec.layers[0].mixer.limit == (0.1, float("inf"))


def test_nemotron_h_by_its_pattern():
    """As it was published: letters for layers, and nothing of their types."""
    pattern = {"layers_block_type": ..., "layer_types": ..., "hybrid_override_pattern": "M-*M"}
    older = config_of("nemotron_h", **pattern, mamba_n_groups=2)
    layers = spec_from_config(older)[0].layers
    kinds = [Mamba2Spec, type(None), AttentionSpec, Mamba2Spec]
    assert [type(layer.mixer) for layer in layers] == kinds
    assert layers[0].mixer.groups == 2
    assert layers[1].ffn.activation == "relu2"


def test_lfm2_as_it_was_published():
    """Layers that attend by number, and sizes by the names of blocks."""
    older = config_of(
        "lfm2", layer_types=..., full_attn_idxs=[1], block_ff_dim=96, tie_embedding=False
    )
    spec, _ = spec_from_config(older)
    assert [type(layer.mixer) for layer in spec.layers] == [ConvSpec, AttentionSpec, ConvSpec]
    assert spec.layers[0].ffn.size == 64
    assert not spec.tied_head


def test_granite_4_without_states_needs_no_sizes_of_them():
    dense = config_of("granite_hybrid", layer_types=["attention"] * 3, mamba_n_heads=7)
    spec, _ = spec_from_config(dense)
    assert not spec.keeps_state


def test_bounded_steps(save_checkpoint):
    """As transformers bounds them in a prefill; its decodes leave them as they are."""
    config, model_class = make_config("mamba2")
    config.time_step_limit = (0.4, 0.9)
    torch.manual_seed(0)
    model = save_checkpoint("bounded", model_class(config).eval())
    prompts = [[3 * n % 200 for n in range(length)] for length in (1, 9, 40)]
    params = SamplingParams(temperature=0, max_tokens=1, logprobs=3)
    for budget in (7, 64):
        with LLM(model.folder, max_batch_tokens=budget) as llm:
            outputs = llm.generate(prompts, params)
        for prompt, output in zip(prompts, outputs, strict=True):
            exact = model.logits(prompt)[-1].log_softmax(-1)
            for token, found in output.outputs[0].logprobs[0].items():
                assert abs(exact[token] - found.logprob) < 1e-4


def test_transformers_has_no_other_default():
    """Of fields that older configs leave out."""
    for name in (
        "Mamba",
        "Mamba2",
        "Bamba",
        "GraniteMoeHybrid",
        "NemotronH",
        "Jamba",
        "Lfm2",
        "FalconH1",
        "Zamba",
        "Zamba2",
    ):
        fields = getattr(hf, f"{name}Config")().to_dict()
        architecture = [f"{name}ForCausalLM"]
        whole, _ = spec_from_config({**fields, "architectures": architecture})
        kept = {
            key: fields[key]
            for key in (
                *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"),
                *("intermediate_size", "max_position_embeddings", "num_key_value_heads"),
                *("layer_types", "layers_block_type", "rms_norm_eps", "tie_word_embeddings"),
                *("moe_intermediate_size", "n_routed_experts", "num_experts_per_tok"),
                *("moe_shared_expert_intermediate_size", "num_local_experts"),
                *("rope_parameters", "num_experts"),
            )
            if key in fields
        }
        assert spec_from_config({**kept, "architectures": architecture})[0] == whole, name
