"""What the older releases of torch that Stoker takes do not have; no user of a CPU meets it."""

import pytest
import torch

RELEASE = tuple(int(part) for part in torch.__version__.split(".")[:2])
BEFORE_2_12 = RELEASE < (2, 12)

fp8_on_cpu = pytest.mark.skipif(
    BEFORE_2_12, reason="torch 2.11 multiplies 8-bit floats scaled by rows on a GPU only"
)
paged_varlen = pytest.mark.skipif(BEFORE_2_12, reason="varlen_attn reads pages from torch 2.12 on")
