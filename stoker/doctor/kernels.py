"""Which C kernels serve a CPU's operations, and what serves in their place."""

from __future__ import annotations

import os
from collections.abc import Iterator

from stoker.doctor.finding import Finding
from stoker.ops.native.build import Kernels, look_for_kernels
from stoker.ops.native.compile import SOURCES, find_compiler
from stoker.ops.native.levels import NATIVE, VARIABLE, best_level, processor_levels

# An operation, the source of its kernel, and what serves without one.
OPERATIONS = (
    ("attention, float32", "attention", "torch's operations"),
    ("linear maps, float32", "linear", "oneDNN, by way of torch"),
    ("linear maps, int8", "linear_int8", "its plain definition, which saves no time"),
    ("experts, float32", "experts", "a loop over experts"),
    ("experts, int8", "experts_int8", "a loop over experts"),
    ("routing", "routing", "torch's operations"),
    ("norms, rotation, draws", "elementwise", "torch's operations"),
    ("convolutions, scans", "state_space", "torch's operations, a token after the other"),
    ("delta rule", "delta_rule", "torch's operations, a token after the other"),
)
_ORIGINS = {
    "package": "came with the package",
    "cache": "compiled on this machine",
    "first use": "will be compiled at the first use, in some seconds",
}
_INSTALL = (
    "install a C compiler with OpenMP (gcc), then Stoker again, or let the first run compile: "
    "compiled kernels are several times as fast"
)


def examine_kernels() -> Iterator[Finding]:
    """A finding for each operation, and one for the processor.

    Raises:
        ConfigError: STOKER_CPU_LEVEL asks for what the processor does not have.
    """
    yield _processor()
    for subject, name, otherwise in OPERATIONS:
        kernels = look_for_kernels(name)
        facts = {"source": name, "level": kernels.level, "origin": kernels.origin}
        if kernels.origin == "none":
            yield Finding(subject, otherwise, kernels.reason, _advice(kernels), facts)
        else:
            found = f"C kernel, {kernels.level}"
            yield Finding(subject, found, _ORIGINS[kernels.origin], "", facts)
    yield Finding("bfloat16, float16", "torch's operations", "the C kernels compute in float32")


def _processor() -> Finding:
    levels = [level.name for level in processor_levels()]
    asked = os.environ.get(VARIABLE)
    facts = {"levels": levels, "asked": asked, "compiler": find_compiler()}
    best = {best_level(built).name for built in SOURCES.values()}
    if best == {NATIVE.name}:
        why = "no level that kernels are made for in advance; a compiler makes them for this one"
        return Finding("processor", "other", why, "", facts)
    advice = f"unset {VARIABLE} if a higher level is there" if asked else ""
    why = f"{VARIABLE} allows no more" if asked else ""
    return Finding("processor", " ".join(levels), why, advice, facts)


def _advice(kernels: Kernels) -> str:
    if find_compiler() is None:
        return _INSTALL
    return f"mend the compiler, or name another in CC: {kernels.reason}"
