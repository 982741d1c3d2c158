"""Stoker: run large language models over piles of prompts on one machine.

The public names are imported on first use, so that `import stoker` costs nothing.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stoker.engine.async_engine import AsyncEngine
    from stoker.engine.beam import BeamSearchParams
    from stoker.engine.params import RepetitionDetectionParams, SamplingParams
    from stoker.engine.request import CompletionOutput, Logprob, RequestOutput
    from stoker.llm import LLM

__version__ = "0.1.0"
__all__ = [
    "LLM",
    "AsyncEngine",
    "BeamSearchParams",
    "CompletionOutput",
    "Logprob",
    "RepetitionDetectionParams",
    "RequestOutput",
    "SamplingParams",
]

_HOMES = {
    "LLM": "stoker.llm",
    "AsyncEngine": "stoker.engine.async_engine",
    "BeamSearchParams": "stoker.engine.beam",
    "Logprob": "stoker.engine.request",
    "RepetitionDetectionParams": "stoker.engine.params",
    "SamplingParams": "stoker.engine.params",
    "CompletionOutput": "stoker.engine.request",
    "RequestOutput": "stoker.engine.request",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'stoker' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
