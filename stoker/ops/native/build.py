"""Compiles the C sources beside it, once per machine, and loads them.

Needs a C compiler with OpenMP. Without one, `load_kernels` says so once and returns None, and the
caller takes its plain path. The library is cached under the user's cache folder by the
hash of everything that it depends on. `start_build` lets the compiler work while others do: the
command line calls it before it imports torch, the engine's maker before it reads weights.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

log = logging.getLogger(__name__)

# Reordering of sums is allowed, for SIMD; NaN and infinity keep their meaning.
FLAGS = (
    "-O3",
    "-march=native",
    "-fopenmp",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-signed-zeros",
    "-fassociative-math",
    "-shared",
    "-fPIC",
)

# Attention's sums keep the order written, whatever number of rows they are compiled for.
MORE_FLAGS = {"attention": ("-fno-associative-math",)}

# The source that takes longest to compile. Others give way to it, and to the imports meanwhile.
_LONGEST = "attention"
_NICE = ("nice", "-n", "10") if shutil.which("nice") else ()

_started: dict[str, Future[Path]] = {}


def start_build(device: str, dtype: str, quantization: str = "auto") -> None:
    """Begin to build, in the background, what a model will `load_kernels`.

    Takes the names as they are in `EngineOptions`. Calling it twice is fine; `load_kernels`
    reports problems.
    """
    linear = {
        "auto": ("linear",) if dtype in ("auto", "float32") else (),
        "int8": ("linear_int8",),
        "llm_int8": ("linear_int8", "linear"),
    }.get("int8" if dtype == "int8" else quantization, ())
    compiler = _compiler()
    if device != "cpu" or not linear or compiler is None:
        return
    names = [name for name in (*linear, "attention", "elementwise") if name not in _started]
    if names:
        pool = ThreadPoolExecutor(len(names), thread_name_prefix="stoker-build")
        _started.update({name: pool.submit(_built, _source(name), compiler) for name in names})
        pool.shutdown(wait=False)


def building() -> bool:
    """Whether a compiler that `start_build` called is still at work."""
    return not all(future.done() for future in _started.values())


@functools.cache
def load_kernels(name: str) -> ctypes.CDLL | None:
    """The library made from `name`.c, or None if it can't be built here."""
    source, compiler = _source(name), _compiler()
    if compiler is None:
        log.warning("no C compiler found: the CPU takes the slower default path")
        return None
    try:
        started = _started.get(name)
        return ctypes.CDLL(str(started.result() if started else _built(source, compiler)))
    except (OSError, subprocess.CalledProcessError) as problem:
        detail = getattr(problem, "stderr", None) or problem
        log.warning(
            "%s can't be built with %s (%s): the CPU takes the slower default path",
            source.name,
            compiler,
            str(detail).strip()[:200],
        )
        return None


def signature(function: Any, types: str) -> Callable[..., None]:
    """`function` with its C types declared: p for a pointer, i for int64_t, f for float."""
    kinds = {"p": ctypes.c_void_p, "i": ctypes.c_int64, "f": ctypes.c_float}
    function.argtypes = [kinds[letter] for letter in types if letter != " "]
    function.restype = None
    return cast(Callable[..., None], function)


def _source(name: str) -> Path:
    return Path(__file__).with_name(f"{name}.c")


def _compiler() -> str | None:
    names = (os.environ.get("CC", "cc"), "gcc", "clang")
    return next(filter(None, map(shutil.which, names)), None)


def _built(source: Path, compiler: str) -> Path:
    """The path of the shared library, compiled if it is not there yet."""
    flags = FLAGS + MORE_FLAGS.get(source.stem, ())
    texts = [path.read_bytes() for path in (source, *sorted(source.parent.glob("*.h")))]
    parts = (*texts, _version(compiler), " ".join(flags).encode(), _processor().encode())
    digest = hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stoker"
    library = folder / f"{source.stem}-{digest}.so"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        handle, scratch = tempfile.mkstemp(dir=folder, suffix=".so")
        os.close(handle)
        try:
            nice = () if source.stem == _LONGEST else _NICE
            command = [*nice, compiler, *flags, str(source), "-o", scratch]
            subprocess.run(command, capture_output=True, check=True, text=True)
            os.replace(scratch, library)  # another process may have done the same
        finally:
            Path(scratch).unlink(missing_ok=True)
    return library


@functools.cache
def _version(compiler: str) -> bytes:
    return subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout


def _processor() -> str:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
