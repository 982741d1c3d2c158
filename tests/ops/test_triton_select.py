"""Which operations Triton serves, and a whole model that runs on them."""

import dataclasses
import logging

import pytest
import torch

from stoker import LLM, SamplingParams
from stoker.ops import draw, norm
from stoker.ops.select import select_operations
from stoker.ops.triton import select
from stoker.ops.triton.available import interpreted


@pytest.fixture
def on_a_gpu(monkeypatch):
    """Gives what a GPU gets beside attention, whose kernels would ask it what it is."""
    monkeypatch.setattr("stoker.ops.select.varlen_serves", lambda device, dtype: False)
    return lambda: select_operations(torch.device("cuda"), torch.bfloat16, backend="reference")


def test_without_triton_the_references_serve_and_it_is_said_once(on_a_gpu, monkeypatch, caplog):
    monkeypatch.setattr(select, "triton_serves", lambda device_type: False)
    select.fused_operations.cache_clear()
    with caplog.at_level(logging.WARNING):
        operations = [on_a_gpu() for _ in range(2)]
    select.fused_operations.cache_clear()
    assert operations[0].rms_norm is norm.rms_norm
    assert operations[0].draw is draw.draw
    assert [record.message for record in caplog.records if "Triton" in record.message] == [
        "Triton is not installed: norms, activations and draws take slower paths"
    ]


def test_a_gpu_gets_the_kernels(on_a_gpu):
    pytest.importorskip("triton", reason="Triton is not installed")
    operations = on_a_gpu()
    for name, kernel in select.fused_operations("cuda").items():
        assert getattr(operations, name) is kernel
        assert kernel.__module__.startswith("stoker.ops.triton.")


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_a_model_gives_the_same_tokens_on_them(checkpoint, prompts, name):
    pytest.importorskip("triton", reason="Triton is not installed")
    if not interpreted():
        pytest.skip("kernels run on a CPU only when interpreted")
    params, found = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True), []
    for fused in (False, True):
        with LLM(checkpoint(name).folder, dtype="float32") as llm:
            model = llm.engine.runner.model
            if fused:
                pieces = select.fused_operations("cpu")
                model.ops = dataclasses.replace(model.ops, **pieces)
            outputs = llm.generate([prompt[:9] for prompt in prompts[:4]], params)
            found.append([output.outputs[0].token_ids for output in outputs])
    assert found[0] == found[1]
