"""Arrays packed for one copy come out as they went in."""

import random

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from stoker.ops.upload import pack, unpack, upload

DTYPES = (np.int64, np.int32, np.float32, np.float64)


@given(seed=st.integers(0, 2**32), count=st.integers(0, 8))
def test_round_trip(seed, count):
    rng = random.Random(seed)
    arrays = []
    for _ in range(count):
        shape = tuple(rng.randint(0, 5) for _ in range(rng.randint(1, 2)))
        values = np.array([rng.randint(-9, 9) for _ in range(int(np.prod(shape)))])
        arrays.append(values.astype(rng.choice(DTYPES)).reshape(shape))
    for found in (unpack(pack(arrays, pinned=False), arrays), upload(arrays, torch.device("cpu"))):
        for tensor, array in zip(found, arrays, strict=True):
            assert tensor.shape == array.shape
            assert tensor.numpy().dtype == array.dtype
            assert np.array_equal(tensor.numpy(), array)
