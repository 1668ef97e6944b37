# SPDX-License-Identifier: Apache-2.0
"""Draws of the native engine: MXNet's own, and those that are functions of a counter."""

import math

from mxfusion_mvn.compiler.graph import Node
from mxfusion_mvn.compiler.native.engine import Adam

import mxnet as mx
import numpy as np
import pytest
from scipy import stats

from helpers.native_graphs import Calls

COUNTS = [1, 2, 63, 64, 65, 127, 128, 1000, 65536, 65537, 100_000]
KINDS = {"normal": ({"loc": 0.3, "scale": 1.7}, {}), "uniform": ({"low": -0.3, "high": 2.7}, {})}


def drawn_by_mxnet(kind, count, dtype, attributes):
    return getattr(mx.nd.random, kind)(*attributes.values(), shape=(count,), dtype=dtype)


def program_of(kinds, dtype):
    """A program that draws: for each a kind, how many and its attributes."""
    calls, entries = Calls(dtype), []
    for kind, count, attributes in kinds:
        texts = {name: str(value) for name, value in attributes.items()}
        noise = [mx.nd.zeros((count,), dtype=dtype)]
        node = Node(f"_random_{kind}", [], {**texts, "shape": f"({count},)"}, [(count,)], [dtype], noise=noise)
        calls.nodes.append(node)
        entries.append(node.entry())
    program, receivers = calls.program(entries)

    def draws():
        program.run()
        program.deliver()
        return [receiver.asnumpy() for receiver in receivers]

    return program, draws


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", COUNTS)
def test_draws_are_mxnets_in_turn_with_its_own(count, kind, dtype):
    for attributes in KINDS[kind]:
        kinds = [(kind, count, attributes), ("uniform", 5, {}), (kind, 70, attributes)]
        _, draws = program_of(kinds, dtype)
        mx.random.seed(count)
        got = []
        for _ in range(2):
            pending = drawn_by_mxnet(kind, 130, dtype, attributes)
            got += draws()
            got.append(pending.asnumpy())
        got.append(mx.nd.random.normal(shape=(200,)).asnumpy())
        mx.random.seed(count)
        expected = []
        for _ in range(2):
            pending = drawn_by_mxnet(kind, 130, dtype, attributes)
            expected += [drawn_by_mxnet(*each[:2], dtype, each[2]).asnumpy() for each in kinds]
            expected.append(pending.asnumpy())
        expected.append(mx.nd.random.normal(shape=(200,)).asnumpy())
        for one, other in zip(got, expected):
            assert np.array_equal(one, other)


def test_a_seed_that_is_set_before_a_run_counts():
    _, draws = program_of([("normal", 100, {})], "float32")
    mx.random.seed(7)
    first = draws()[0]
    draws()
    mx.random.seed(7)
    assert np.array_equal(draws()[0], first)


def philox(counter, key):
    """Four words by Philox4x32-10, as published: arrays of 32 bits."""
    words, keys = [np.asarray(word, "uint64") for word in counter], list(key)
    mask = np.uint64(0xFFFFFFFF)
    for _ in range(10):
        one, other = words[0] * np.uint64(0xD2511F53), words[2] * np.uint64(0xCD9E8D57)
        words = [
            (other >> np.uint64(32)) ^ words[1] ^ np.uint64(keys[0]),
            other & mask,
            (one >> np.uint64(32)) ^ words[3] ^ np.uint64(keys[1]),
            one & mask,
        ]
        keys = [(keys[0] + 0x9E3779B9) & 0xFFFFFFFF, (keys[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return words


def test_the_reference_gives_the_published_words():
    known = {
        ((0, 0, 0, 0), (0, 0)): "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2): "408f276d 41c83b0e a20bc7c6 6d5451fd",
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
        ): "d16cfe09 94fdcceb 5001e420 24126ea1",
    }
    for (counter, key), words in known.items():
        assert [f"{int(word):08x}" for word in philox(counter, key)] == words.split()


def counted(kinds, dtype, seed=0, step=0):
    """A program whose draws are functions of a counter."""
    program, draws = program_of(kinds, dtype)
    program._program.counter, program._program.seed, program._program.step = 1, seed, step
    return program, draws


def words_of(count, stream, seed, step):
    """Words of the reference in the order of the draws: 16 blocks side by side."""
    blocks = np.arange(-(-count // 64) * 16, dtype="uint64")
    counter = [blocks, *(np.full_like(blocks, part) for part in (stream, step & 0xFFFFFFFF, step >> 32))]
    words = np.stack(philox(counter, (seed & 0xFFFFFFFF, seed >> 32)))
    return words.reshape(4, -1, 16).transpose(1, 0, 2)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("count", [1, 16, 63, 64, 65, 1000])
@pytest.mark.parametrize(("seed", "step"), [(0, 0), (1, 5), (0x123456789ABCDEF0, (7 << 32) + 3)])
def test_counted_draws_are_functions_of_published_words(seed, step, count, dtype):
    _, draws = counted([("uniform", count, {"low": -1, "high": 3}), ("normal", count, {})], dtype, seed, step)
    uniform, normal = draws()
    words = words_of(count, 0, seed, step).astype("float64")
    expected = -1 + 4 * np.floor(words / 256) / 2**24
    np.testing.assert_allclose(uniform, expected.ravel()[:count], atol=3e-7)
    words = words_of(count, 1, seed, step)
    radius = np.sqrt(-2 * np.log((np.floor(words[:, ::2].astype("float64") / 256) + 0.5) / 2**24))
    angle = 2 * np.pi * words[:, 1::2].astype("uint32").view("int32").astype("float64") / 2**32
    expected = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=2)
    np.testing.assert_allclose(normal, expected.reshape(-1)[:count], atol=3e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_counted_normals_are_normal(dtype):
    count = 2_000_000
    _, draws = counted([("normal", count, {})], dtype, seed=11)
    x = draws()[0].astype("float64")
    for power, moment in {1: 0, 2: 1, 3: 0, 4: 3, 6: 15}.items():
        assert abs(np.mean(x**power) - moment) < 4 * np.std(x**power) / math.sqrt(count)
    for tail in (1, 2, 3, 4, 4.5):
        chance = 2 * stats.norm.sf(tail)
        assert abs(np.mean(np.abs(x) > tail) - chance) < 4 * math.sqrt(chance / count)
    assert stats.kstest(x[:200_000], "norm").pvalue > 1e-3
    assert stats.kstest(x[-200_000:], "norm").pvalue > 1e-3


def test_counted_uniforms_are_uniform():
    count = 2_000_000
    _, draws = counted([("uniform", count, {})], "float32", seed=12)
    x = draws()[0].astype("float64")
    assert 0 <= x.min() < 1e-5
    assert 1 - 1e-5 < x.max() < 1
    assert abs(x.mean() - 0.5) < 4 / math.sqrt(12 * count)
    assert stats.chisquare(np.histogram(x, 1000, (0, 1))[0]).pvalue > 1e-3


def test_counted_draws_have_no_correlations():
    """Between neighbours, streams, steps and seeds, of the draws and of their squares."""
    count = 300_000
    x = {}
    for seed, step in [(1, 0), (1, 1), (1, 2), (2, 0)]:
        _, draws = counted([("normal", count, {})] * 2, "float32", seed, step)
        x[seed, step, 0], x[seed, step, 1] = draws()
    pairs = [(x[1, 0, 0][lag:], x[1, 0, 0][:-lag]) for lag in (1, 2, 4, 15, 16, 17, 32, 48, 64, 128)]
    arrays = list(x.values())
    pairs += [(one, other) for i, one in enumerate(arrays) for other in arrays[:i]]
    bound = 4.5 / math.sqrt(count)
    for one, other in pairs:
        for function in (np.asarray, np.square, np.abs):
            assert abs(np.corrcoef(function(one), function(other))[0, 1]) < bound


def test_counted_draws_do_not_depend_on_how_steps_are_put_together():
    """Steps of Adam, in one call and in several: the draws of the last, and those of a run that begins there."""
    found = []
    for parts in ([6], [1, 5], [2, 2, 2], [1] * 6):
        program, draws = counted([("normal", 1000, {}), ("uniform", 10, {})], "float32", seed=3)
        arrays = [mx.nd.zeros((1,)) for _ in range(4)]
        for part in parts:
            losses = np.zeros(part)
            assert program.train(Adam(arrays[0], arrays[1], arrays[2:]), np.full(part, 0.1), losses) == part
        assert program._program.step == 6
        found.append(draws())
    later, draws = counted([("normal", 1000, {}), ("uniform", 10, {})], "float32", seed=3, step=6)
    for other in (*found[1:], draws()):
        for one, two in zip(found[0], other):
            assert np.array_equal(one, two)
