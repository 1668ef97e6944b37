# SPDX-License-Identifier: Apache-2.0
"""Public names have types that an editor can show."""

import inspect

from mxfusion_mvn import (
    bijections,
    compat,
    distributions,
    functions,
    gaussian,
    gluon,
    inference,
    missing,
    mixture,
    structures,
    testing,
    transformations,
)

import pytest

# What MXFusion's own signatures hand over, and nobody reads.
UNTYPED = {"self", "F", "dtype", "args"}


def public(module):
    """The functions and classes that a module defines, by name."""
    names = getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]
    found = {name: getattr(module, name) for name in names}
    return {
        f"{module.__name__}.{name}": value
        for name, value in found.items()
        if callable(value) and value.__module__.startswith(module.__name__)
    }


def signature(value):
    return inspect.signature(value.__init__ if inspect.isclass(value) else value)


MODULES = (
    bijections,
    compat,
    distributions,
    functions,
    gaussian,
    gluon,
    inference,
    missing,
    mixture,
    structures,
    testing,
    transformations,
)
FUNCTIONS = {
    name: value
    for module in MODULES
    for name, value in public(module).items()
    if not inspect.isclass(value) or "__init__" in vars(value)  # else its arguments are those of a base
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_arguments_and_results_have_types(name):
    found = signature(FUNCTIONS[name])
    untyped = [
        parameter.name
        for parameter in found.parameters.values()
        if parameter.annotation is parameter.empty and parameter.name not in UNTYPED
    ]
    assert not untyped
    assert found.return_annotation is not found.empty


def test_results_name_the_classes_of_this_package():
    assert inference.summary.__annotations__["return"] == "Summary"
    assert inference.GradBasedInference.run.__annotations__["return"] == "RunRecord"


METHODS = {
    f"{of.__name__}.{name}": getattr(value, "fget", value)
    for of in (gaussian.Gaussian, missing.PartlyObserved)
    for name, value in vars(of).items()
    if not name.startswith("_")
}


@pytest.mark.parametrize("name", METHODS)
def test_methods_on_arrays_have_types(name):
    found = inspect.signature(METHODS[name])
    assert all(p.annotation is not p.empty for p in found.parameters.values() if p.name != "self")
    assert found.return_annotation is not found.empty
