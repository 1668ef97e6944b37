# SPDX-License-Identifier: Apache-2.0
"""The native engine, an optional extension: where no C compiler is found the package installs without it, and works."""

import os
import re
import runpy
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

NATIVE = "mxfusion_mvn/compiler/native"
OPERATORS = "mxfusion_mvn/compiler/operators.py"
DIGEST = f"{NATIVE}/digest.py"
# Those that take longest come first.
SOURCES = [f"{NATIVE}/src/{name}.c" for name in ("engine_avx512", "engine_avx2", "engine", "streams")]
FORMULAS = runpy.run_path(OPERATORS)["FORMULAS"]


def line_of_c(formula):
    """A formula with the number of its inputs, as maps.h reads it."""
    inputs = max("_abc".index(name) for name in re.findall(r"\b[abc]\b", formula))
    return f"MAP{inputs}({formula})\n"


def side_by_side(compile_files, sources, **options):
    """Compile each file in a thread of its own, because each takes some ten seconds."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = pool.map(lambda source: compile_files([source], **options), sources)
        return [name for names in objects for name in names]


class BuildEngine(build_ext):
    """Compiles anew each time, because the digest is of the files as they are now."""

    def run(self):
        """Write the formulas, then build."""
        self.force = True
        Path(NATIVE, "src", "formulas.h").write_text("".join(map(line_of_c, FORMULAS)))
        super().run()

    def build_extensions(self):
        """Build with a compiler that takes the files side by side."""
        self.compiler.compile = partial(side_by_side, self.compiler.compile)
        super().build_extensions()


engine = Extension(
    "mxfusion_mvn.compiler.native._engine",
    SOURCES,
    define_macros=[("MVN_DIGEST", '"{}"'.format(runpy.run_path(DIGEST)["digest"](FORMULAS)))],
    # Not -ffast-math: infinities, nan and -0 mean what they mean in MXNet. Nor -march=native: the library chooses among
    # sets of instructions where it runs.
    extra_compile_args="-std=gnu11 -O3 -fno-math-errno -fno-trapping-math -g0".split(),
    libraries=["m"],
    optional=True,
)
# It reads MXNet's random generators as the C++ library of Linux lays them out.
setup(ext_modules=[engine] if sys.platform == "linux" else [], cmdclass={"build_ext": BuildEngine})
