"""How long an engine takes from its making to the first token, and where that time goes.

The folder has just been written, so its files are in memory: what is measured is the way to the
device, not the disk. Importing torch is left out.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any
from unittest import mock

import torch
from models import config_of, written

from stoker import LLM, SamplingParams
from stoker.engine.setup import build

MODEL = "qwen3-8b"
SIZE = 17 << 30  # bytes of its folder, rounded up
PARTS = ("load_model", "gpu_budget", "PagedCache", "make_graphs")


def run_loading(device: torch.device, smoke: bool, limit: float) -> dict[str, Any]:
    """Seconds by part, and of the whole; twice, as kernels are compiled only once."""
    with written(config_of(MODEL, smoke), device, 1 << 20 if smoke else SIZE) as folder:
        size = sum(one.stat().st_size for one in folder.glob("*.safetensors"))
        options: dict[str, Any] = {"device": device.type}
        if device.type == "cpu":
            options |= {"dtype": "float32", "num_blocks": 50}
        first = first_token(str(folder), options)
        second = first_token(str(folder), options)
    rate = size / second["parts_s"]["load_model"] / 1e9
    return {"folder_bytes": size, "first": first, "second": second, "load_GB_s": rate}


def first_token(folder: str, options: dict[str, Any]) -> dict[str, Any]:
    """Seconds to the first token of a prompt of 16, and of the parts of making an engine."""
    parts: dict[str, float] = {}
    with contextlib.ExitStack() as stack:
        for name in PARTS:
            stack.enter_context(mock.patch.object(build, name, _timed(name, parts)))
        start = time.perf_counter()
        with LLM(folder, **options) as llm:
            made = time.perf_counter() - start
            params = SamplingParams(temperature=0, max_tokens=1, ignore_eos=True)
            llm.generate([list(range(16))], params)
            total = time.perf_counter() - start
    return {"made_s": made, "first_token_s": total, "parts_s": parts}


def _timed(name: str, parts: dict[str, float]) -> Any:
    work = getattr(build, name)

    def call(*args: Any, **options: Any) -> Any:
        start = time.perf_counter()
        try:
            return work(*args, **options)
        finally:
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()
            parts[name] = parts.get(name, 0.0) + time.perf_counter() - start

    return call
