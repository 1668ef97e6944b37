# SPDX-License-Identifier: Apache-2.0
"""The compiler's own promises: graphs print, are checked, and rules and adjoints that fail name themselves."""

import ast
import re
import textwrap
from pathlib import Path
from types import SimpleNamespace

import mxfusion_mvn.compiler
from mxfusion_mvn.compiler import passes, rewriter
from mxfusion_mvn.compiler.derivatives.arithmetic import ADJOINTS
from mxfusion_mvn.compiler.graph import CONSTANT, PARAMETER, Graph, Node, leaf
from mxfusion_mvn.compiler.operators import OPERATORS
from mxfusion_mvn.compiler.passes import simplify
from mxfusion_mvn.compiler.rewriter import RewriteError, Rewriter, rule
from mxfusion_mvn.compiler.rules import basic, lowering, scalars
from mxfusion_mvn.compiler.symbols import check

import mxnet as mx
import numpy as np
import pytest

from helpers.expressions import EXPRESSIONS, SHAPES, weighted
from helpers.gradient_cases import CASES, arguments
from helpers.gradient_cases import SHAPES as CASE_SHAPES
from helpers.host import nd
from helpers.products import PRODUCTS
from helpers.tracing import traced

FOLDER = Path(mxfusion_mvn.compiler.__file__).parent


def small_graph():
    x, weight = (leaf(PARAMETER, mx.nd.ones(shape), key) for shape, key in (((2, 3), "x"), ((3,), "w")))
    two = leaf(CONSTANT, mx.nd.array([2.0]))
    product = Node("dot", [x.entry(), weight.entry()], {}, [(2,)], ["float32"])
    parts = Node("SliceChannel", [product.entry()], {"num_outputs": "2", "axis": "0"}, [(1,)] * 2, ["float32"] * 2)
    loss = Node("broadcast_mul", [parts.entry(1), two.entry()], {}, [(1,)], ["float32"])
    return Graph([x, weight, two, product, parts, loss], loss.entry(), loss.entry(), {"x": product.entry()})


def test_a_graph_prints_one_line_a_node():
    assert str(small_graph()).splitlines() == [
        "   p0 : parameter x (2, 3)",
        "   p1 : parameter w (3,)",
        "   c2 : constant (1,) = 2",
        "   %3 = dot(p0, p1) (2,)",
        "   %4 = SliceChannel(%3; axis=0, num_outputs=2) (1,), (1,)",
        "   %5 = broadcast_mul(%4.1, c2) (1,)",
        "loss -> %5",
        "objective -> %5",
        "result of x -> %3",
    ]


def test_the_graph_of_the_readme_is_what_is_printed(rng):
    weights, design = nd(np.ones(3), "float32"), nd(rng.normal(size=(40, 3)), "float32")
    graph = simplify(traced(lambda: 0.5 * mx.nd.sum(mx.nd.dot(design, weights).square()), {"w": weights})[1])
    text = (FOLDER / "README.md").read_text()
    assert textwrap.indent(str(graph), "    ") in text


def _exchanged(graph):
    graph.nodes[3], graph.nodes[4] = graph.nodes[4], graph.nodes[3]


def _other_shape(graph):
    graph.nodes[3].shapes[0] = (3,)


def _other_dtype(graph):
    graph.nodes[3].dtypes[0] = np.dtype("float64")


def _no_such_output(graph):
    graph.nodes[5].inputs[0] = graph.nodes[4].entry(2)


def _impossible(graph):
    graph.nodes[3].inputs.reverse()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_exchanged, "`SliceChannel`: got an input that is not computed before it"),
        (_other_shape, r"`dot`: got \(3,\), float32; MXNet infers \(\(2,\)"),
        (_other_dtype, "`dot`: got .*float64; MXNet infers"),
        (_no_such_output, "`broadcast_mul`: got an input that is not computed before it"),
        (_impossible, "MXNet refuses the graph"),
    ],
)
def test_the_checker_names_the_node_that_is_wrong(spoil, message):
    graph = small_graph()
    check(graph)
    spoil(graph)
    with pytest.raises(AssertionError, match=message):
        check(graph)


def test_the_checker_sees_a_result_that_is_not_in_the_graph():
    graph = small_graph()
    with pytest.raises(AssertionError, match="`broadcast_mul`: got a result that is not part of the graph"):
        check(graph._replace(nodes=graph.nodes[:-1]))


def test_attributes_are_decoded_by_the_table():
    node = Node("_linalg_trsm", [], {"transpose": "True", "alpha": "0.5", "lower": "0"}, [(1,)], ["float32"])
    assert [node[name] for name in ("transpose", "rightside", "lower", "alpha")] == [True, False, False, 0.5]
    assert Node("sum", [], {"axis": "(0, -1)"}, [(1,)], ["float32"])["axis"] == (0, -1)
    assert Node("sum", [], {"axis": "1"}, [(1,)], ["float32"])["axis"] == 1
    assert Node("slice", [], {"begin": "(None, 2)"}, [(1,)], ["float32"])["begin"] == (None, 2)
    with pytest.raises(KeyError, match="no_such"):
        node["no_such"]


# Rules and adjoints that fail


def _loss(name):
    x = nd([[1.0, 2.0]])
    return traced(lambda: mx.nd.sum(getattr(mx.nd, name)(x)), {"x": x})[1]


def test_a_rule_that_fails_names_itself_and_the_node(monkeypatch):
    @rule("sin")
    def careless(_, node):
        return node.inputs[1]

    monkeypatch.setattr(passes, "BASIC", (careless, *basic.BASIC))
    message = r"the rule test_compiler.careless fails at `sin` of inputs \(1, 2\): IndexError"
    with pytest.raises(RewriteError, match=message):
        simplify(_loss("sin"))


def test_rules_that_undo_each_other_are_named():
    @rule("sin")
    def there(rewriter, node):
        return rewriter.call("cos", node.inputs, node.shape)

    @rule("cos")
    def back(rewriter, node):
        return rewriter.call("sin", node.inputs, node.shape)

    with pytest.raises(RewriteError, match="the rule test_compiler.(there|back) fails .*RecursionError"):
        Rewriter((there, back), mx.cpu()).rewrite(_loss("sin"))


@pytest.mark.parametrize(
    ("adjoint", "message"),
    [
        (lambda rewriter, node, gradient: 1 / 0, "the adjoint .* fails at `sin` of inputs .*: ZeroDivisionError"),
        (lambda rewriter, node, gradient: [], r"the adjoint of `sin` gives gradients of shapes \[\] for inputs \["),
        (
            lambda rewriter, node, gradient: [rewriter.reshaped(gradient, (2,))],
            r"the adjoint of `sin` gives gradients of shapes \[\(2,\)\] for inputs \[\(1, 2\)\]",
        ),
    ],
)
def test_an_adjoint_that_is_wrong_is_refused(adjoint, message, monkeypatch):
    monkeypatch.setitem(ADJOINTS, "sin", adjoint)
    with pytest.raises(RewriteError, match=message):
        simplify(_loss("sin"))


def test_rules_of_two_passes_that_are_inverse_are_never_in_one_rewriter():
    x = nd(np.ones((40, 50)))
    graph = traced(lambda: mx.nd.sum(mx.nd.sin(x + x)), {"x": x})[1]
    both = Rewriter((*basic.BASIC, *lowering.LOWERING), mx.cpu())
    with pytest.raises(RewriteError, match="RecursionError"):
        both.rewrite(graph)


# Every rule has a case


def _rules():
    groups = (
        basic.BASIC,
        scalars.SCALARS,
        passes._DERIVED,
        lowering.LOWERING,
        lowering.LOWERING_WITHOUT_GRADIENTS,
    )
    return {each for group in groups for each in group}


def _further_cases(rng):
    """Graphs in which rules fire that the expressions of the other tests do not need."""
    square = nd(rng.normal(size=(20, 20)))
    mask, zeros = nd(np.eye(20)), nd(np.zeros((20, 20)))
    lower = nd(np.tril(np.ones((20, 20))))

    def masked():
        inner = mx.nd.where(mask, zeros, square)
        triangle = mx.nd.linalg.maketrian(mx.nd.linalg.extracttrian(inner))
        return mx.nd.sum((triangle + mx.nd.where(lower, inner, zeros)).square()) + mx.nd.sum(
            mx.nd.linalg.extractdiag(mx.nd.where(mask, square, zeros)).sin()
        )

    yield masked, {"square": square}
    row, matrix = nd(rng.normal(size=(1, 30))), nd(rng.normal(size=(30, 20)))
    yield lambda: mx.nd.sum(mx.nd.dot(row, matrix).square()), {"row": row}
    yield lambda: mx.nd.sum(mx.nd.cast(row, "float64").sin()), {"row": row}
    yield lambda: mx.nd.sum(mx.nd.linalg.trsm(lower + mask, matrix, rightside=True).sin()), {"matrix": matrix}
    yield lambda: mx.nd.sum((matrix + row.reshape((30, 1))).sin()), {"matrix": matrix, "row": row}
    yield lambda: mx.nd.sum((3 * mx.nd.sin(row)).square().sin()), {"row": row}
    yield (
        lambda: mx.nd.linalg.extracttrian(square * lower).square().sum() + mx.nd.sum(square.sin()),
        {"square": square},
    )


def test_every_rule_fires(rng, monkeypatch):
    fired = set()

    def applied(kind, function, *arguments):
        entry = function(*arguments)
        if kind == "the rule" and entry is not None:
            fired.add(function)
        return entry

    monkeypatch.setattr(rewriter, "applied", applied)
    graphs = [traced(compute, arrays)[1] for compute, arrays in _further_cases(rng)]
    for graph in graphs:
        simplify(graph, is_derived=False)
    weights = rng.normal(size=200_000)
    shape = SHAPES[1]
    arrays = {"x": nd(rng.normal(size=shape)), "row": nd(rng.normal(size=(1, 1, shape[2])))}
    arrays.update(column=nd(rng.normal(size=(1, shape[1], 1))), number=nd(rng.uniform(0.5, 2, size=(1, 1, 1))))
    arrays = {key: value.astype("float32") for key, value in arrays.items()}
    constant = nd(rng.normal(size=shape), "float32")
    graphs += [
        traced(lambda e=e: weighted(e(*arrays.values(), constant), weights), arrays)[1]  # noqa: B023
        for e in EXPRESSIONS.values()
    ]
    parameters, constants = arguments(rng, CASE_SHAPES[1], "float32")
    names = SimpleNamespace(**parameters, **constants)
    graphs += [traced(lambda c=c: _weighted_cases(c(names), weights), parameters)[1] for c in CASES.values()]
    for product in PRODUCTS.values():
        x = nd(rng.normal(size=product.shape), "float32")
        graphs.append(traced(lambda p=product, x=x: p.compute(x).sum(), {"x": x})[1])
    for graph in graphs:
        simplify(graph)
    never = {f"{each.__module__}.{each.__name__}" for each in _rules() - fired}
    assert never == set()


def _weighted_cases(values, weights):
    values = values if isinstance(values, list) else [values]
    return sum(weighted(value, weights) for value in values)


# The house rules of the room


def _sources():
    return {path.relative_to(FOLDER).as_posix(): path.read_text() for path in FOLDER.rglob("*.py")}


def test_the_compiler_imports_nothing_else_of_the_package():
    for path, text in _sources().items():
        for node in ast.walk(ast.parse(text)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            foreign = [n for n in names if n.startswith("mxfusion") and not n.startswith("mxfusion_mvn.compiler")]
            assert foreign == [], path


def test_nodes_are_keys_themselves():
    assert not [path for path, text in _sources().items() if re.search(r"[\[{(,]\s*id\((node|source|n)\)[,\]:]", text)]


def test_what_is_known_of_operators_is_in_the_table():
    """No module but the table names operators at its top level."""
    for path, text in _sources().items():
        if path == "operators.py":
            continue
        for statement in ast.parse(text).body:
            if isinstance(statement, (ast.Assign, ast.AnnAssign)):
                strings = {each.value for each in ast.walk(statement) if isinstance(each, ast.Constant)}
                assert not strings & set(OPERATORS), path


def test_equal_constants_are_kept_once(rng):
    x = nd(rng.normal(size=(4, 4)))
    values = rng.normal(size=(4, 4))
    graph = traced(lambda: mx.nd.sum(mx.nd.dot(x * nd(values), nd(values)) + x * nd(values)), {"x": x})[1]
    constants = [node.array.asnumpy() for node in simplify(graph).nodes if node.operator == CONSTANT]
    keys = {(array.shape, array.tobytes()) for array in constants}
    assert len(constants) == len(keys)


def test_an_operator_on_constants_that_fails_is_named():
    constant = leaf(CONSTANT, mx.nd.array([[1.0, 2.0], [3.0, 4.0]]))
    reverse = Node("reverse", [constant.entry()], {"axis": "-1"}, [(2, 2)], ["float32"])  # MXNet refuses such an axis
    graph = Graph([constant, reverse], reverse.entry(), reverse.entry())
    with pytest.raises(RewriteError, match=r"the rule basic\._folded fails at `reverse` of inputs \(2, 2\)"):
        Rewriter(basic.BASIC, mx.cpu()).rewrite(graph)
