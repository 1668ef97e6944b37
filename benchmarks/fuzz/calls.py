# SPDX-License-Identifier: Apache-2.0
"""
One input of the fuzz: a public name is called with arguments of all kinds, then methods of the result.

The public names are found in the package: everything that its modules list in ``__all__``, or define without an
underscore, and the constructor, methods and properties of each class that this package defines. Methods that only
MXFusion calls, with arguments it has prepared, are reached through declared variables, models and runs.
"""

import contextlib
import importlib
import inspect
import io
import re
import shutil
import traceback
import warnings
from typing import Any, Dict, NamedTuple

from mxfusion_mvn import structures
from mxfusion_mvn.functions import SampledFunction
from mxfusion_mvn.inference import supports

import mxnet as mx
import numpy as np
from mxfusion import Variable
from mxfusion.common.exceptions import InferenceError, ModelSpecificationError
from mxfusion.components import VariableType
from mxfusion.components.distributions.distribution import Distribution

from . import models
from .arguments import ALTERNATIVES, argument
from .oracles import compare
from .values import Case, in_words, numbers_in, spoil

# Of each room as many inputs as its weight says.
ROOMS = {
    **{"": 8, "structures": 5, "bijections": 3, "transformations": 2, "functions": 1, "gluon": 1, "mixture": 2},
    **{"missing": 2, "inference": 6, "testing": 0.02},
}
# What only the host or the package calls, with arguments it has prepared, and the classes behind functions.
SEAMS = {
    *("RowMap", "mend"),
    *("log_pdf_impl", "draw_samples_impl", "eval", "eval_impl", "replicate_self", "set_outputs", "reduced", "graph"),
    *("compute", "prepare_executor", "create_executor", "hybrid_forward", "MAY_BE_NAN", "SampledFunction", "Linear"),
    *("ScaleRows", "run_loop"),
}
PREPARED = (structures.RowMap, structures.Shared)
SPECIAL = ("__call__", "__getitem__", "__len__", "__repr__", "__str__")
FAILURES = ("bare", "unnamed", "silent", "wrong", "hang", "crash")


class Call(NamedTuple):
    """One step of an input. ``name`` is the qualified name, ``receiver`` None for functions and constructors."""

    name: str
    function: Any
    receiver: Any
    arguments: Dict[str, Any]
    result: Any = None

    def __str__(self):
        return f"{self.name}({', '.join(f'{name}={in_words(value)}' for name, value in self.arguments.items())})"


def public_names(room):
    """Dict from the public names of a module to their values."""
    module = importlib.import_module("mxfusion_mvn" + (f".{room}" if room else ""))
    own = (name for name, item in vars(module).items() if getattr(item, "__module__", None) == module.__name__)
    listed = getattr(module, "__all__", None) or [name for name in own if not name.startswith("_")]
    found = {name: getattr(module, name) for name in listed}
    return {name: item for name, item in found.items() if name not in SEAMS and callable(item) and not _is_base(item)}


def _is_base(item):
    """Whether nobody constructs a class: abstract classes, errors and warnings."""
    return isinstance(item, type) and (inspect.isabstract(item) or issubclass(item, BaseException))


def methods_of(item):
    """The names of the methods and properties that this package gives an object."""
    names = set()
    for kind in type(item).__mro__:
        if kind.__module__.startswith("mxfusion_mvn"):
            names.update(name for name in vars(kind) if not name.startswith("_") or name in SPECIAL)
    seams = {"log_pdf", "total_log_pdf", "draw_samples", "define_variable"} if isinstance(item, Distribution) else set()
    seams |= {"run"} if hasattr(item, "check_every") else set()
    if isinstance(item, structures.Structure) and isinstance(item.dim(), int) and item.dim() == 1:
        seams.add("condition")  # on everything
    kinds = {name: inspect.getattr_static(type(item), name) for name in names - SEAMS - seams}
    is_method = (property, classmethod, staticmethod)
    return sorted(name for name, kind in kinds.items() if isinstance(kind, is_method) or inspect.isroutine(kind))


def attempt(seed, number):
    """
    One input.

    :param seed: the seed of the whole fuzz.
    :param number: the number of the input.
    :returns: dict with the room, the outcome, the calls as text and, for a failure, its detail; and the names of the
        calls whose results were compared with an oracle.
    """
    rng = np.random.default_rng([seed, number])
    mx.random.seed(int(rng.integers(2**31)))
    np.random.seed(int(rng.integers(2**31)))
    case, chain, compared = Case(rng), [], []
    weights = np.array(list(ROOMS.values()))
    room = list(ROOMS)[rng.choice(len(ROOMS), p=weights / weights.sum())]
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            outcome, detail = _run(case, room, chain, compared)
    finally:
        _clean_up(case)
    words = " -> ".join(map(str, chain))
    room = room or "mxfusion_mvn"
    return {"number": number, "room": room, "outcome": outcome, "calls": words, "detail": detail, "compared": compared}


def _run(case, room, chain, compared):
    names = public_names(room)
    name = case.pick(sorted(names) + ["Gaussian"] * (4 if "Gaussian" in names else 0))  # it has most methods
    step, verdict = (name, names[name], None, room), None
    try:
        for left in range(case.pick([1, 1, 2]), -1, -1):
            _step(case, chain, *step)
            verdict = _judged(chain, compared)
            step = _following(case, chain[-1].result) if left and verdict is None else None
            if step is None:
                break
        mx.nd.waitall()  # a failed computation that nobody has read
    except Exception as error:
        return _classified(error, chain)
    if verdict is not None:
        return verdict
    return "right" if compared else "accepted", ""


def _following(case, result):
    """(name, function, receiver, room) of a method of a result, None if there is none."""
    if isinstance(result, tuple):
        result = case.pick(result) if result else None
    owner = type(result).__name__
    if isinstance(result, Variable):
        return _evaluation(case, result)
    if isinstance(result, mx.gluon.Block):
        result.initialize()
        return f"{owner}.__call__", lambda features: result(features), result, ""
    is_own = type(result).__module__.startswith("mxfusion_mvn") and not isinstance(result, PREPARED)
    names = methods_of(result) if is_own else []
    if not names:
        return None
    name = case.pick(names)
    if isinstance(inspect.getattr_static(type(result), name), property):
        return f"{owner}.{name}", lambda: getattr(result, name), result, ""
    return f"{owner}.{name}", getattr(result, name), result, ""


def _evaluation(case, variable):
    """The calls of MXFusion for a declared variable: its density, draws or value, for arrays with a sample axis."""
    factor = variable.factor
    if not isinstance(factor, (Distribution, SampledFunction)):
        return None
    constants = {v.uuid: v.constant for _, v in factor.inputs if v.type == VariableType.CONSTANT}
    given = {uuid: v.expand_dims(0) if isinstance(v, mx.nd.NDArray) else v for uuid, v in constants.items()}
    name = type(factor).__name__
    if isinstance(factor, SampledFunction):
        shapes = {v.uuid: v.shape for _, v in factor.inputs if v.uuid not in given}
        drawn = {uuid: case.nd(case.rng.normal(size=(2, *shape))) for uuid, shape in shapes.items()}
        case.shared["inputs"] = {n: {**given, **drawn}[v.uuid] for n, v in factor.inputs}
        return f"{name}.eval", lambda inputs: factor.eval(mx.nd, {**given, **drawn}), factor, "host"

    def draw(num_samples):
        return factor.draw_samples(mx.nd, dict(given), num_samples=num_samples)

    if case.is_chance(0.4):
        case.shared["num_samples"] = case.pick([1, 3])
        return f"{name}.draw_samples", draw, factor, "host"
    try:
        value = draw(1)[0]
        value.wait_to_read()
    except Exception:  # what cannot be drawn from: the density is called on some number
        value = mx.nd.ones(tuple(size if isinstance(size, int) else 4 for size in variable.shape))
    if case.is_chance(0.3):
        spoilt = spoil(case, value)
        is_array = type(spoilt) is mx.nd.NDArray and np.dtype(spoilt.dtype).name in ("float32", "float64")
        value = spoilt if is_array and spoilt.size and spoilt.ndim else value  # the host looks at all others
    case.shared["value"] = value
    return f"{name}.log_pdf", lambda value: factor.log_pdf(mx.nd, {**given, variable.uuid: value[None]}), factor, "host"


def _step(case, chain, name, function, receiver, room):
    owner, _, own = name.rpartition(".")
    owner = owner or (name if isinstance(function, type) else room)
    arguments = {}
    chain.append(Call(name, function, receiver, arguments))
    is_declared = isinstance(function, type) or own == "define_variable"
    forms = ALTERNATIVES.get(owner, ()) if is_declared else ()
    chosen = case.pick(forms) if forms else ()
    for parameter in _parameters(function):
        if room == "host":
            arguments[parameter.name] = case.shared[parameter.name]
        elif parameter.kind == parameter.VAR_KEYWORD:
            arguments.update(models.data(case) if case.is_chance(0.9 if own == "run" else 0.3) else {})
        elif _is_given(case, parameter, forms, chosen):
            value = argument(case, owner, own, parameter.name, receiver)
            is_endless = parameter.name == "max_iter" and isinstance(value, int) and value > 1000
            arguments[parameter.name] = 3 if is_endless else value
    chain[-1] = chain[-1]._replace(result=function(**arguments))


def _is_given(case, parameter, forms, chosen):
    if any(parameter.name in form for form in forms):
        return parameter.name in chosen or case.is_chance(0.03)
    if parameter.default is parameter.empty or parameter.name == "max_iter":
        return True  # thousands of iterations would only take time
    return case.is_chance(0.85 if parameter.name in ("shape", "mean", "dtype") else 0.25)


def _parameters(function):
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return []


def _is_taken(item):
    """Whether a Gaussian would take a structure: it checks those of NDArrays before their methods are called."""
    if not isinstance(item, structures.Structure):
        return True
    try:
        return isinstance(item.template(), mx.sym.Symbol) or item.check() is None
    except (ValueError, InferenceError):
        return False


def _judged(chain, compared):
    """The fault of the last result, (outcome, detail), or None."""
    call = chain[-1]
    if not all(map(_is_taken, (item for each in chain for item in (each.receiver, *each.arguments.values())))):
        return None
    problem, has_oracle = compare(call, chain[:-1])
    if has_oracle:
        compared.append(call.name)
    if problem is not None:
        return "wrong", problem
    results = numbers_in(call.result)
    inputs = [array for each in chain for array in numbers_in(each.arguments)]
    if not all(np.isfinite(array).all() for array in inputs) or call.name.startswith("LaplaceApproximation."):
        return None  # where there is no mode, the evidence is NaN
    weights = numbers_in(call.arguments["weights"]) if call.name in ("log_pdf", "responsibilities") else []
    if any((each < 0).any() or not each.any() for each in weights):
        return None  # these are no weights
    if any((np.abs(array) > 1e18).any() or (np.abs(array[array != 0]) < 1e-18).any() for array in inputs):
        return None  # whose squares float32 does not hold
    if any(np.isnan(array).any() for array in results):
        return "silent", f"{call.name} gave NaN"
    made = [item for each in chain for item in (each.receiver, *each.arguments.values())]
    is_singular = any(isinstance(getattr(item, "structure", item), structures.Singular) for item in made)
    if any(np.isinf(array).any() for array in results) and not is_singular:
        return "silent", f"{call.name} gave infinity"
    return None


def _classified(error, chain):
    """(outcome, detail) of an exception."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = [frame for frame in frames if "/mxfusion_mvn/" in frame.filename]
    place = f"{inside[-1].filename.split('/mxfusion_mvn/')[-1]}:{inside[-1].name}" if inside else "outside"
    text = f"{place}: {type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error) else ''}"
    last = chain[-1].name
    is_ours = bool(inside) and inside[-1] is frames[-1]
    if last.startswith("check_") and isinstance(error, AssertionError):
        return "refused", text  # what checks are for
    wanted = (InferenceError, ModelSpecificationError, ValueError)
    if last in ("save", "load") and isinstance(error, OSError):
        return "refused", text
    if last.endswith("__getitem__") and isinstance(error, KeyError):
        wanted = (*wanted, KeyError)
    if not isinstance(error, wanted) or not is_ours:
        return "bare", text
    if isinstance(error, KeyError):
        return "refused", text
    return ("refused" if _names_something(str(error), chain) else "unnamed"), text


def _names_something(message, chain):
    """Whether an argument, a function or a variable of a model stands in backticks."""
    names = {"mu", "X", "C", "L", "s", "w", "m", "N", "random_variable", "covariance", "correlation", "joint_0"}
    for call in chain:
        names.update(call.arguments, call.name.split("."), (each.name for each in _parameters(call.function)))
        names.update(str(getattr(value, "__name__", value)) for value in call.arguments.values())
    quoted = re.findall(r"`([^`]+)`", message)
    return any(word in names for text in quoted for word in [text, *re.findall(r"\w+", text)])


def _clean_up(case):
    """Undo the changes that an input may have made to the process."""
    supports._REGISTERED.clear()
    mx.npx.reset_np()
    with contextlib.suppress(Exception):
        mx.nd.waitall()
    shutil.rmtree(case.shared.get("folder", ""), ignore_errors=True)
