"""What admission foresees, on replayed lengths that the scheduler does not know beforehand."""

import sys
from pathlib import Path

import numpy as np
import pytest

from stoker.engine.scheduling.forecast import LengthEstimator

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture(scope="module")
def admission():
    sys.path.insert(0, str(BENCHMARKS))
    import admission

    yield admission
    sys.path.remove(str(BENCHMARKS))


def test_peaks_are_foreseen_and_few_are_evicted(admission):
    """Log-normal outputs with a mean of 130 and a limit of 1,024 tokens."""
    found = admission.compare(admission.heavy_tailed(800), num_blocks=500)
    forecast, conservative = found["forecast"], found["conservative"]
    assert forecast["peaks_compared"] > 30
    assert forecast["peak_error_mean"] < 0.1
    assert 0.9 < forecast["peak_predicted_to_actual"] < 1.1
    assert forecast["evictions_per_request"] < 0.05
    assert conservative["evictions_per_request"] == 0
    assert found["batch_ratio"] > 2


def test_ranked_lengths_are_those_of_the_past():
    lengths, ranks = LengthEstimator(), np.array([0.1, 0.4, 0.7, 0.9])
    assert lengths.ranked(np.full(4, 4), np.full(4, 100), ranks).tolist() == [52] * 4
    for length in (90, 3, 8, 20, 5):
        lengths.observe(length)
    four, limit = np.full(4, 4), np.full(4, 100)
    assert lengths.ranked(four, limit, ranks).tolist() == [5, 8, 20, 90]
    assert lengths.expected(four, limit).tolist() == [31] * 4
    assert lengths.ranked(four, np.full(4, 10), ranks).tolist() == [5, 8, 10, 10]
    assert lengths.ranked(np.full(4, 95), limit, ranks).tolist() == [100] * 4
