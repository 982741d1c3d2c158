"""Steps by graphs on a CPU, where a stand-in records what a graph would replay."""

import logging
import random

import pytest
import torch
import zoo
from test_planning_ahead import random_params

from stoker import LLM, SamplingParams
from stoker.engine.execution.buckets import Buckets
from stoker.engine.execution.device_slots import DeviceSlots
from stoker.engine.execution.graphs import Graphs, graph_buckets
from stoker.errors import ConfigError
from stoker.model.cache import PagedCache
from stoker.ops.attention import ReferenceAttention
from stoker.ops.select import Operations

COUNT = 24


class Plan:
    """A layout that is looked up when it is run; it may be filled again."""

    def __init__(self, layout, room=None):
        self.layout, self.tables, self.room = layout, layout.block_tables, room

    def refill(self, layout):
        assert (len(layout.context_lens), layout.query_starts[-1]) == self.room
        assert layout.block_tables.data_ptr() == self.tables.data_ptr()
        self.layout = layout


class Reserved:
    """The reference, with such plans."""

    def __init__(self):
        self.reference = ReferenceAttention()

    def plan(self, layout):
        return Plan(layout)

    def reserve(self, layout, sequences, queries):
        return Plan(layout, (sequences, queries))

    def run(self, plan, *rest):
        return self.reference.run(plan.layout, *rest)


class Recorded:
    """Captures nothing but the function: a replay sees what lies in its buffers by then."""

    def __init__(self, fails=False):
        self.captured = self.replayed = 0
        self.fails = fails

    def __call__(self, work):
        if self.fails:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.captured += 1

        def replay():
            self.replayed += 1
            with torch.inference_mode():
                work()

        return replay

    def free(self):
        return 1000 - 10 * self.captured


def with_graphs(llm, **options):
    """Let `llm`, which has been made anew, run by graphs; returns what captures them."""
    runner, scheduler = llm.engine.runner, llm.engine.scheduler
    size, groups = scheduler.block_size, [pool.num_blocks for pool in scheduler.pool.pools]
    attend, capture = Reserved(), Recorded(**options)
    runner.model.ops = Operations(attend)
    kinds = scheduler.pool.groups[len(groups) :]  # of states
    running = scheduler.slots.num_slots
    places = [blocks + 1 for blocks in groups] + [running + 1 + kind.num_blocks for kind in kinds]
    runner.cache = PagedCache(llm.spec, places, size, torch.float32, runner.device)
    buckets = Buckets(scheduler.max_running, scheduler.max_batch_tokens)
    hidden = runner.model.hidden

    def forward(batch):
        for layers in llm.spec.cache_groups:  # what the dummy reads is nobody's business
            for pages in (one for layer in layers.layers for one in runner.cache.layers[layer]):
                pages[running if layers.keeps_state else -1] = torch.nan
        return hidden(batch, runner.cache)

    longest = max(scheduler.max_context, buckets.largest.tokens)
    runner.slots = DeviceSlots(
        running, longest, size, runner.device, groups, shared=False, num_states=len(kinds)
    )
    make = runner.model.ops.make_inputs
    runner.graphs = Graphs(forward, attend, buckets, runner.slots, make, capture)
    return capture


@pytest.fixture(scope="module")
def windowed(save_checkpoint):
    """A model whose layers have full attention or a window of 16."""
    return save_checkpoint("gemma3", zoo.make("gemma3"))


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("setting", [{}, {"block_size": 4, "num_blocks": 48}])
@pytest.mark.parametrize("name", ["qwen3", "gemma3"])
def test_greedy_tokens_equal_transformers(name, overlap, setting, checkpoint, windowed, prompts):
    model = checkpoint("qwen3")
    if name == "gemma3":
        model, prompts = windowed, [[token % zoo.VOCAB for token in one] for one in prompts]
    with LLM(model.folder, overlap=overlap, max_batch_tokens=60, max_running=12, **setting) as llm:
        capture = with_graphs(llm)
        llm.engine.runner.draws_there = overlap
        params = SamplingParams(temperature=0, max_tokens=COUNT, stop_token_ids=[10**6])
        outputs = llm.generate(prompts, params)
        assert capture.replayed > 2 * capture.captured > 10
        assert capture.captured + capture.replayed == llm.engine.stats.steps
        assert len(llm.engine.runner.graphs.memory) == capture.captured
        assert set(llm.engine.runner.graphs.memory.values()) == {10}
    found = [output.outputs[0].token_ids for output in outputs]
    assert found == [model.greedy(prompt, COUNT) for prompt in prompts]


def test_all_kinds_of_requests_together(text_model):
    """Rows that graphs don't serve take the other way, step by step."""
    rng = random.Random(4)
    prompts = [f"hello there, world number {n}, " * (1 + n % 3) for n in range(20)]
    params = [random_params(rng, number) for number in range(20)]

    def run(graphs):
        with LLM(text_model, max_batch_tokens=40, max_running=9, overlap=True) as llm:
            if graphs:
                capture = with_graphs(llm)
            else:
                llm.engine.runner.model.ops = Operations(ReferenceAttention())
            llm.engine.runner.draws_there = True
            outputs = llm.generate(prompts, params)
            vectors = [one.outputs.embedding for one in llm.embed(prompts[:5])]
            if graphs:
                assert capture.replayed > capture.captured > 3
                assert capture.captured + capture.replayed < llm.engine.stats.steps
        tokens = [[(c.token_ids, c.text, c.finish_reason) for c in o.outputs] for o in outputs]
        return tokens, vectors

    assert run(True) == run(False)


def test_no_memory_for_a_graph(checkpoint, prompts, caplog):
    model = checkpoint("qwen3")
    with LLM(model.folder, max_batch_tokens=60) as llm:
        with_graphs(llm, fails=True)
        params = SamplingParams(temperature=0, max_tokens=5, ignore_eos=True)
        outputs = llm.generate(prompts[:4], params)
    found = [output.outputs[0].token_ids for output in outputs]
    assert found == [model.greedy(prompt, COUNT)[:5] for prompt in prompts[:4]]
    notes = [one.message for one in caplog.records if "no CUDA graph for" in one.message]
    assert len(notes) == len(set(notes)), "once for each size"
    assert "no CUDA graph for steps of 4 tokens: CUDA out of memory" in notes


def test_an_attention_that_can_not(caplog):
    gpu = torch.device("cuda")
    assert graph_buckets("auto", torch.device("cpu"), Reserved(), 4, 64) is None
    assert graph_buckets(False, gpu, Reserved(), 4, 64) is None
    assert graph_buckets("auto", gpu, Reserved(), 4, 64).largest == (64, 5)
    with caplog.at_level(logging.WARNING):
        assert graph_buckets("auto", gpu, ReferenceAttention(), 4, 64) is None
    assert "no CUDA graphs: ReferenceAttention has no plans that can be filled" in caplog.text
    with pytest.raises(ConfigError, match="cuda_graphs=True can't be had: ReferenceAttention"):
        graph_buckets(True, gpu, ReferenceAttention(), 4, 64)
