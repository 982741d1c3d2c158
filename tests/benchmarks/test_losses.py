"""Where a run's time goes: every kernel of a mixture and of a hybrid has a name."""

import sys
from pathlib import Path

import pytest

from stoker import LLM, SamplingParams
from stoker.model.work import matmul_flops
from stoker.ops.native.build import load_kernels

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import losses

pytestmark = pytest.mark.skipif(load_kernels("experts") is None, reason="no C compiler")


RATE = 1e12  # FLOP/s and bytes/s
STEPS = 8


def profiled(llm):
    params = SamplingParams(temperature=0, max_tokens=STEPS, ignore_eos=True)
    return losses.profile(llm, lambda: llm.generate([[1, 2, 3, 4]], params), RATE, RATE)


def test_a_mixture_is_asked_for_the_experts_that_a_token_takes():
    with LLM("stoker-tiny-moe") as llm:
        found = profiled(llm)
        needed = matmul_flops(llm.spec, 4 + STEPS - 1, STEPS)
    assert found.limit_seconds * RATE == pytest.approx(needed, rel=0.05)  # and attention
    lost = sum(loss.seconds for loss in found.losses)
    assert lost + found.limit_seconds == pytest.approx(found.seconds, rel=1e-3)
    assert losses.STATES not in {loss.name for loss in found.losses}


def test_scans_count_as_states():
    with LLM("stoker-tiny-hybrid") as llm:
        assert losses.STATES in {loss.name for loss in profiled(llm).losses}
