"""Every C compiler that this machine has, GCC from 9 on and clang, makes kernels that serve."""

import os
import shutil
import subprocess
import sys

import pytest

from stoker.ops.native import compile as compiling
from stoker.ops.native.compile import compile_library, knows_openmp, libraries_of, library_name

NAMES = ["cc", *(f"gcc-{n}" for n in range(9, 17)), "clang", *(f"clang-{n}" for n in range(11, 24))]
_PATHS = {os.path.realpath(path): name for name in NAMES if (path := shutil.which(name))}
FOUND = [name for path, name in _PATHS.items() if knows_openmp(path)]
TRY = """
import sys, torch
from stoker import LLM, SamplingParams
from stoker.ops.int8 import Int8Linear, Int8Reference, quantize_rows
from stoker.ops.linear import NativeLinear, linear_reference
from stoker.ops.native.build import find_kernels
from stoker.ops.norm import NativeRmsNorm, rms_norm

torch.manual_seed(0)
x, weight, scale = torch.randn(300, 201), torch.randn(333, 201), torch.randn(201)
product = NativeLinear(weight, None)(x)
torch.testing.assert_close(product, linear_reference(x, weight), rtol=1e-4, atol=1e-4)
integers = quantize_rows(weight)
assert torch.equal(Int8Linear(*integers, None)(x), Int8Reference(*integers, None)(x))
norm = NativeRmsNorm(find_kernels("elementwise").library)
torch.testing.assert_close(norm(x, scale, 1e-6), rms_norm(x, scale, 1e-6), rtol=1e-5, atol=1e-5)
prompts = ["Say this again: check supply bar", "Sort these words: pear apple fig"]
chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
with LLM("stoker-tiny") as llm:
    outputs = llm.chat(chats, SamplingParams(temperature=0, max_tokens=24))
    assert llm.plan.attention_backend == "native"
assert {find_kernels(name).origin for name in ("linear", "attention")} == {"cache"}
print([output.outputs[0].token_ids for output in outputs])
"""


@pytest.mark.parametrize("name", FOUND)
def test_it_compiles_every_level(name, tmp_path, monkeypatch):
    monkeypatch.setattr(compiling, "FLAGS", ("-O0", *compiling.FLAGS[1:]))  # in little time
    for source, level in libraries_of():
        compile_library(shutil.which(name), source, level, tmp_path / library_name(source, level))


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The package without what was compiled when it was installed."""
    import stoker

    folder = tmp_path_factory.mktemp("package")
    built = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(os.path.dirname(stoker.__file__), folder / "stoker", ignore=built)
    return folder


@pytest.mark.skipif(not FOUND, reason="no C compiler with OpenMP")
def test_the_kernels_of_all_serve(package, tmp_path):
    tokens = {}
    for name in FOUND:
        environment = {**os.environ, "CC": name, "XDG_CACHE_HOME": str(tmp_path / name)}
        done = subprocess.run(
            [sys.executable, "-c", TRY],
            env={**environment, "PYTHONPATH": str(package)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{name}: {done.stderr}"
        tokens[name] = done.stdout
    assert len({*tokens.values()}) == 1, tokens
