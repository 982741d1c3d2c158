"""Graphs over the Triton attention's reserved plans, interpreted, on the smallest model."""

import pytest
import torch
from test_graphs import Recorded

from stoker import LLM, SamplingParams
from stoker.engine.execution.buckets import Buckets
from stoker.engine.execution.device_slots import DeviceSlots
from stoker.engine.execution.graphs import Graphs
from stoker.model.cache import PagedCache

pytest.importorskip("triton")


def test_tokens_equal_transformers(checkpoint, prompts):
    model = checkpoint("qwen3")
    chosen = [*prompts[:3], *prompts[-3:]]
    with LLM(
        model.folder,
        attention_backend="triton",
        max_batch_tokens=40,
        max_running=4,
        max_context=128,
        overlap=True,
    ) as llm:
        runner, scheduler = llm.engine.runner, llm.engine.scheduler
        runner.draws_there = True
        blocks, size = scheduler.pool.num_blocks, scheduler.block_size
        runner.cache = PagedCache(llm.spec, [blocks + 1], size, torch.float32, runner.device)
        runner.slots = DeviceSlots(4, 128, size, runner.device, (blocks,), shared=False)
        capture = Recorded()
        runner.graphs = Graphs(
            lambda batch: runner.model.hidden(batch, runner.cache),
            runner.model.ops.attention,
            Buckets(4, 40),
            runner.slots,
            runner.model.ops.make_inputs,
            capture,
        )
        outputs = llm.generate(chosen, SamplingParams(temperature=0, max_tokens=6, ignore_eos=True))
        assert capture.replayed > capture.captured > 1
    assert [o.outputs[0].token_ids for o in outputs] == [model.greedy(p, 6) for p in chosen]
