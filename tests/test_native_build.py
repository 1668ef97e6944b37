# SPDX-License-Identifier: Apache-2.0
"""The library of the native engine is that of these sources, or an error says what it is and what to do."""

import ctypes
import runpy
import shutil
from pathlib import Path

from mxfusion_mvn.compiler.native import engine, shared_library
from mxfusion_mvn.compiler.native.digest import SOURCES, digest
from mxfusion_mvn.compiler.operators import FORMULAS

import mxnet as mx
import pytest

AGAIN = r"install the package again, in a clone by `pip install --no-deps --editable \.`, else with `--force-reinstall"


@pytest.fixture
def _loaded_anew():
    shared_library.library.cache_clear()
    yield
    shared_library.library.cache_clear()


def test_structures_have_the_sizes_that_they_have_in_c():
    found = (ctypes.c_int * 3).in_dll(shared_library.library(), "mvn_sizes")
    assert list(found) == [engine._INSTRUCTION.itemsize, ctypes.sizeof(engine._Program), ctypes.sizeof(engine._Adam)]


@pytest.mark.usefixtures("_loaded_anew")
@pytest.mark.parametrize("formulas", [FORMULAS[::-1], FORMULAS[:-1], [*FORMULAS, "a + a"]])
def test_a_library_of_other_formulas_is_refused(monkeypatch, formulas):
    monkeypatch.setattr(shared_library, "FORMULAS", formulas)
    with pytest.raises(shared_library.NotBuiltError, match="^it was built from other sources; " + AGAIN):
        shared_library.library()


@pytest.mark.usefixtures("_loaded_anew")
def test_a_library_from_before_there_were_digests_is_refused(monkeypatch):
    another = next(Path(mx.__file__).parent.glob("libopenblas*"))
    monkeypatch.setattr(shared_library, "path", lambda: another)
    with pytest.raises(shared_library.NotBuiltError, match="^it was built from other sources; " + AGAIN):
        shared_library.library()


@pytest.mark.usefixtures("_loaded_anew")
def test_a_damaged_library_is_refused(monkeypatch, tmp_path):
    path = tmp_path / "_engine.so"
    path.write_bytes(b"\x7fELF")
    monkeypatch.setattr(shared_library, "path", lambda: path)
    with pytest.raises(shared_library.NotBuiltError, match="^it cannot be loaded: .*_engine.so.*; " + AGAIN):
        shared_library.library()


@pytest.mark.usefixtures("_loaded_anew")
def test_without_a_library_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(shared_library.importlib.machinery, "EXTENSION_SUFFIXES", [".missing"])
    message = "^it was not built, because that needs Linux and, .*, a C compiler; install one, such as gcc, then "
    with pytest.raises(shared_library.NotBuiltError, match=message + AGAIN):
        shared_library.library()


def test_a_digest_is_of_the_formulas_and_of_all_sources_but_the_generated_one(tmp_path):
    shutil.copy(SOURCES.parent / "digest.py", tmp_path)
    digest_of_copy = runpy.run_path(str(tmp_path / "digest.py"))["digest"]
    assert digest_of_copy(FORMULAS) is None  # as in a wheel
    shutil.copytree(SOURCES, tmp_path / "src")
    (tmp_path / "src" / "formulas.h").write_text("")
    assert digest_of_copy(FORMULAS) == digest(FORMULAS)
    found = {digest_of_copy(FORMULAS), digest_of_copy(FORMULAS[::-1])}
    sources = [path for path in SOURCES.iterdir() if path.name != "formulas.h"]
    for source in sources:
        with open(tmp_path / "src" / source.name, "a") as file:
            file.write("/* */")
        found.add(digest_of_copy(FORMULAS))
    assert len(found) == 2 + len(sources)
