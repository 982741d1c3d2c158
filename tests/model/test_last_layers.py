"""The last layer that mixes tokens, behind which only some rows go on: any kind, anywhere."""

import pytest
import torch
from zoo import ZOO, make_config

from stoker import LLM, SamplingParams
from stoker.model.heads import resolve
from stoker.model.layers.kinds import MIXERS
from stoker.model.spec.lightning import LightningSpec
from stoker.model.spec.networks import LinearMapSpec

CHANGED = {  # beside the rows of the zoo
    "minimax": {
        "layer_types": ["full_attention", "linear_attention"] * 2,
        "mlp_alpha_factor": 1.0,  # the residual is what the experts read
        "mlp_beta_factor": 0.7,
    },
    "nemotron_h": {"layers_block_type": ["linear_attention", "full_attention", "mlp", "mlp"]},
}


def changed(name):
    config, model_class = make_config(name)
    for field, value in CHANGED.get(name, {}).items():
        setattr(config, field, value)
    return config, model_class


def spec_of(config, model_class):
    return resolve(config.to_dict() | {"architectures": [model_class.__name__]})[0]


def test_each_kind_of_mixer_is_the_last_of_a_model_that_is_compared():
    specs = [spec_of(*make_config(name)) for name in ZOO]
    specs += [spec_of(*changed(name)) for name in CHANGED]
    last = {type(spec.layers[spec.last_mixing_layer].mixer) for spec in specs}
    assert last == MIXERS.keys() - {LinearMapSpec}


@pytest.mark.parametrize("name", CHANGED)
@pytest.mark.parametrize("budget", [7, 200])
def test_layers_equal_transformers(name, budget, save_checkpoint):
    config, model_class = changed(name)
    spec = spec_of(config, model_class)
    if name == "minimax":
        assert isinstance(spec.layers[-1].mixer, LightningSpec)
    else:
        assert spec.last_mixing_layer == len(spec.layers) - 3
    torch.manual_seed(0)
    model = save_checkpoint(f"{name}_changed", model_class(config).eval())
    prompts = [[(7 * i + 3 * j) % 200 for i in range(n)] for j, n in enumerate((1, 9, 40))]
    params = SamplingParams(temperature=0, max_tokens=6, logprobs=3, stop_token_ids=[10**6])
    with LLM(model.folder, max_batch_tokens=budget) as llm:
        outputs = llm.generate(prompts, params)
    for prompt, output in zip(prompts, outputs, strict=True):
        assert output.outputs[0].token_ids == model.greedy(prompt, 6)
        exact = model.logits(prompt)[-1].log_softmax(-1)
        for token, found in output.outputs[0].logprobs[0].items():
            assert abs(exact[token] - found.logprob) < 1e-4
