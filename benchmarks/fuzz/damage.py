# SPDX-License-Identifier: Apache-2.0
"""Damage to saved inferences: each byte inverted in turn, and random changes of the JSON texts inside."""

import json
import os
import tempfile

from mxfusion_mvn.inference import save

import mxnet as mx
import numpy as np

from helpers.damaged_files import entries_of, inference_of, refusal_of, value_of, write

REPLACEMENTS = (None, True, -1, 0, 1.5, 1e300, "", "x", [], [None], {}, {"a": 1})


def outcomes(name, damage):
    """
    A row of the record: how many damaged copies of a file were loaded right, refused, or neither.

    :param name: the name of the damage.
    :param damage: function of the name of a file; a generator that damages the file before each yield.
    """
    count = {"loaded": 0, "refused": 0, "wrong": 0}
    inference = inference_of(mean=1.0)
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "inference.zip")
        save(inference_of(mean=3.0), file)
        for _ in damage(file):
            inference.params[inference.inference_algorithm.model.m] = mx.nd.ones(2)
            try:
                refusal = refusal_of(inference, file)
                kind = "loaded" if refusal is None else "refused"
                is_right = value_of(inference).tolist() == ([3.0, 3.0] if refusal is None else [1.0, 1.0])
                kind = kind if is_right and (refusal is None or file in refusal) else "wrong"
            except Exception as error:
                print("damaged file", type(error).__name__, error)
                kind = "wrong"
            count[kind] += 1
    return [name, sum(count.values()), *count.values()]


def invert_bytes(file):
    """Invert each byte in turn."""
    with open(file, "rb") as stream:
        content = stream.read()
    for i, byte in enumerate(content):
        with open(file, "wb") as stream:
            stream.write(content[:i] + bytes([byte ^ 255]) + content[i + 1 :])
        yield


def change_texts(file, times=600):
    """Change a random part of a random JSON text."""
    rng, entries = np.random.default_rng(0), entries_of(file)
    texts = sorted(name for name in entries if name.endswith(".json"))
    for _ in range(times):
        name = texts[rng.integers(len(texts))]
        write(file, {**entries, name: json.dumps(_changed(json.loads(entries[name]), rng))})
        yield


def _changed(value, rng):
    """A value of JSON with one part of it replaced or left out."""
    if not isinstance(value, (dict, list)) or not value or rng.random() < 0.1:
        return REPLACEMENTS[rng.integers(len(REPLACEMENTS))]
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key, copy = keys[rng.integers(len(keys))], value.copy()
    if rng.random() < 0.15:
        del copy[key]
    else:
        copy[key] = _changed(value[key], rng)
    return copy
