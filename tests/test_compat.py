# SPDX-License-Identifier: Apache-2.0
"""MXNet can be imported where it is older than NumPy, and nothing is left behind."""

import subprocess
import sys
import types

from mxfusion_mvn import compat

import pytest


@pytest.fixture
def environment(monkeypatch, tmp_path):
    """A function that has a NumPy and an MXNet of our making stand in for the real ones."""

    def stand_in(numpy_version, mxnet_source, **numpy_attributes):
        numpy = types.ModuleType("numpy")
        vars(numpy).update(__version__=numpy_version, **numpy_attributes)
        monkeypatch.setitem(sys.modules, "numpy", numpy)
        monkeypatch.delitem(sys.modules, "mxnet")
        (tmp_path / "mxnet.py").write_text(mxnet_source)
        monkeypatch.syspath_prepend(str(tmp_path))
        return numpy

    return stand_in


def test_alias_is_there_while_mxnet_is_imported_and_gone_afterwards(environment):
    numpy = environment("1.26.4", "import numpy; found = numpy.bool")
    compat.import_mxnet()
    assert sys.modules["mxnet"].found is bool
    assert not hasattr(numpy, "bool")


def test_alias_is_gone_after_a_failed_import(environment):
    numpy = environment("1.24.0", "import numpy; numpy.bool; raise OSError('libmxnet.so')")
    with pytest.raises(OSError, match="^libmxnet.so$"):
        compat.import_mxnet()
    assert not hasattr(numpy, "bool")


def test_numpy_that_has_the_alias_is_left_alone(environment):
    mine = object()
    numpy = environment("1.26.4", "", bool=mine)
    compat.import_mxnet()
    assert numpy.bool is mine


def test_numpy_before_1_24_is_left_alone(environment):
    environment("1.23.5", "import numpy; found = hasattr(numpy, 'bool')")
    compat.import_mxnet()
    assert not sys.modules["mxnet"].found


def test_mxnet_that_is_there_is_left_alone(monkeypatch):
    monkeypatch.setitem(sys.modules, "numpy", None)  # importing it would fail
    compat.import_mxnet()


def test_numpy_2(environment):
    environment("2.1.0", "")
    message = "cannot run with NumPy 2.1.0: MXNet .* needs numpy<2. Run `pip install 'numpy<2'`"
    with pytest.raises(ImportError, match=message):
        compat.import_mxnet()


def test_python_3_13(monkeypatch):
    monkeypatch.setattr(compat, "sys", types.SimpleNamespace(version_info=(3, 13, 0, "final", 0), modules={}))
    message = "cannot run on Python 3.13: .* numpy<2, .* Install Python 3.8 to 3.12"
    with pytest.raises(ImportError, match=message):
        compat.import_mxnet()


@pytest.mark.parametrize(
    ("missing", "remedy"),
    [
        ("distutils", "run `pip install setuptools`"),
        ("mxnet", "run `pip install 'mxnet>=1.6,<2'`"),
        ("numpy", "run `pip install 'numpy<2'`"),
    ],
)
def test_something_is_missing(environment, missing, remedy):
    environment("1.26.4", f"raise ModuleNotFoundError('No such module', name={missing!r})")
    with pytest.raises(ModuleNotFoundError, match=f"^No such module. .*{remedy}") as caught:
        compat.import_mxnet()
    assert caught.value.name == missing


def test_something_unknown_is_missing(environment):
    environment("1.26.4", "raise ModuleNotFoundError('No such module', name='requests')")
    with pytest.raises(ModuleNotFoundError, match="^No such module$"):
        compat.import_mxnet()


# Run in a process of its own, where nothing has been imported yet. What is compared is every
# attribute of every module and class; submodules may be added, which is what importing does.
IMPORT_EVERYTHING = """
import importlib.util, pkgutil, sys, types

def contents(*packages):
    found = {}
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] in packages:
            found.update({(name, key): value for key, value in vars(module).items()})
            for owner in list(vars(module).values()):
                if isinstance(owner, type) and owner.__module__.split(".")[0] in packages:
                    found.update({(owner, key): value for key, value in vars(owner).items()})
    return found

def assert_unchanged(before, after):
    modules = {owner for owner, _ in before}
    changed = [key for key in before if key not in after or before[key] is not after[key]]
    added = [
        key
        for key in after.keys() - before.keys()
        if key[0] in modules and not isinstance(after[key], types.ModuleType)
    ]
    ignored = "__warningregistry__"  # where Python notes which warnings it has shown
    assert [key for key in changed + added if key[1] != ignored] == []

import numpy
before = contents("numpy")
spec = importlib.util.spec_from_file_location("compat", sys.argv[1])
compat = importlib.util.module_from_spec(spec)
spec.loader.exec_module(compat)
compat.import_mxnet()
import mxfusion
assert_unchanged(before, contents("numpy"))

before = contents("numpy", "mxnet", "mxfusion")
import mxfusion_mvn
for module in pkgutil.walk_packages(mxfusion_mvn.__path__, "mxfusion_mvn."):
    if module.name != "mxfusion_mvn.compiler.native._engine":  # a library of C, which has the name of a module
        importlib.import_module(module.name)
assert_unchanged(before, contents("numpy", "mxnet", "mxfusion"))
"""


def test_import_changes_nothing_elsewhere():
    run = subprocess.run(
        [sys.executable, "-c", IMPORT_EVERYTHING, compat.__file__],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
