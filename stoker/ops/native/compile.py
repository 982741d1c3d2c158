"""Compiles the C sources beside it into shared libraries, each for one level of processors.

A library is named by its source, its level and a digest of what it is made from, so one that was
made from other sources is never loaded:

    linear-avx512-3f2a90c17be04d55.so

Imports nothing beyond the standard library: setup.py puts these libraries into a wheel, and
build.py makes what is missing when it is first used.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence as Seq
from pathlib import Path

from stoker.ops.native.levels import Level, machine_levels

FOLDER = Path(__file__).parent

# Each source, and the levels at which its code differs.
SOURCES = {
    "attention": ("avx2", "avx512", "neon"),
    "delta_rule": ("avx2", "avx512", "neon"),
    "elementwise": ("avx2", "avx512", "neon"),
    "experts": ("avx2", "avx512", "neon"),
    "experts_int8": ("avx2", "avx512_vnni", "neon"),
    "linear": ("avx2", "avx512", "neon"),
    "linear_int8": ("avx2", "avx512_vnni", "neon"),
    "routing": ("avx2", "avx512", "neon"),
    "state_space": ("avx2", "avx512", "neon"),
}

# Reordering of sums is allowed, for SIMD; NaN and infinity keep their meaning.
FLAGS = (
    "-O3",
    "-fopenmp",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-signed-zeros",
    "-fassociative-math",
    "-shared",
    "-fPIC",
)

# Attention's sums keep the order written, whatever number of rows they are compiled for. Those of
# 8-bit products are of integers, and what scales them is as written at every level. A scan
# gives the same for any number of tokens.
MORE_FLAGS = {
    "attention": ("-fno-associative-math",),
    "experts_int8": ("-fno-associative-math",),
    "delta_rule": ("-fno-associative-math",),
    "linear_int8": ("-fno-associative-math",),
    "state_space": ("-fno-associative-math",),
}


def find_compiler() -> str | None:
    """The path of a C compiler: $CC, cc, gcc or clang; None if there is none."""
    names = (os.environ.get("CC", "cc"), "gcc", "clang")
    return next(filter(None, map(shutil.which, names)), None)


def knows_openmp(compiler: str) -> bool:
    """Whether the compiler is whole enough for the kernels: a clang may lack its OpenMP."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "try.c", Path(folder) / "try.so"
        source.write_text("#include <omp.h>\nint threads(void) { return omp_get_max_threads(); }\n")
        command = [compiler, "-fopenmp", "-shared", "-fPIC", str(source), "-o", str(target)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


def libraries_of(machine: str | None = None) -> list[tuple[str, Level]]:
    """The libraries that a wheel for this architecture holds: names of sources, and levels."""
    levels = machine_levels(machine)
    return [(name, one) for name, built in SOURCES.items() for one in levels if one.name in built]


def library_name(name: str, level: Level, *more: bytes) -> str:
    """The file name of the library of `name`.c for `level`; `more` goes into the digest."""
    texts = [path.read_bytes() for path in (FOLDER / f"{name}.c", *sorted(FOLDER.glob("*.h")))]
    parts = (*texts, " ".join(_flags(name, level)).encode(), *more)
    digest = hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
    return f"{name}-{level.name}-{digest}.so"


def compile_library(
    compiler: str, name: str, level: Level, target: Path, prefix: Seq[str] = ()
) -> None:
    """Compile `name`.c for `level` into the file `target`, which appears when it is whole.

    Args:
        prefix: a command that runs the compiler, such as nice.

    Raises:
        CalledProcessError: the compiler refused; its `stderr` says why.
        OSError: it did not start, or the file can't be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, scratch = tempfile.mkstemp(dir=target.parent, suffix=".so")
    os.close(handle)
    try:
        flags = _flags(name, level)
        command = [*prefix, compiler, *flags, str(FOLDER / f"{name}.c"), "-o", scratch]
        subprocess.run(command, capture_output=True, check=True, text=True)
        os.chmod(scratch, 0o755)
        os.replace(scratch, target)  # another process may have done the same
    finally:
        Path(scratch).unlink(missing_ok=True)


@functools.cache
def version(compiler: str) -> bytes:
    """What the compiler says of itself."""
    return subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout


def _flags(name: str, level: Level) -> tuple[str, ...]:
    return (*FLAGS, *level.flags, *MORE_FLAGS.get(name, ()))
