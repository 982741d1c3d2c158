"""Which implementation of attention is chosen, and what is said when one is not there."""

import logging

import pytest
import torch
from layouts import make
from torch_release import paged_varlen

from stoker.errors import ConfigError
from stoker.ops import attention_varlen, select
from stoker.ops.attention import ReferenceAttention, Scores
from stoker.ops.attention_cpu import CpuAttention
from stoker.ops.attention_native import NativeAttention
from stoker.ops.attention_varlen import VarlenAttention, varlen_serves
from stoker.ops.kv_pages import FP8
from stoker.ops.native.build import load_kernels
from stoker.ops.select import select_operations

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def chosen(device, dtype, **options):
    return type(select_operations(device, dtype, **options).attention).__name__


@pytest.mark.skipif(load_kernels("attention") is None, reason="no C compiler")
def test_a_cpu_takes_the_c_kernel_in_float32_only():
    assert isinstance(select_operations(CPU, torch.float32).attention, NativeAttention)
    assert isinstance(select_operations(CPU, torch.bfloat16).attention, CpuAttention)
    with pytest.raises(ConfigError, match=r"'native' does not serve bfloat16.*torch.*reference"):
        select_operations(CPU, torch.bfloat16, backend="native")


def test_fp8_on_a_cpu_takes_the_reference_and_says_so(caplog):
    with caplog.at_level(logging.WARNING):
        assert chosen(CPU, torch.float32, cache_dtype=FP8) == "ReferenceAttention"
    assert "slow reference" in caplog.text
    caplog.clear()
    chosen(CPU, torch.float32, cache_dtype=FP8, backend="reference")
    assert not caplog.text


def test_a_gpu_takes_triton_then_varlen_then_the_reference(monkeypatch, caplog):
    monkeypatch.setattr(select, "TritonAttention", lambda device: ReferenceAttention())
    monkeypatch.setattr(select, "varlen_serves", lambda device, dtype: True)
    monkeypatch.setattr(select, "triton_serves", lambda kind: True)
    assert chosen(CUDA, torch.bfloat16) == "ReferenceAttention"  # our Triton
    assert chosen(CUDA, torch.bfloat16, backend="varlen") == "VarlenAttention"
    with pytest.raises(ConfigError, match="'varlen' does not serve"):
        select_operations(CUDA, torch.bfloat16, backend="varlen", special_scores=True)
    with pytest.raises(ConfigError, match=r"'varlen' does not serve .* in FP8"):
        select_operations(CUDA, torch.bfloat16, backend="varlen", cache_dtype=FP8)
    assert not caplog.text
    monkeypatch.setattr(select, "triton_serves", lambda kind: False)
    assert chosen(CUDA, torch.bfloat16) == "VarlenAttention"
    monkeypatch.setattr(select, "varlen_serves", lambda device, dtype: False)
    assert chosen(CUDA, torch.bfloat16) == "ReferenceAttention"
    assert "Triton is not installed" in caplog.text
    with pytest.raises(
        ConfigError, match=r"'triton' does not serve.*use auto or one of: reference"
    ):
        select_operations(CUDA, torch.bfloat16, backend="triton")


def test_varlen_does_not_serve_a_cpu():
    assert not varlen_serves(CPU, torch.bfloat16)
    with pytest.raises(ConfigError, match="varlen"):
        select_operations(CPU, torch.bfloat16, backend="varlen")


@pytest.mark.parametrize("window", [None, 1, 9])
@pytest.mark.parametrize("sinks", [False, True])
def test_varlen_is_called_as_it_is_documented(monkeypatch, window, sinks):
    """Against a stand-in that does what torch's documentation says of each argument."""
    from torch.nn.attention import varlen

    layout, q, k, v = make([1, 5, 9], [20, 5, 33], block_size=8, heads=4, kv_heads=2, dim=16)

    def stand_in(q, k, v, starts, cu_k, most_q, most_k, *, return_aux, scale, window_size,
                 enable_gqa, seqused_k, block_table):  # fmt: skip
        assert starts.dtype == seqused_k.dtype == block_table.dtype == torch.int32
        assert enable_gqa
        assert return_aux.lse
        assert cu_k is None
        assert (most_q, most_k) == (9, 33)
        left, right = window_size
        assert right == 0
        out, lse = torch.empty_like(q), torch.empty(q.shape[1], len(q))
        for s, context in enumerate(seqused_k.tolist()):
            rows = slice(*starts[s : s + 2].tolist())
            keys, values = (
                x[block_table[s].long()].flatten(0, 1)[:context].repeat_interleave(2, 1)
                for x in (k, v)
            )
            x = torch.einsum("thd,shd->hts", q[rows], keys) * scale
            offset = torch.arange(context) - torch.arange(context - x.shape[1], context)[:, None]
            hidden = offset > right if left == -1 else (offset > right) | (offset < -left)
            x = x.masked_fill(hidden, -torch.inf)
            lse[:, rows] = x.logsumexp(-1)
            out[rows] = torch.einsum("hts,shd->thd", x.softmax(-1), values)
        return out, lse

    monkeypatch.setattr(varlen, "varlen_attn", stand_in)
    attention = VarlenAttention()
    scores = Scores(0.3, window, sinks=torch.linspace(-1, 1, 4) if sinks else None)
    out, lse = attention.run_with_lse(attention.plan(layout), q, k, v, scores)
    expected, expected_lse = ReferenceAttention().run_with_lse(layout, q, k, v, scores)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(lse, expected_lse)


@paged_varlen
def test_varlen_wants_a_block_table(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(attention_varlen.importlib.util, "find_spec", lambda name: None)
    assert not varlen_serves(CUDA, torch.bfloat16)  # no FlashAttention-3 here
    monkeypatch.setattr(torch.nn.attention, "current_flash_attention_impl", lambda: "FA3")
    assert varlen_serves(CUDA, torch.bfloat16)
    assert not varlen_serves(CUDA, torch.float32)
    monkeypatch.setattr(torch.nn.attention.varlen, "varlen_attn", lambda query, key: None)
    assert not varlen_serves(CUDA, torch.bfloat16)
