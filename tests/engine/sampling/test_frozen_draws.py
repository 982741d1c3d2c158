"""The tokens that seeds have always given; a change here changes what users get for a seed.

The logits come from integers, so that they are the same on every machine.
"""

import numpy as np
import pytest
import torch
from draw_rows import params_of, settings_of

from stoker import SamplingParams
from stoker.engine.sampling.controls import RowControls
from stoker.engine.sampling.rules import make_rules
from stoker.engine.sampling.sampler import SamplingBatch, sample

ROWS, VOCAB, EOS = 12, 700, (7, 9)

FROZEN = {
    "greedy": ([106, 518, 423, 667, 203, 518, 605, 163, 154, 316, 314, 220], []),
    "plain": ([569, 283, 455, 379, 536, 590, 397, 399, 694, 192, 673, 192], []),
    "hot": ([569, 305, 447, 368, 530, 590, 375, 394, 694, 199, 676, 191], []),
    "top_k": ([296, 518, 423, 496, 497, 518, 564, 395, 235, 316, 334, 220], []),
    "top_p": ([537, 263, 457, 398, 562, 636, 469, 427, 694, 149, 673, 195], []),
    "top_k top_p": ([506, 263, 457, 398, 533, 667, 470, 413, 694, 149, 673, 195], []),
    "min_p": ([549, 263, 455, 387, 541, 586, 397, 413, 694, 190, 646, 191], []),
    "typical_p": ([604, 227, 410, 387, 551, 527, 386, 447, 688, 216, 673, 158], []),
    "all filters": ([506, 263, 479, 387, 533, 667, 408, 482, 694, 90, 673, 195], []),
    "penalties": ([569, 283, 455, 379, 536, 590, 397, 399, 694, 199, 673, 192], []),
    "bias": ([600, 600, 600, 259, 397, 600, 600, 395, 694, 90, 600, 3], []),
    "bars": ([21, 27, 31, 16, 19, 37, 24, 11, 39, 13, 39, 22], []),
    "processor": ([537, 243, 457, 387, 515, 575, 455, 395, 687, 129, 673, 209], []),
    "logprobs": (
        [569, 283, 455, 379, 536, 590, 397, 399, 694, 192, 673, 192],
        [
            [569, 106, 296],
            [283, 518, 243],
            [455, 423, 38],
            [379, 667, 134],
            [536, 203, 497],
            [590, 518, 206],
            [397, 605, 300],
            [399, 163, 413],
            [694, 154, 205],
            [192, 316, 224],
            [673, 314, 14],
            [192, 220, 641],
        ],
    ),
}


def make_logits():
    """(ROWS, VOCAB) float32 with steps of 1/64, of which some are equal."""
    numbers = np.random.RandomState(13).randint(-400, 400, (ROWS, VOCAB))
    return torch.from_numpy((numbers / 64.0).astype(np.float32))


def forbid_even(outputs, logits):
    logits[:, ::2] = -torch.inf
    return logits


CASES = {
    "greedy": {"temperature": 0},
    "plain": {},
    "hot": {"temperature": 1.7},
    "top_k": {"top_k": 5},
    "top_p": {"top_p": 0.6},
    "top_k top_p": {"temperature": 0.8, "top_k": 50, "top_p": 0.9},
    "min_p": {"temperature": 1.3, "min_p": 0.3},
    "typical_p": {"typical_p": 0.4},
    "all filters": {"min_p": 0.05, "top_k": 60, "top_p": 0.95, "typical_p": 0.7},
    "penalties": {"repetition_penalty": 1.4, "presence_penalty": 0.3, "frequency_penalty": 0.2},
    "bias": {"logit_bias": {3: 4.0, 5: 4.5, 600: 5.0}, "top_k": 20},
    "bars": {"allowed_token_ids": range(40), "bad_words": [[3], [1, 4]], "min_tokens": 9},
    "processor": {"logits_processors": [forbid_even]},
    "logprobs": {"logprobs": 2},
}


def draws(params):
    """Tokens, and the ids that come with log-probabilities, of ROWS rows with one kind of wish."""
    rules = make_rules(params, VOCAB, EOS, None)
    seeds = [(row * 0x9E3779B97F4A7C15 + 5) % (1 << 64) for row in range(ROWS)]
    positions = [17 * row + 3 for row in range(ROWS)]
    batch = SamplingBatch([settings_of(params, seed) for seed in seeds])
    if rules is not None:
        for row in range(ROWS):
            output = [3, 1, row, row, 1][: row % 6]
            batch.controls[row] = RowControls.make(rules, [row, 2, 2], output)
    tokens = sample(make_logits(), batch, params_of(batch.settings, positions, VOCAB))
    found = [one.found.ids for one in batch.controls.values() if one.found is not None]
    return tokens, found


@pytest.mark.parametrize("name", CASES)
def test_tokens_of_a_seed_stay(name):
    assert draws(SamplingParams(max_tokens=10, **CASES[name])) == FROZEN[name]
