"""OpenVINO GenAI's continuous batching, with the best of the token budgets that were tried.

Weights are float32 or, with `int8`, 8 bits with a scale per row; the cache is float32. A model with
layers of Mamba runs in static batches: GenAI 2026.4.1 takes it and answers, but from the second
token on differently, while the same files give transformers' tokens when run by optimum-intel.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peer_transformers import in_batches
from workloads import SHAPES, WORK, Outputs, Run, Workload


def make(folder: Path, threads: int, work: str, int8: bool = False) -> Run:
    if "mamba" in SHAPES[WORK[work].shape].get("layer_types", ()):
        return in_batches(_stateful(_converted(folder, int8), threads))
    import numpy as np
    import openvino as ov
    import openvino_genai as genai

    pipe = _pipeline(_converted(folder, int8), threads, work)

    def one(count: int) -> Any:
        config = genai.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = count
        config.ignore_eos = True
        config.eos_token_id, config.stop_token_ids = 0, {0}
        config.do_sample = False
        return config

    def generate(load: Workload) -> Outputs:
        ids = [ov.Tensor(np.array([prompt], dtype=np.int64)) for prompt, _ in load]
        results = pipe.generate(ids, [one(count) for _, count in load])
        return [list(result.m_generation_ids[0]) for result in results]

    def run(load: Workload) -> Outputs:
        if work == "prefix" and len(load) > 8:
            generate([(load[0][0][:513], 1)])  # primes its cache, which it fills only afterwards
        return generate(load)

    return run


def _converted(folder: Path, int8: bool) -> Path:
    """The model in OpenVINO's format, made if it is not there yet."""
    converted = folder / ("openvino-int8" if int8 else "openvino")
    if not converted.exists():
        from optimum.intel import OVModelForCausalLM

        model = OVModelForCausalLM.from_pretrained(
            folder, export=True, compile=False, load_in_8bit=int8
        )
        model.save_pretrained(converted)
    return converted


def _stateful(converted: Path, threads: int) -> Any:
    """The model whose `generate` keeps caches and states inside OpenVINO."""
    from optimum.intel import OVModelForCausalLM

    return OVModelForCausalLM.from_pretrained(converted, ov_config=_properties(threads))


def _pipeline(converted: Path, threads: int, work: str) -> Any:
    import openvino_genai as genai

    settings = genai.SchedulerConfig()
    settings.cache_size = 6
    settings.max_num_seqs = 256
    settings.max_num_batched_tokens = 2048
    settings.enable_prefix_caching = work == "prefix"
    properties = _properties(threads)
    return genai.ContinuousBatchingPipeline(str(converted), settings, "CPU", properties)


def _properties(threads: int) -> dict[str, Any]:
    return {
        "INFERENCE_PRECISION_HINT": "f32",
        "KV_CACHE_PRECISION": "f32",
        "INFERENCE_NUM_THREADS": threads,
    }
