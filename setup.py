"""Puts the compiled pass of stage 2 into the wheel where a C++ compiler is.

Without one the wheel is pure Python, and the pass is compiled on first use, where a compiler is
then. All else stands in pyproject.toml.
"""

import importlib.util
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

NATIVE = Path("stage2", "engine", "native")
SETS = ("avx512_bf16", "avx512", "avx2")


def builder():
    """The module that compiles, loaded by its path: its package needs what is not installed yet."""
    source = Path(__file__).parent / NATIVE / "build.py"
    spec = importlib.util.spec_from_file_location("featbank_native_build", source)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Build(build_py):
    """Compiles a library for each instruction set of x86-64."""

    def run(self):
        super().run()
        build = builder()
        for earlier in Path(self.build_lib, NATIVE).glob("*.so"):  # of another build in this folder
            earlier.unlink()
        if self.editable_mode or not build.is_x86():
            return
        for name in SETS:
            try:
                build.compile_into(Path(self.build_lib) / NATIVE, name)
            except OSError as error:
                print(f"featbank: no library for {name} in the wheel ({error})", file=sys.stderr)


class Wheel(bdist_wheel):
    """Says for which platform a wheel with libraries is."""

    def finalize_options(self):
        super().finalize_options()
        build = builder()
        self.root_is_pure = not (build.compiler() and build.is_x86())

    def get_tag(self):
        python, abi, platform = super().get_tag()
        return (python, abi, platform) if self.root_is_pure else ("py3", "none", platform)


setup(cmdclass={"build_py": Build, "bdist_wheel": Wheel})
