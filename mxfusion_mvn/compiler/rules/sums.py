# SPDX-License-Identifier: Apache-2.0
"""The objective, a sum of sums, summed term by term.

An objective is a sum of log densities, each summed over rows and averaged over draws. It is split into its linear
parts::

    sum_i (a_i + c b_i) = sum_i a_i + c sum_i b_i        sum_i a_i b_i = <a, b>        sum_i x = n x

so that broadcast arrays are not summed at all, constants are summed once, and a sum of products is a dot product, which
is much faster than MXNet's sum. The gradients are those of the sum; the loss itself is summed in another order.
"""

from typing import Any, Dict, NamedTuple

from mxfusion_mvn.compiler.graph import CONSTANT, Entry
from mxfusion_mvn.compiler.operators import having, traits
from mxfusion_mvn.compiler.rules.scalars import scaled
from mxfusion_mvn.compiler.thresholds import JOINED_ARRAYS, JOINED_SIZE

import numpy as np


class Term(NamedTuple):
    """A float times the sum of an array."""

    factor: float
    entry: Entry


def summed(rewriter, entry, is_joined=False):
    """
    A total, summed term by term.

    :param rewriter: :class:`~mxfusion_mvn.compiler.rewriter.Rewriter`.
    :param entry: entry of size 1.
    :param is_joined: whether to join small arrays and sum them at once; not worth it if the sum will be differentiated.
    :returns: an entry of the same shape; *entry* itself, if its size is not 1.
    """
    if entry.size != 1:
        return entry
    return rewriter.reshaped(_total(rewriter, entry, is_joined), entry.shape)


def _total(rewriter, entry, is_joined=False):
    """The sum of an array, an entry of shape (1,)."""
    terms, offset, dtype = [], 0.0, entry.dtype
    stack = [Term(1.0, entry)]
    while stack:
        factor, entry = stack.pop()
        parts = _parts(entry)
        if entry.is_a(CONSTANT):
            offset += factor * float(entry.node.array.asnumpy().sum(dtype="float64"))
        elif parts is None:
            terms.append(Term(factor, entry))
        else:
            offset += factor * parts[1]
            stack.extend(Term(factor * part.factor, part.entry) for part in reversed(parts[0]))
    terms = _collected(terms)
    if is_joined:
        terms = _joined(rewriter, terms)
    terms = [_single(rewriter, term) for term in terms]
    return _combination(rewriter, terms, offset) if terms else rewriter.constant(np.full((1,), offset), dtype)


def _joined(rewriter, terms):
    """Join small arrays that would be summed one by one: the sum of all is one dot product with their factors."""
    small = [
        term for term in terms if 1 < term.entry.size <= JOINED_SIZE and not traits(term.entry.node.operator).product
    ]
    if len(small) < JOINED_ARRAYS:
        return terms
    sizes = [term.entry.size for term in small]
    dtype = small[0].entry.dtype
    parts = [rewriter.reshaped(term.entry, (size,)) for term, size in zip(small, sizes)]
    joined = rewriter.call("Concat", parts, (sum(sizes),), {"dim": 0})
    factors = rewriter.constant(np.repeat([term.factor for term in small], sizes).astype(dtype), dtype)
    total = Term(1.0, rewriter.call("dot", [joined, factors], (1,)))
    return [term for term in terms if term not in small] + [total]


def _collected(terms):
    """One term for each array, without those that cancel."""
    factors: Dict[Any, float] = {}
    for factor, entry in terms:
        factors[entry] = factors.get(entry, 0.0) + factor
    return [Term(factor, entry) for entry, factor in factors.items() if factor]


def _parts(entry):
    """
    The linear parts of the sum of an array.

    :returns: a list of terms and a float to be added; None if the array is not linear in others.
    """
    node = entry.node
    size, name = entry.size, node.operator
    if traits(name).sign:
        signs = 1, traits(name).sign
        return [Term(sign * size / part.size, part) for sign, part in zip(signs, node.inputs)], 0.0
    if name == "add_n":
        return [Term(1.0, part) for part in node.inputs], 0.0
    if traits(name).reorders or name in ("broadcast_to", "sum", "mean") and len(node.shapes) == 1:
        repeated = size / node.inputs[0].size if name in ("broadcast_to", "mean") else 1.0
        return [Term(repeated, node.inputs[0])], 0.0
    return _scaled_parts(node, size)


def _scaled_parts(node, size):
    name = node.operator
    if name == "negative":
        return [Term(-1.0, node.inputs[0])], 0.0
    if name in ("_mul_scalar", "_div_scalar", "_plus_scalar", "_minus_scalar", "_rminus_scalar"):
        number = node["scalar"]
        factors = {"_mul_scalar": number, "_div_scalar": 1 / number if number else np.inf, "_rminus_scalar": -1.0}
        offsets = {"_plus_scalar": number * size, "_minus_scalar": -number * size, "_rminus_scalar": number * size}
        factor = factors.get(name, 1.0)
        return ([Term(factor, node.inputs[0])], offsets.get(name, 0.0)) if np.isfinite(factor) else None
    return None


def _single(rewriter, term):
    """The sum of an array that is not linear in others, as a term whose entry has shape (1,)."""
    factor, entry = term
    if entry.size == 1 and not entry.is_a(*having("multiplication", "division")):
        return Term(factor, rewriter.reshaped(entry, (1,)))
    if traits(entry.node.operator).product:
        product = _product(rewriter, entry.node)
        if product is not None:
            return Term(factor * product.factor, product.entry)
    return Term(factor, rewriter.call("sum", [entry], (1,)) if entry.size > 1 else rewriter.reshaped(entry, (1,)))


def _product(rewriter, node):
    """The sum of a product as a term: <a, b>, or s <a, 1> or <a, 1> / s for s of one entry; else None."""
    left, right = node.inputs * 2 if node.operator == "square" else node.inputs
    is_division = traits(node.operator).division
    if left.size == 1 and not is_division:
        left, right = right, left
    if right.size == 1:
        number, right = _without_factor(right)
        factor, left = (1.0, _total(rewriter, left)) if left.size > 1 else _without_factor(left)
        shape = [rewriter.reshaped(entry, (1,)) for entry in (left, right)]
        product = rewriter.call("elemwise_div" if is_division else "elemwise_mul", shape, (1,))
        return Term(factor / number if is_division else factor * number, product)
    if is_division or left.shape != right.shape:
        return None
    flat = [rewriter.reshaped(entry, (entry.size,)) for entry in (left, right)]
    return Term(1.0, rewriter.call("dot", flat, (1,)))


def _without_factor(entry):
    """The scalar factor of an entry, and the rest: (c, x) for c x."""
    factor = 1.0
    while entry.is_a("_mul_scalar", "_div_scalar", "negative", "Reshape"):
        number = -1.0 if entry.is_a("negative") else 1.0 if entry.is_a("Reshape") else entry.node["scalar"]
        if not number or not np.isfinite(number):
            break
        factor = factor / number if entry.is_a("_div_scalar") else factor * number
        entry = entry.inputs[0]
    return factor, entry


def _combination(rewriter, terms, offset):
    """sum_i factor_i term_i + offset, with one multiplication for each distinct factor."""
    groups: Dict[float, list] = {}
    for factor, entry in terms:
        groups.setdefault(factor, []).append(entry)
    parts = [scaled(rewriter, _added(rewriter, entries), factor) for factor, entries in groups.items()]
    total = _added(rewriter, parts)
    return rewriter.call("_plus_scalar", [total], (1,), {"scalar": repr(offset)}) if offset else total


def _added(rewriter, entries):
    if len(entries) == 1:
        return entries[0]
    if len(entries) == 2:
        return rewriter.call("elemwise_add", entries, (1,))
    return rewriter.call("add_n", entries, (1,))
