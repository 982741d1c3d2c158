"""vLLM's CPU build, in float32.

There is none in 8 bits: from a plain checkpoint vLLM 0.32 makes int8 of experts alone, and leaves
all other matrices as they are.
"""

from __future__ import annotations

import os
from pathlib import Path

from workloads import Outputs, Run, Workload


def make(folder: Path, threads: int, work: str) -> Run:
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "4")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", ",".join(map(str, range(threads))))
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    from vllm import LLM, SamplingParams

    llm = LLM(
        str(folder),
        dtype="float32",
        skip_tokenizer_init=True,
        enable_prefix_caching=work == "prefix",
        max_num_batched_tokens=2048,
    )

    def run(load: Workload) -> Outputs:
        llm.reset_prefix_cache()
        prompts = [{"prompt_token_ids": prompt} for prompt, _ in load]
        params = [
            SamplingParams(
                temperature=0, max_tokens=n, min_tokens=n, ignore_eos=True, detokenize=False
            )
            for _, n in load
        ]
        outputs = llm.generate(prompts, params, use_tqdm=False)
        return [list(output.outputs[0].token_ids) for output in outputs]

    return run
