"""Where the tests of a GPU run, and what they share with those of the models."""

import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "model"))

from test_families import short_prompts, zoo  # noqa: F401  # fixtures


@pytest.fixture(scope="session")
def device():
    """ "cuda"; with STOKER_GPU_TESTS=cpu "cpu", so that the tests themselves are tried out."""
    if os.environ.get("STOKER_GPU_TESTS") == "cpu":
        return "cpu"
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU; STOKER_GPU_TESTS=cpu tries the tests out without")
    return "cuda"


@pytest.fixture(scope="session")
def gpu(device):
    """As `device`, for what a CPU has no counterpart of."""
    if device != "cuda":
        pytest.skip("has no meaning on a CPU")
    return device


@pytest.fixture(autouse=True, scope="session")
def _full_precision():
    """float32 is float32: no TF32."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
