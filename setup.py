"""Puts the C kernels into the wheel, compiled for each level of processors of this architecture.

Everything else about the package stands in pyproject.toml. Without a C compiler that knows OpenMP
the wheel holds none and serves every machine; they are then compiled when first used.
"""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Command, Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build import build

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT))  # where a build in isolation does not look
from stoker.ops.native import compile as kernels  # noqa: E402

ROOM = Path("stoker/ops/native")


def compiles():
    """Whether kernels can be compiled here for the processors of this kind of machine."""
    compiler = kernels.find_compiler()
    if compiler is None or not sys.platform.startswith("linux") or not kernels.libraries_of():
        return False
    return kernels.knows_openmp(compiler)


class BuildKernels(Command):
    """Compiles the kernels: beside their sources for an editable install, else into the wheel."""

    description = "compile the C kernels"
    user_options = ()
    editable_mode = False

    def initialize_options(self):
        self.build_lib = None

    def finalize_options(self):
        self.set_undefined_options("build_py", ("build_lib", "build_lib"))

    def run(self):
        folder = (ROOT if self.editable_mode else Path(self.build_lib)) / ROOM
        folder.mkdir(parents=True, exist_ok=True)
        for earlier in folder.glob("*.so"):
            earlier.unlink()
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda one: self._compile(folder, *one), kernels.libraries_of()))

    def _compile(self, folder, name, level):
        target = folder / kernels.library_name(name, level)
        try:
            kernels.compile_library(kernels.find_compiler(), name, level, target)
        except (OSError, subprocess.CalledProcessError) as problem:
            detail = getattr(problem, "stderr", None) or problem
            self.warn(f"{name}.c is left out for {level.name}: {detail}")

    def get_outputs(self):
        return [str(path) for path in (Path(self.build_lib) / ROOM).glob("*.so")]

    def get_output_mapping(self):
        return {}

    def get_source_files(self):
        return [str(path) for path in sorted(ROOM.glob("*.[ch]"))]


class Build(build):
    """The usual build, with the kernels where they compile."""

    sub_commands = (*build.sub_commands, ("build_kernels", lambda self: self.has_ext_modules()))


class Wheel(bdist_wheel):
    """A wheel for any Python 3, on one kind of machine if it holds kernels."""

    def get_tag(self):
        _, _, machine = super().get_tag()
        return "py3", "none", machine


class Package(Distribution):
    """A package that has binaries where they compile; installers then put it with such."""

    _compiles = None

    def has_ext_modules(self):
        if self._compiles is None:
            self._compiles = compiles()
        return self._compiles


setup(
    distclass=Package,
    cmdclass={"build": Build, "build_kernels": BuildKernels, "bdist_wheel": Wheel},
)
