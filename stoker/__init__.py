"""Stoker: run large language models over piles of prompts on one machine.

The public names are imported on first use, so that `import stoker` costs nothing.
"""

import os
from typing import TYPE_CHECKING, Any

# GCC's OpenMP lets a thread without work wait busily for 300,000 turns, some 3 ms, which it takes
# from what else goes on meanwhile. Read when torch is first imported. A thirtieth of it outlasts
# the gaps between the operations of a forward pass.
if not os.environ.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}:
    os.environ["GOMP_SPINCOUNT"] = "10000"

if TYPE_CHECKING:
    from stoker.engine.request.params import RepetitionDetectionParams, SamplingParams
    from stoker.engine.request.request import CompletionOutput, Logprob, RequestOutput
    from stoker.llm.async_llm import AsyncLLM
    from stoker.llm.beam import BeamSearchParams
    from stoker.llm.llm import LLM

__version__ = "0.1.0"
__all__ = [
    "LLM",
    "AsyncLLM",
    "BeamSearchParams",
    "CompletionOutput",
    "Logprob",
    "RepetitionDetectionParams",
    "RequestOutput",
    "SamplingParams",
]

_HOMES = {
    "LLM": "stoker.llm.llm",
    "AsyncLLM": "stoker.llm.async_llm",
    "BeamSearchParams": "stoker.llm.beam",
    "Logprob": "stoker.engine.request.request",
    "RepetitionDetectionParams": "stoker.engine.request.params",
    "SamplingParams": "stoker.engine.request.params",
    "CompletionOutput": "stoker.engine.request.request",
    "RequestOutput": "stoker.engine.request.request",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'stoker' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
