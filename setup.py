"""The native extension; everything else about the package stands in pyproject.toml.

It is optional: where no C++ compiler is found, or the CPU is no x86-64, the package installs without it and the engine
runs on PyTorch and Numba. The flags name the instructions that the code uses; whether the CPU at hand has them is asked
when the engine starts, so a wheel built on one machine is safe on every other.
"""

import platform
import sys
from pathlib import Path

from setuptools import Extension, setup

SOURCES = Path("src/tokenworks/engine/native/csrc")
FLAGS = [
    *("-O3", "-std=c++17", "-fopenmp", "-Wall", "-Wextra", "-Wno-uninitialized", "-Wno-maybe-uninitialized"),
    *("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni", "-mavx512bf16", "-mfma", "-mf16c"),
]


def extensions() -> list[Extension]:
    """The extension, where its instructions can exist."""
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
        return []
    return [
        Extension(
            "tokenworks.engine.native._step",
            sources=sorted(map(str, SOURCES.glob("*.cpp"))),
            depends=sorted(map(str, SOURCES.glob("*.h"))),
            extra_compile_args=FLAGS,
            extra_link_args=["-fopenmp"],
            language="c++",
            optional=True,
        )
    ]


setup(ext_modules=extensions())
