"""Building the compiled pass: with the wheel where a compiler is, else on first use into a cache.

One library per instruction set, so that code of a newer one never ends up in a library for an
older one; the processor's best is loaded (`stage2.engine.native.library`). This module runs in the
build as well, and imports nothing else of featbank.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCES = Path(__file__).parent
AVX512 = ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma")
INSTRUCTION_SETS: dict[str, tuple[str, ...]] = {
    "avx512_bf16": (*AVX512, "-mavx512bf16"),
    "avx512": AVX512,
    "avx2": ("-mavx2", "-mfma"),
    "portable": (),
}
"""Compiler options of each instruction set, the best first."""

FLAG = {"-mavx512bf16": "avx512_bf16"}
"""Name of an option's instructions among the processor's flags, where it is another."""

FLAGS = ("-std=c++17", "-O3", "-ffp-contract=fast", "-fPIC", "-shared", "-pthread")
SECONDS = 300
"""How long a compiler may take."""


def is_x86() -> bool:
    """Whether this is an x86-64 processor."""
    return platform.machine() in ("x86_64", "AMD64")


def sets_of_this_processor() -> list[str]:
    """The instruction sets this processor has, the best first."""
    if not is_x86():
        return ["portable"]
    flags = _processor_flags()
    return [
        name
        for name, options in INSTRUCTION_SETS.items()
        if {FLAG.get(option, option[2:]) for option in options} <= flags
    ]


def _processor_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return next((set(line.split()) for line in lines if line.startswith("flags")), set())


def compiler() -> str | None:
    """The C++ compiler of ``CXX``, or the first on the path; None where there is none."""
    wanted = os.environ.get("CXX", "").split()
    candidates = [*wanted[:1], "c++", "g++", "clang++"]
    return next((path for name in candidates if (path := shutil.which(name))), None)


def library_name(instruction_set: str) -> str:
    """File name of a library, which changes with the sources and options it is made from."""
    digest = hashlib.sha256()
    for source in sorted([*SOURCES.glob("*.cpp"), *SOURCES.glob("*.h")]):
        digest.update(source.read_bytes())
    digest.update(repr((FLAGS, INSTRUCTION_SETS[instruction_set])).encode())
    return f"engine-{sys.platform}-{instruction_set}-{digest.hexdigest()[:12]}.so"


def compile_into(folder: Path, instruction_set: str) -> Path:
    """Compile the library of an instruction set; it appears whole or not at all.

    Raises
    ------
    OSError
        Where there is no compiler, the folder cannot be written, or compilation fails.
    """
    with_what = compiler()
    if with_what is None:
        raise OSError("no C++ compiler")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / library_name(instruction_set)
    with tempfile.TemporaryDirectory(dir=folder) as work:
        made = Path(work) / path.name
        options = [*FLAGS, *INSTRUCTION_SETS[instruction_set], "-o", str(made)]
        command = [with_what, *options, *map(str, sorted(SOURCES.glob("*.cpp")))]
        try:
            done = subprocess.run(
                command, check=False, capture_output=True, text=True, timeout=SECONDS
            )
        except subprocess.TimeoutExpired as error:
            raise OSError(f"{with_what} took more than {SECONDS} s") from error
        if done.returncode:
            raise OSError(f"{with_what}: {(done.stderr.strip() or 'failed').splitlines()[0]}")
        made.replace(path)
    return path
