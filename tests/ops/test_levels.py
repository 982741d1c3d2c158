"""Levels of processors: which one serves, that none takes more than it may, and that all agree."""

import re
import shutil
import subprocess
import sys

import pytest

from stoker.errors import ConfigError
from stoker.ops.native import levels
from stoker.ops.native.compile import (
    FOLDER,
    SOURCES,
    compile_library,
    find_compiler,
    libraries_of,
    library_name,
)
from stoker.ops.native.levels import NATIVE, best_level, machine_levels, processor_levels

HASWELL = "fpu sse4_2 movbe popcnt avx f16c fma abm bmi1 avx2 bmi2"
SKYLAKE = f"{HASWELL} avx512f avx512dq avx512cd avx512bw avx512vl"
PROCESSORS = {
    "Sandy Bridge": ("x86_64", "fpu sse4_2 popcnt avx", []),
    "Haswell": ("x86_64", HASWELL, ["avx2"]),
    "Knights Landing": ("x86_64", f"{HASWELL} avx512f avx512cd avx512er avx512pf", ["avx2"]),
    "Skylake-SP": ("x86_64", SKYLAKE, ["avx2", "avx512"]),
    "Zen 4": ("x86_64", f"{SKYLAKE} avx512_bf16 avx512_vnni", ["avx2", "avx512", "avx512_vnni"]),
    "without the system's support": ("x86_64", "fpu sse4_2 movbe popcnt fma abm bmi1 bmi2", []),
    "Graviton": ("aarch64", "fp asimd aes crc32", ["neon"]),
    "POWER": ("ppc64le", "", []),
}
HERE = [level.name for level in processor_levels()]
with_compiler = pytest.mark.skipif(find_compiler() is None, reason="no C compiler")


@pytest.fixture
def processor(tmp_path, monkeypatch):
    """A function that makes this a machine with such a processor."""

    def make(machine, features):
        file = tmp_path / "cpuinfo"
        file.write_text(f"processor\t: 0\nflags\t\t: {features}\n\nprocessor\t: 1\nflags\t: none\n")
        monkeypatch.setattr(levels, "_CPUINFO", file)
        monkeypatch.setattr(levels.platform, "machine", lambda: machine)
        monkeypatch.delenv(levels.VARIABLE, raising=False)

    return make


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_processor_has_its_levels(processor, name):
    machine, features, expected = PROCESSORS[name]
    processor(machine, features)
    assert [level.name for level in processor_levels()] == expected


def test_the_highest_level_of_a_source_serves(processor):
    processor(*PROCESSORS["Zen 4"][:2])
    best = {name: best_level(built).name for name, built in SOURCES.items()}
    assert best.pop("linear_int8") == best.pop("experts_int8") == "avx512_vnni"
    assert set(best.values()) == {"avx512"}
    processor(*PROCESSORS["Skylake-SP"][:2])
    assert best_level(SOURCES["linear_int8"]).name == "avx2"
    processor(*PROCESSORS["Sandy Bridge"][:2])
    assert best_level(SOURCES["linear"]) is NATIVE


def test_a_variable_lowers_the_level_and_never_raises_it(processor, monkeypatch):
    processor(*PROCESSORS["Skylake-SP"][:2])
    monkeypatch.setenv(levels.VARIABLE, "avx2")
    assert [level.name for level in processor_levels()] == ["avx2"]
    for absent in ("avx512_vnni", "sse9"):
        monkeypatch.setenv(levels.VARIABLE, absent)
        with pytest.raises(ConfigError, match=f"{absent}.*has not; it has avx2, avx512$"):
            best_level(SOURCES["linear"])


def test_no_list_of_features_is_no_level(tmp_path, monkeypatch):
    monkeypatch.setattr(levels, "_CPUINFO", tmp_path / "absent")
    monkeypatch.delenv(levels.VARIABLE, raising=False)
    assert processor_levels() == []


def test_every_level_has_every_source_or_a_lower_one():
    for machine in ("x86_64", "aarch64"):
        lowest = machine_levels(machine)[0].name
        assert {name for name, level in libraries_of(machine) if level.name == lowest} == {*SOURCES}


@pytest.fixture(scope="module")
def libraries(tmp_path_factory):
    """Every library of this architecture, by source and level: the package's, or made."""
    folder = tmp_path_factory.mktemp("libraries")
    found = {}
    for name, level in libraries_of():
        path = FOLDER / library_name(name, level)
        if not path.exists():
            path = folder / path.name
            compile_library(find_compiler(), name, level, path)
        found[name, level.name] = path
    return found


@with_compiler
@pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump (binutils)")
@pytest.mark.skipif("avx2" not in {level.name for level in machine_levels()}, reason="x86-64 only")
def test_no_instruction_is_above_its_level(libraries):
    above = {
        "avx2": r"%zmm|%[xy]mm(1[6-9]|2\d|3[01])|%k[0-7]|vpdpbusd",
        "avx512": r"vpdp|vp2intersect|vcvtne2?ps2?.*bf16|vpopcnt[bwdq]|vpermb|gf2p8",
        "avx512_vnni": r"vp2intersect|bf16|vpopcnt[bwdq]|vpermb|gf2p8",
    }
    for (name, level), path in libraries.items():
        code = subprocess.run(["objdump", "-d", path], capture_output=True, text=True, check=True)
        found = [line for line in code.stdout.splitlines() if re.search(above[level], line)]
        assert not found, f"{name} {level}: {found[:3]}"
        assert level == "avx2" or "%zmm" in code.stdout, "the level is not used"


RUN = """
import sys, torch
torch.set_num_threads(2)
from stoker import LLM, SamplingParams
from stoker.ops.int8 import prepare_int8, quantize_rows
from stoker.ops.native.build import find_kernels
torch.manual_seed(0)
x, weight = torch.randn(37, 201), torch.randn(333, 201)
product = prepare_int8(*quantize_rows(weight))(x)
prompts = ["Say this again: check supply bar", "Sort these words: pear apple fig"] * 4
chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
texts = {}
for dtype in ("float32", "int8"):
    with LLM("stoker-tiny", dtype=dtype) as llm:
        outputs = llm.chat(chats, SamplingParams(temperature=0, max_tokens=24))
        texts[dtype] = [output.outputs[0].token_ids for output in outputs]
levels = {name: find_kernels(name).level for name in ("linear", "linear_int8", "attention")}
torch.save((levels, product, texts), sys.argv[1])
"""


@with_compiler
@pytest.mark.skipif(len(HERE) < 2, reason="this processor has one level")
def test_all_levels_of_this_processor_agree(tmp_path, monkeypatch):
    """Products of integers have the same bits, and greedy tokens are the same."""
    import torch

    found = []
    for level in HERE:
        monkeypatch.setenv(levels.VARIABLE, level)
        file = tmp_path / f"{level}.pt"
        subprocess.run([sys.executable, "-c", RUN, str(file)], check=True, cwd=FOLDER.parents[2])
        found.append(torch.load(file))
        assert found[-1][0]["linear"] == level.removesuffix("_vnni")
    for _, product, texts in found[1:]:
        assert torch.equal(product, found[0][1])
        assert texts == found[0][2]
