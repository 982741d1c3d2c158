"""Phi-3.5-MoE's layout with narrower experts, as SlimMoE makes them: exact, in less memory."""

import pytest
import torch
from tiny import VOCAB
from transformers import PhimoeConfig, PhimoeForCausalLM

from stoker import LLM, SamplingParams
from stoker.model.loader import weights

GREEDY = SamplingParams(temperature=0, max_tokens=10, ignore_eos=True, logprobs=0)
WIDTHS = (64, 32)  # multiples of a panel's width, so that memory follows exactly
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 256,
    "original_max_position_embeddings": 256,
    "initializer_range": 0.15,
    "attention_bias": True,
    "lm_head_bias": True,
    "bos_token_id": None,
    "eos_token_id": None,
}


@pytest.fixture(scope="module")
def slim(save_checkpoint):
    """Checkpoints by the width of their experts; the narrow ones are cut out of the wide ones."""
    torch.manual_seed(0)
    wide = PhimoeForCausalLM(PhimoeConfig(**SIZES, intermediate_size=WIDTHS[0])).eval()
    narrow = PhimoeForCausalLM(PhimoeConfig(**SIZES, intermediate_size=WIDTHS[1])).eval()
    kept = {}
    for name, tensor in wide.state_dict().items():
        kept[name] = tensor[..., : WIDTHS[1]] if name.endswith("experts.down_proj") else tensor
        if name.endswith("gate_up_proj"):
            parts = [part[:, : WIDTHS[1]] for part in tensor.chunk(2, dim=1)]
            kept[name] = torch.cat(parts, dim=1)
    narrow.load_state_dict(kept)
    models = dict(zip(WIDTHS, (wide, narrow), strict=True))
    return {width: save_checkpoint(f"phimoe{width}", model) for width, model in models.items()}


def run(llm, prompts):
    found = llm.generate(prompts, GREEDY)
    return [(one.outputs[0].token_ids, one.outputs[0].cumulative_logprob) for one in found]


@pytest.mark.parametrize("width", WIDTHS)
def test_narrow_experts_match_the_reference_alone_and_together(slim, prompts, width):
    prompts, saved = prompts[:8], slim[width]
    with LLM(saved.folder) as llm:
        together = run(llm, prompts)
    with LLM(saved.folder, max_running=1) as llm:
        alone = [run(llm, [prompt])[0] for prompt in prompts]
    assert together == alone
    for prompt, (tokens, total) in zip(prompts, together, strict=True):
        assert tokens == saved.greedy(prompt, 10)
        with torch.inference_mode():
            logits = saved.model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
        expected = logits.log_softmax(-1).gather(1, torch.tensor(tokens)[:, None]).sum()
        assert total == pytest.approx(float(expected), abs=1e-3)


def test_memory_falls_with_the_width(slim):
    held = {}
    for width, saved in slim.items():
        with LLM(saved.folder) as llm:
            found = weights(llm.engine.runner.model)
            held[width] = sum(tensor.nbytes for name, tensor in found if ".expert_" in name)
    assert held[32] * 2 == held[64]
