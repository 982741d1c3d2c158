"""Compiles the attention kernels for an H200, without one; prints what each takes as JSON.

Run in a process of its own: elsewhere in the tests Triton interprets.
"""

import itertools
import json
import sys

import torch
import triton
from score_functions import alibi, near_and_far
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from stoker.ops.triton import attention_kernels
from stoker.ops.triton.attention import block_of, blocks_of_key, compilable
from stoker.ops.triton.tuning import Launch, Tuning

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
INTEGERS = ("window", "stride_table", "stride_page", "stride_token", "stride_head")
INTEGERS += ("value_page", "value_token", "value_head")


def compiled(kernel, types, constants, launch):
    """Pointers and strides are whole numbers of 16 bytes, as Triton finds them to be."""
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else types[name] for name in names}
    aligned = [n for n, t in signature.items() if t[0] == "*" or n in INTEGERS[2:]]
    source = ASTSource(
        kernel,
        signature,
        {(names.index(name),): value for name, value in constants.items()},
        {(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    options = {"num_warps": launch.warps, "num_stages": launch.stages}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


def attend(
    wide,
    dtype="bf16",
    cache=None,
    head_dim=128,
    group=4,
    page=16,
    every_option=False,
    modify=None,
    value_dim=None,
    inside=False,
):
    value_dim = value_dim or head_dim
    narrow_and_wide = Tuning().launches(DTYPES[dtype], head_dim)
    launch = narrow_and_wide[wide]
    cache = cache or dtype
    types = dict.fromkeys(("q_ptr", "sinks", "out_ptr"), f"*{dtype}")
    types |= {"k_ptr": f"*{cache}", "v_ptr": f"*{cache}", "tables": "*i64"}
    types |= dict.fromkeys(("k_scale", "v_scale", "slopes", "lse_ptr"), "*fp32")
    types |= dict.fromkeys(("part_ptr", "part_lse"), "*fp32")
    types |= dict.fromkeys(("tasks", "members"), "*i32")
    types |= {"scale": "fp32", "softcap": "fp32"} | dict.fromkeys(INTEGERS, "i32")
    constants = {"HEADS": 8 * group, "SHARERS": group, "HEAD_DIM": head_dim, "PAGE": page}
    group = min(group, narrow_and_wide[1].rows)
    block, rest = blocks_of_key(head_dim, value_dim)
    constants |= {"GROUP": group, "BLOCK_D": block, "BLOCK_R": rest, "BLOCK_N": launch.keys}
    constants |= {"VALUE_DIM": value_dim, "BLOCK_V": block_of(value_dim), "INSIDE": inside}
    constants |= {"BLOCK_M": launch.rows_for(group), "QUANTISED": cache == "fp8e4nv"}
    constants |= dict.fromkeys(("SOFTCAP", "SLOPES", "WINDOWED", "SINKS", "LSE"), every_option)
    constants |= {"APART": bool(wide), "MODIFY": modify and compilable(modify)}
    constants |= {"CHUNKED": every_option and bool(wide)}
    if not constants["QUANTISED"]:
        constants |= {"k_scale": None, "v_scale": None}
    if not every_option:
        constants |= {"sinks": None, "slopes": None, "lse_ptr": None}
    return compiled(attention_kernels.attend_kernel, types, constants, launch)


def merge():
    types = {"sinks": "*bf16", "out_ptr": "*bf16"}
    types |= dict.fromkeys(("part_ptr", "part_lse", "lse_ptr"), "*fp32")
    types |= dict.fromkeys(("rows", "starts", "items"), "*i32")
    constants = {"HEADS": 32, "VALUE_DIM": 128, "BLOCK_V": 128, "BLOCK_P": Tuning().merged}
    constants |= {"SINKS": True, "LSE": True}
    kernel = attention_kernels.merge_kernel
    return compiled(kernel, types, constants, Launch(rows=1, keys=1, warps=4, stages=3))


def main():
    kernels = {"merge": merge()}
    for cache in ("bf16", "fp8e4nv"):
        for wide in (0, 1):
            kernels[f"{'wide' if wide else 'narrow'} {cache}"] = attend(wide, cache=cache)
    for wide in (0, 1):
        kind = "wide" if wide else "narrow"
        kernels[f"{kind} 256"] = attend(wide, head_dim=256)
        kernels[f"{kind} 512"] = attend(wide, head_dim=512, group=8)
        kernels[f"{kind} options"] = attend(wide, every_option=True, head_dim=80, page=1)
        kernels[f"{kind} alibi"] = attend(wide, modify=alibi)
        kernels[f"{kind} near and far"] = attend(wide, modify=near_and_far)
        kernels[f"{kind} expanded"] = attend(wide, head_dim=192, value_dim=128, group=1)
        for cache, group in itertools.product(("bf16", "fp8e4nv"), (16, 128)):
            kernels[f"{kind} latent {cache} {group}"] = attend(
                wide, cache=cache, head_dim=576, value_dim=512, inside=True, group=group
            )
        kernels[f"{kind} fp32"] = attend(wide, "fp32", head_dim=64)
    found = {}
    for name, kernel in kernels.items():
        text = kernel.asm["ttgir"]
        found[name] = {
            "shared": kernel.metadata.shared,
            "wgmma": kernel.asm["ptx"].count("wgmma.mma_async"),
            "mma": kernel.asm["ptx"].count("mma.sync"),
            "buffers": [
                int(line.split("memdesc<")[1].split("x")[0])
                for line in text.splitlines()
                if "local_alloc : ()" in line and "x128x" in line
            ],
        }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
