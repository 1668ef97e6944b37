# SPDX-License-Identifier: Apache-2.0
"""The floors of the package: who may import whom; short files of tests; and that documents name files that exist."""

import ast
import re
from pathlib import Path

import mxfusion_mvn.inference
import mxfusion_mvn.testing

import pytest

PACKAGE = Path(mxfusion_mvn.__file__).parent
ROOT = PACKAGE.parent
# From the ground up. A room imports from those before it, and within itself.
FLOORS = (
    "compiler",
    "linalg",
    "checks",
    "transformations",
    "bijections",
    "structures",
    "totals",
    "gaussian",
    "missing",
    "mixture",
    "functions",
    "gluon",
    "distributions",
    "inference",
    "testing",
)
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).replace(".__init__", ""): path
    for path in PACKAGE.rglob("*.py")
    if path.parent != PACKAGE or path.stem not in ("__init__", "_version", "compat")
}


def imports(module):
    """The modules of the package that one imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mxfusion_mvn"):
            base = node.module[len("mxfusion_mvn.") :]
            for alias in node.names:
                inner = f"{base}.{alias.name}".lstrip(".")
                found.add(inner if inner in MODULES else base)
        elif isinstance(node, ast.Import):
            found |= {a.name[len("mxfusion_mvn.") :] for a in node.names if a.name.startswith("mxfusion_mvn.")}
    return (found & set(MODULES)) - {module}


def floor(module):
    return FLOORS.index(module.split(".")[0])


def test_every_module_has_a_floor():
    assert {module.split(".")[0] for module in MODULES} == set(FLOORS)


def test_no_module_imports_from_a_floor_above():
    up = [(module, other) for module in MODULES for other in imports(module) if floor(other) > floor(module)]
    assert up == []


def test_the_compiler_is_imported_by_the_loops_alone():
    users = {module for module in MODULES if any(floor(other) == 0 for other in imports(module))}
    assert {user for user in users if not user.startswith(("compiler", "inference.loops"))} == set()


def test_there_are_no_circles():
    waiting = {module: imports(module) for module in MODULES}
    while waiting:
        free = {module for module, others in waiting.items() if not others & set(waiting)}
        assert free, f"a circle among {sorted(waiting)}"
        waiting = {module: others for module, others in waiting.items() if module not in free}


def test_the_root_is_small():
    assert len(list(PACKAGE.glob("*.py"))) <= 10


def test_tests_import_by_public_names_where_there_are_some():
    modules = [mxfusion_mvn, mxfusion_mvn.structures, mxfusion_mvn.inference, mxfusion_mvn.testing]
    public = {name: module.__name__ for module in modules for name in module.__all__}
    nodes = [node for path in (ROOT / "tests").rglob("*.py") for node in ast.walk(ast.parse(path.read_text()))]
    deep = {
        f"from {node.module} import {alias.name}"
        for node in nodes
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mxfusion_mvn.")
        for alias in node.names
        if node.module.startswith(public.get(alias.name, node.module) + ".")
    }
    assert deep == set()


def test_files_of_tests_are_short_and_import_from_helpers_alone():
    sources = {path: path.read_text() for path in (ROOT / "tests").rglob("*.py")}
    assert {path.name for path, text in sources.items() if len(text.splitlines()) > 500} == set()
    assert {path.name for path, text in sources.items() if re.search(r"^(from|import) test_", text, re.M)} == set()


@pytest.mark.parametrize("document", ["docs/host.md", "docs/architecture.md"])
def test_documents_name_files_that_exist(document):
    named = set(re.findall(r"`([\w/]+\.py)", (ROOT / document).read_text()))
    missing = [n for n in named if not any((f / n).exists() for f in (PACKAGE, ROOT / "tests", ROOT))]
    assert named
    assert missing == []
