"""The sweep over a mixture of experts: one command, a row for each configuration."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "moe_sweep.py"
VARIANTS = ["fused", "loop", "int8", "keep 0.5", "active 0.5", "speculative"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixture")
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=100,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        num_experts=6,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        initializer_range=0.15,
        eos_token_id=None,
    )
    Qwen3MoeForCausalLM(config).save_pretrained(folder)
    out = folder / "rows.json"
    sizes = ["--batches", "1", "3", "--lengths", "5", "20", "--output", "12", "--rounds", "1"]
    more = [*sizes, "--threads", "1", "--json", str(out)]
    command = [sys.executable, str(SCRIPT), str(folder), *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=SCRIPT.parent)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())["rows"]
    assert [json.loads(line) for line in done.stdout.splitlines()] == found
    return found


def test_each_configuration_has_a_row(rows):
    keys = [(row["variant"], row["prompt_tokens"], row["batch"]) for row in rows]
    assert keys == [
        (name, length, batch) for name in VARIANTS for length in (5, 20) for batch in (1, 3)
    ]
    for row in rows:
        assert row["output_tokens_per_s"] > 0
        assert row["first_token_s"] > 0
        assert row["ms_per_token"] >= 0


def test_variants_are_what_they_say(rows):
    of = {(row["variant"], row["prompt_tokens"], row["batch"]): row for row in rows}
    for length in (5, 20):
        for batch in (1, 3):
            plain = of["fused", length, batch]
            assert plain["experts_kept"] == [6, 6]
            assert plain["active_experts"] == [2, 2]
            for same in ("loop", "speculative"):
                assert of[same, length, batch]["answers"] == plain["answers"]
            assert of["speculative", length, batch]["steps"] <= plain["steps"]
            assert of["keep 0.5", length, batch]["experts_kept"] == [3, 3]
            assert of["active 0.5", length, batch]["active_experts"] == [1, 1]
