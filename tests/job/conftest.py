"""What most tests of jobs run on."""

import pytest

from stoker import LLM


@pytest.fixture(scope="module")
def llm(text_model):
    """A tiny model that runs three rows at a time."""
    with LLM(text_model, max_running=3) as one:
        yield one
