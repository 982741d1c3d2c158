"""Sampling parameters given as numbers of NumPy and torch, as columns of tables hold them."""

import json

import numpy as np
import pytest
import torch

from stoker import SamplingParams
from stoker.errors import InvalidRequestError

PLAIN = {
    "temperature": 0.5,
    "top_p": 0.25,
    "top_k": 5,
    "seed": 3,
    "n": 2,
    "max_tokens": 7,
    "stop": ("x",),
    "stop_token_ids": (5, 6),
    "allowed_token_ids": (5, 6, 7),
    "bad_words": ((5, 6),),
    "logit_bias": {5: 1.0},
    "logprobs": 2,
    "ignore_eos": True,
}
NUMPY = {
    "temperature": np.float32(0.5),
    "top_p": np.float64(0.25),
    "top_k": np.int32(5),
    "seed": np.int64(3),
    "n": np.uint8(2),
    "max_tokens": np.int64(7),
    "stop": np.array(["x"]),
    "stop_token_ids": np.array([5, 6]),
    "allowed_token_ids": np.arange(5, 8),
    "bad_words": [np.array([5, 6])],
    "logit_bias": {np.int64(5): np.float32(1)},
    "logprobs": np.array(2),
    "ignore_eos": np.bool_(True),
}
TORCH = {"max_tokens": torch.tensor(7), "stop_token_ids": torch.tensor([5, 6])}


def test_they_are_those_of_python():
    params = SamplingParams(**NUMPY)
    assert params == SamplingParams(**PLAIN)
    assert repr(params) == repr(SamplingParams(**PLAIN))  # answers are remembered by it
    json.dumps({name: getattr(params, name) for name in PLAIN})
    assert SamplingParams(**TORCH) == SamplingParams(max_tokens=7, stop_token_ids=[5, 6])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", np.float32(7)),
        ("max_tokens", np.bool_(True)),
        ("temperature", np.array([0.5, 1.0])),
        ("temperature", np.float32("nan")),
        ("repetition_penalty", 1e39),  # beyond float32, where it would be infinite
        ("repetition_penalty", 1e-40),
    ],
)
def test_others_are_refused(name, value):
    with pytest.raises(InvalidRequestError, match=name):
        SamplingParams(**{name: value})
