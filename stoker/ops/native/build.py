"""Finds the compiled kernels for this processor and loads them.

They come with the package where a compiler was at hand when it was installed (setup.py), for each
level of processors. What is missing is compiled once, when it is first used, and kept in the
user's cache folder under a digest of all that it depends on. Where there is no compiler either,
`load_kernels` returns None, and the caller takes its plain path; that is said once.
`start_build` lets the compiler work while others do: the command line calls it before it imports
torch, the engine's maker before it reads weights.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from stoker.ops.native.compile import (
    FOLDER,
    SOURCES,
    compile_library,
    find_compiler,
    library_name,
    version,
)
from stoker.ops.native.levels import NATIVE, Level, best_level

log = logging.getLogger(__name__)

# The source that takes longest to compile. Others give way to it, and to the imports meanwhile.
_LONGEST = "attention"
_NICE = ("nice", "-n", "10") if shutil.which("nice") else ()

_started: dict[str, Future[Path]] = {}
_told = False  # that the slower path is taken; once is enough


@dataclass(frozen=True)
class Kernels:
    """What there is of a source's kernels on this machine.

    Attributes:
        library: None if there is none yet.
        level: that it was compiled for.
        origin: whether it came with the package, was compiled on this machine, or will be when
            it is first used.
        reason: why there is none; else "".
    """

    library: ctypes.CDLL | None
    level: str
    origin: Literal["package", "cache", "first use", "none"]
    reason: str = ""


def start_build(device: str, dtype: str, quantization: str = "auto") -> None:
    """Begin to build, in the background, what a model will `load_kernels` and is not there yet.

    Takes the names as they are in `EngineOptions`. Calling it twice is fine; `load_kernels`
    reports problems.

    Raises:
        ConfigError: STOKER_CPU_LEVEL asks for what the processor does not have.
    """
    linear = {
        "auto": ("linear",) if dtype in ("auto", "float32") else (),
        "int8": ("linear_int8",),
        "llm_int8": ("linear_int8", "linear"),
    }.get("int8" if dtype == "int8" else quantization, ())
    if device != "cpu" or not linear:
        return
    names = [
        name
        for name in (*linear, "attention", "elementwise")
        if name not in _started
        and not (FOLDER / library_name(name, best_level(SOURCES[name]))).exists()
    ]
    compiler = find_compiler()
    if names and compiler is not None:
        pool = ThreadPoolExecutor(len(names), thread_name_prefix="stoker-build")
        _started.update({name: pool.submit(_cached, name, compiler) for name in names})
        pool.shutdown(wait=False)


def building() -> bool:
    """Whether a compiler that `start_build` called is still at work."""
    return not all(future.done() for future in _started.values())


def load_kernels(name: str) -> ctypes.CDLL | None:
    """The library made from `name`.c, or None if there is none and it can't be built here.

    Raises:
        ConfigError: STOKER_CPU_LEVEL asks for what the processor does not have.
    """
    found = find_kernels(name)
    if found.library is None:
        _tell(found.reason)
    return found.library


@functools.cache
def find_kernels(name: str) -> Kernels:
    """The kernels of `name`.c, loaded, built if need be, or the reason why there are none."""
    found = look_for_kernels(name)
    if found.origin != "first use":
        return found
    compiler = find_compiler()
    assert compiler is not None
    try:
        started = _started.get(name)
        path = started.result() if started else _cached(name, compiler)
        return Kernels(ctypes.CDLL(str(path)), found.level, "cache")
    except (OSError, subprocess.CalledProcessError) as problem:
        detail = str(getattr(problem, "stderr", None) or problem).strip()[:200]
        reason = f"{compiler} does not compile {name}.c ({detail})"
        return Kernels(None, found.level, "none", reason)


def look_for_kernels(name: str) -> Kernels:
    """As `find_kernels`, but nothing is compiled: what would be has the origin "first use".

    Torch must have been imported: the kernels share its OpenMP, which a machine need not have.
    """
    level = best_level(SOURCES[name])
    packaged, reason = FOLDER / library_name(name, level), ""
    if packaged.exists():
        try:
            return Kernels(ctypes.CDLL(str(packaged)), level.name, "package")
        except OSError as problem:
            reason = f"{packaged.name} does not load ({problem}), and "
    compiler = find_compiler()
    if compiler is None:
        return Kernels(None, level.name, "none", f"{reason}there is no C compiler")
    try:
        cached = _cache_path(name, level, compiler)
        library = ctypes.CDLL(str(cached)) if cached.exists() else None
    except (OSError, subprocess.CalledProcessError) as problem:
        return Kernels(None, level.name, "none", f"{reason}{compiler} does not run ({problem})")
    return Kernels(library, level.name, "first use" if library is None else "cache")


def leave_unsaid() -> None:
    """Do not say that the slower path is taken: another process says it."""
    global _told  # noqa: PLW0603
    _told = True


def signature(function: Any, types: str) -> Callable[..., None]:
    """`function` with its C types declared: p for a pointer, i for int64_t, f for float."""
    kinds = {"p": ctypes.c_void_p, "i": ctypes.c_int64, "f": ctypes.c_float}
    function.argtypes = [kinds[letter] for letter in types if letter != " "]
    function.restype = None
    return cast(Callable[..., None], function)


def cache_folder() -> Path:
    """Where kernels that were compiled on this machine are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stoker"


def _tell(reason: str) -> None:
    if not _told:
        log.warning(
            "no compiled kernels: %s; the CPU takes slower paths (stoker doctor says more)",
            reason,
        )
        leave_unsaid()


def _cached(name: str, compiler: str) -> Path:
    """The library in the cache folder, compiled if it is not there yet."""
    level = best_level(SOURCES[name])
    library = _cache_path(name, level, compiler)
    if not library.exists():
        compile_library(compiler, name, level, library, () if name == _LONGEST else _NICE)
    return library


def _cache_path(name: str, level: Level, compiler: str) -> Path:
    return cache_folder() / library_name(name, level, version(compiler), _processor(level))


def _processor(level: Level) -> bytes:
    """What a library depends on beside its level."""
    if level is not NATIVE:
        return b""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor().encode()
    found = (line for line in lines if line.startswith(("flags", "Features")))
    return next(found, "").encode()
