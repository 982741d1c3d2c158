"""Compiles the kernels beside attention for a Hopper GPU, which needs none.

The interpreter takes what the compiler refuses, such as a loop whose variables change their type.
"""

import itertools

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from stoker.ops.activation import ACTIVATIONS
from stoker.ops.triton import (
    activation,
    delta_rule,
    experts,
    latent,
    norm,
    quantize,
    rope,
    state_space,
    step_tensors,
)
from stoker.ops.triton import draw_kernels as draws

F16, BF16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
I32, I64, FP8 = torch.int32, torch.int64, torch.float8_e4m3fn
NAMES = {
    F16: "*fp16", BF16: "*bf16", F32: "*fp32", F64: "*fp64", I32: "*i32", I64: "*i64",
    FP8: "*fp8e4nv", torch.uint8: "*u8",
}  # fmt: skip
VOCAB = 151936


def compile_kernel(kernel, *args, **constants):
    """Arguments are dtypes for tensors, or numbers; 1 becomes a constant, as at a launch."""
    warps = constants.pop("num_warps", 4)
    signature = {}
    for name, arg in zip((one.name for one in kernel.params), args, strict=False):
        if isinstance(arg, int) and arg == 1:
            constants[name] = 1
        else:
            signature[name] = NAMES.get(arg) or ("fp32" if isinstance(arg, float) else "i32")
    signature.update(dict.fromkeys(constants, "constexpr"))
    assert set(signature) == {one.name for one in kernel.params}, kernel
    signature = {one.name: signature[one.name] for one in kernel.params}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    target = GPUTarget("cuda", 90, 32)
    made = triton.compile(source, target=target, options={"num_warps": warps})
    assert made.asm["cubin"]
    print(kernel.__name__, constants)


def latent_rows():
    for cache in (BF16, FP8):
        compile_kernel(
            *(latent._kernel, BF16, BF16, BF16, F32, I64, cache, F32, BF16, 1e-6, 1.0),
            HEADS=128, PLAIN=128, RANK=512, SHARED=64, ROTARY=64, SCALED=cache == FP8,
            TOP=448.0, BLOCK_H=16, BLOCK_S=64, BLOCK_R=512,
        )  # fmt: skip


def rows():
    for cache, norms, (dim, rotary) in itertools.product(
        (BF16, FP8), (True, False), ((128, 128), (80, 20), (256, 0))
    ):
        compile_kernel(
            *(rope._kernel, BF16, BF16, cache, cache, F32, I64, BF16, BF16, BF16, 1e-6, F32, F32),
            *(4096, 1024, 128),
            HEADS=16, KV_HEADS=8, HEAD_DIM=dim, ROTARY=rotary, NORMS=norms, SCALED=cache == FP8,
            NORMED_VALUES=norms and dim == 80,
            TOP=448.0, BLOCK_H=4, BLOCK_D=triton.next_power_of_2(dim),
        )  # fmt: skip
    for dtype, flag, (tile, size) in itertools.product(
        (F16, F32), (True, False), ((1, 5120), (16, 80))
    ):
        compile_kernel(
            *(norm._kernel, dtype, dtype, dtype, dtype, 256, 1, 1e-6),
            SIZE=size, CENTRED=flag, BIAS=flag, ROWS=tile, BLOCK=triton.next_power_of_2(size),
        )  # fmt: skip
    for kind, gated in itertools.product(ACTIVATIONS, (True, False)):
        compile_kernel(
            activation._activate, BF16, BF16, SIZE=99, KIND=kind, GATED=gated, BLOCK=1024
        )
    compile_kernel(activation._soft_cap, BF16, BF16, 30.0, 100000, BLOCK=1024)
    for last, page in ((True, 16), (False, 1)):
        compile_kernel(
            *(step_tensors._kernel, *[I64] * 9, 1000, 64, 7),
            PAGE=page, LAST=last, BLOCK=256,
        )  # fmt: skip
    compile_kernel(quantize._kernel, BF16, FP8, F32, 5120, SIZE=5120, TOP=448.0, BLOCK=8192)


def states():
    plan = (I64, I64, torch.uint8)
    for gated, taps, tokens, channels in ((True, 3, 16, 128), (False, 4, 32, 64)):
        compile_kernel(
            *(state_space._conv_kernel, *[BF16] * 6, *plan, BF16, 5120, 9216),
            TAPS=taps, GATED=gated, BIAS=not gated, SILU=not gated, BLOCK_T=tokens,
            BLOCK_C=channels,
        )  # fmt: skip
    for dtype, (dim, size) in itertools.product((BF16, F32), ((64, 128), (80, 256))):
        compile_kernel(
            *(state_space._ssd_kernel, dtype, dtype, F32, F32, F32, F32, *plan, dtype),
            *(5120, 9216, 0.0, float("inf")),
            HEADS=64, DIM=dim, GROUPS=8, SIZE=size, BLOCK_N=size, BLOCK_P=4096 // size,
        )  # fmt: skip
        compile_kernel(
            *(state_space._selective_kernel, *[dtype] * 5, F32, F32, F32, F32, *plan, dtype),
            *(5120, 192, 192, 10240),
            GROUPS=1, SIZE=16, BLOCK_N=16, BLOCK_C=64,
        )  # fmt: skip
        compile_kernel(
            *(state_space._norm_kernel, dtype, dtype, dtype, dtype, 9216, 1e-5),
            GROUPS=8, PART=dim * 8, NORMED=dim == 64, FIRST=dim == 80, BLOCK=1024,
        )  # fmt: skip


def delta_rules():
    plan = (I64, I64, torch.uint8)
    for dtype, flag in itertools.product((BF16, F32), (True, False)):
        compile_kernel(
            *(delta_rule._delta_kernel, dtype, dtype, dtype, F32, F32, F32, *plan, F32),
            *(12352, 12352, 1.0, -5.0, 0.088),
            KEY_HEADS=16, HEADS=32, KEYS=128, VALUES=128, BY_CHANNEL=flag, BOUNDED=flag,
            BLOCK_K=128, BLOCK_V=32,
        )  # fmt: skip
        compile_kernel(
            *(delta_rule._norm_kernel, F32, dtype, F32, dtype, 12352, 1e-6),
            HEADS=32, VALUES=192, SIGMOID=flag, BLOCK=256, num_warps=1,
        )  # fmt: skip
    compile_kernel(delta_rule._rg_lru_kernel, BF16, BF16, F32, F32, *plan, BF16, 2560, BLOCK=128)


def sampling():
    for vocab, dtype, has_k, has_p in (
        (VOCAB, BF16, True, True),
        (VOCAB, F32, False, True),
        (300, BF16, True, False),
        (VOCAB, BF16, False, False),
    ):
        chunks = -(-vocab // 4096)
        shape = {"VOCAB": vocab, "CHUNK": 4096, "num_warps": 8}
        wide = {"HAS_K": has_k, "HAS_P": has_p, "BLOCK": 2048}
        wide |= {"BLOCK_C": triton.next_power_of_2(chunks), **shape}
        k, p = I64 if has_k else F32, F64 if has_p else F32
        compile_kernel(
            *(draws.sum_chunks, dtype, F32, F32, F64, I32, F32, vocab, chunks),
            **(shape | {"GROUPED": has_k or has_p, "GROUP": 64}),
        )
        compile_kernel(
            *(
                draws.find_tokens,
                dtype,
                F32,
                k,
                p,
                I64,
                I64,
                F32,
                F64,
                I32,
                F32,
                I32,
                I32,
                I64,
                F32,
            ),
            *(vocab, chunks),
            **wide,
        )
        if has_k or has_p:
            compile_kernel(
                *(draws.gather_candidates, dtype, F32, k, p, F32, F64, F32, F32, I32, I32),
                *(vocab, chunks),
                **(wide | {"GROUP": 64}),
            )


def mixtures():
    for dtype, tile, flag in (
        (BF16, experts._NARROW, True),
        (F16, experts._MIDDLE, False),
        (BF16, experts._WIDE, False),
        (F32, experts._EXACT, True),
    ):
        sizes = {"SIZE": 2048, "INNER": 768, "BIAS": flag, "num_warps": tile.warps}
        sizes |= {"M": tile.rows, "N": tile.outputs, "K": tile.inputs}
        sizes["PRECISION"] = "ieee" if dtype == F32 else "tf32"
        compile_kernel(
            *(experts._up, dtype, I64, F32, I64, I64, I64, dtype, dtype, dtype, 7.0, 1.5),
            EACH=8, KIND="silu", GATED=True, WEIGHS=flag, LIMIT=flag, **sizes,
        )  # fmt: skip
        compile_kernel(experts._down, dtype, I64, I64, I64, I64, dtype, dtype, dtype, **sizes)
        compile_kernel(
            *(experts._combine, dtype, dtype, I64, F32, dtype, dtype, 128),
            SIZE=2048, EACH=8, ADD=flag, APPLIED=flag, BLOCK=1024,
        )  # fmt: skip


if __name__ == "__main__":
    rows()
    latent_rows()
    mixtures()
    states()
    delta_rules()
    sampling()
