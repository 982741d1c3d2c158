"""Where tests find a real model and real tokenizers: in a cache that `.ci/assets` fills."""

import os
from pathlib import Path

import pytest

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
ASSETS = Path(os.environ.get("STOKER_TEST_ASSETS") or CACHE / "stoker-test-assets")
TOKENIZERS = ("llama3", "llama3_1", "qwen3", "gemma3", "gptoss", "deepseek_v3")


def asset(name: str) -> Path:
    """The folder of that name; skips the test, or the module that is read, where there is none."""
    if not (ASSETS / name).is_dir():
        pytest.skip(f"{ASSETS} has no {name}: see .ci/assets", allow_module_level=True)
    return ASSETS / name
