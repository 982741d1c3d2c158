"""Which instructions the C kernels may use on this processor.

    avx2          Intel since 2013, AMD since 2015: AVX2, FMA, BMI2
    avx512        Intel servers since 2017, AMD since 2022: AVX-512 F, BW, CD, DQ, VL
    avx512_vnni   Intel servers since 2019, AMD since 2022: and products of 8-bit integers
    neon          every 64-bit ARM

A kernel is compiled for those at which its code differs, and the highest that the processor has
serves. None takes the products of bfloat16 (AVX512_BF16): they round otherwise than float32 does,
and a result would depend on the machine. Imports no torch, and is read by setup.py too.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from stoker.errors import ConfigError

VARIABLE = "STOKER_CPU_LEVEL"
_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Level:
    """A set of instructions.

    Attributes:
        machines: architectures that have it, as `platform.machine()` names them.
        needs: what Linux lists of a processor that has it, where its system keeps the registers.
        flags: what a compiler is told.
    """

    name: str
    machines: frozenset[str]
    needs: frozenset[str]
    flags: tuple[str, ...]


_X86 = frozenset({"x86_64", "AMD64"})
_AVX2 = Level(
    "avx2",
    _X86,
    frozenset(["avx2", "fma", "f16c", "bmi1", "bmi2", "abm", "movbe", "popcnt"]),
    ("-mavx2", "-mfma", "-mf16c", "-mbmi", "-mbmi2", "-mlzcnt", "-mmovbe", "-mpopcnt"),
)
_AVX512 = Level(
    "avx512",
    _X86,
    _AVX2.needs | frozenset(["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"]),
    (*_AVX2.flags, *["-mavx512f", "-mavx512bw", "-mavx512cd", "-mavx512dq", "-mavx512vl"]),
)
_VNNI = Level(
    "avx512_vnni", _X86, _AVX512.needs | {"avx512_vnni"}, (*_AVX512.flags, "-mavx512vnni")
)
_NEON = Level("neon", frozenset({"aarch64", "arm64"}), frozenset({"asimd"}), ())

LEVELS = (_AVX2, _AVX512, _VNNI, _NEON)  # of a machine's, the lowest first
NATIVE = Level("native", frozenset(), frozenset(), ("-march=native",))  # has none of them


def machine_levels(machine: str | None = None) -> list[Level]:
    """The levels that processors of this architecture may have, the lowest first."""
    return [level for level in LEVELS if (machine or platform.machine()) in level.machines]


def processor_levels() -> list[Level]:
    """The levels that this processor has, the lowest first; STOKER_CPU_LEVEL sets the highest.

    Raises:
        ConfigError: the variable names a level that the processor does not have.
    """
    features = _features(_CPUINFO)
    levels = [level for level in machine_levels() if level.needs <= features]
    highest = os.environ.get(VARIABLE)
    if not highest:
        return levels
    names = [level.name for level in levels]
    if highest not in names:
        has = f"it has {', '.join(names)}" if names else "it has none of those known"
        raise ConfigError(f"{VARIABLE} is {highest!r}, which this processor has not; {has}")
    return levels[: names.index(highest) + 1]


def best_level(built_for: Collection[str]) -> Level:
    """The highest level of this processor among those named; NATIVE if it has none of them."""
    return next((one for one in reversed(processor_levels()) if one.name in built_for), NATIVE)


def _features(cpuinfo: Path) -> frozenset[str]:
    """The instructions that Linux lists of the first processor; none where it lists nothing."""
    try:
        with cpuinfo.open() as lines:  # not all of it: it grows with the number of processors
            for line in lines:
                if line.startswith(("flags", "Features")):
                    return frozenset(line.partition(":")[2].split())
    except OSError:
        pass
    return frozenset()
