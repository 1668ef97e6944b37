# SPDX-License-Identifier: Apache-2.0
"""Files that are damaged, made up or written by several at once: loaded right, or refused with nothing changed."""

import io
import json
import multiprocessing
import os
import threading
import zipfile

from mxfusion_mvn.inference import load, save

import mxnet as mx
import numpy as np
import pytest
from mxfusion import Model
from mxfusion.common.exceptions import InferenceError

from helpers.damaged_files import entries_of, inference_of, refusal_of, value_of, write

PARAMETERS, CONSTANTS, SIZES = "mxnet_parameters.npz", "mxnet_constants.npz", "variable_constants.json"


def npz(arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def deflated(arrays):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def announced(shape, dtype="<f4"):
    """An npz whose array says that it is larger than it is."""
    array = io.BytesIO()
    np.lib.format.write_array_header_1_0(array, {"descr": dtype, "fortran_order": False, "shape": shape})
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("m.npy", array.getvalue() + bytes(8))
    return buffer.getvalue()


def arrays_of(content):
    return dict(np.load(io.BytesIO(content)))


def change_arrays(change):
    return lambda content: npz({name: change(array) for name, array in arrays_of(content).items()})


@pytest.fixture
def file(tmp_path):
    file = str(tmp_path / "inference.zip")
    save(inference_of(mean=3.0), file)
    return file


CHANGES = {
    "NaN": (PARAMETERS, change_arrays(lambda a: a * np.nan), r"`m`: got nan at index \(0,\) .*; expected finite"),
    "infinity": (PARAMETERS, change_arrays(lambda a: a + np.inf), "`m`: got inf at index"),
    "parameter's dtype": (PARAMETERS, change_arrays(lambda a: a.astype("float64")), "`m`: got the dtype float64"),
    "parameter's shape": (PARAMETERS, change_arrays(lambda a: a[:1]), r"`m`: got the shape \(1,\)"),
    "constant's value": (
        CONSTANTS,
        change_arrays(lambda a: 9 * a),
        r"`covariance of X`: got the constant at index \(0, 0\) 9.0 .*; expected 1.0",
    ),
    "constant's shape": (CONSTANTS, change_arrays(lambda a: a[:1]), r"`covariance of X`: got the shape \(1, 2\)"),
    "constant's dtype": (CONSTANTS, change_arrays(lambda a: a.astype(int)), "`covariance of X`: got the dtype int64"),
    "10^12 entries": (PARAMETERS, lambda _: announced((10**12,)), "cannot be read"),
    "objects": (PARAMETERS, lambda _: announced((1,), "|O"), "cannot be read"),
    "zeros that unpack": (PARAMETERS, lambda _: deflated({"m": np.zeros(10**7, "f4")}), "bytes unpacked, where this"),
    "text that unpacks": ("graphs.json", lambda _: b" " * 10**7, "graphs.json has 10000000 bytes unpacked, where"),
    "deep nesting": ("graphs.json", lambda _: b"[" * 50000, "cannot be read .RecursionError"),
    "no list of graphs": ("graphs.json", lambda _: b"{}", "cannot be read|has another structure"),
    "no mapping": (SIZES, lambda _: b"[1]", "cannot be read .*a list in place of names and values"),
}
for got in ('"abc"', "-5", "1.5", "true", "null", "[5]", "NaN"):
    CHANGES[f"size {got}"] = (
        SIZES,
        lambda content, got=got: json.dumps({uuid: json.loads(got) for uuid in json.loads(content)}),
        "`N`: got the size .*; expected an integer that is not negative",
    )


@pytest.mark.parametrize("change", CHANGES)
def test_what_cannot_be_right_is_refused_by_name(file, change):
    entry, edit, message = CHANGES[change]
    entries = entries_of(file)
    write(file, {**entries, entry: edit(entries[entry])})
    inference = inference_of(mean=1.0)
    constants = dict(inference.params.constants)
    with pytest.raises(InferenceError, match=message):
        load(inference, file)
    assert value_of(inference).tolist() == [1.0, 1.0]
    assert inference.params.constants == constants


def test_a_file_of_a_model_with_another_constant_is_refused(file):
    inference = inference_of(covariance=9.0)
    with pytest.raises(InferenceError, match=r"`covariance of X`: got the constant at index .* 1.0 .*; expected 9.0"):
        load(inference, file)
    assert value_of(inference).tolist() == [0.0, 0.0]


def test_a_missing_entry_is_named(file):
    entries = entries_of(file)
    for name in sorted(set(entries) - {"transformations.json", "last_run.json"}):
        write(file, {other: content for other, content in entries.items() if other != name})
        with pytest.raises(InferenceError, match=f"cannot be read .*it has no entry '{name}'"):
            load(inference_of(), file)


def damaged(content, rng):
    """A copy with a byte inverted, a piece overwritten, or the end cut off."""
    copy, start = bytearray(content), int(rng.integers(len(content)))
    kind = rng.integers(3)
    if kind == 0:
        copy[start] ^= 255
    elif kind == 1:
        piece = rng.bytes(int(rng.integers(1, 200)))
        copy[start : start + len(piece)] = piece
    else:
        del copy[start:]
    return bytes(copy)


def test_a_damaged_file_loads_right_or_is_refused(file, rng):
    with open(file, "rb") as stream:
        content = stream.read()
    loaded = 0
    for _ in range(300):
        with open(file, "wb") as stream:
            stream.write(damaged(content, rng))
        inference = inference_of(mean=1.0)
        refusal = refusal_of(inference, file)
        loaded += refusal is None
        assert refusal is None or file in refusal
        assert value_of(inference).tolist() == ([3.0, 3.0] if refusal is None else [1.0, 1.0])
    assert 0 < loaded < 150


def save_often(file, mean, times):
    inference = inference_of(mean=mean)
    for _ in range(times):
        save(inference, file)


def test_many_save_under_one_name_while_others_load(file):
    """200 saves by two processes and two threads."""
    failures, seen = [], set()

    def save_in_a_thread(inference):
        try:
            for _ in range(50):
                save(inference, file)
        except Exception as error:
            failures.append(error)

    context = multiprocessing.get_context("spawn")  # a fork of a process with MXNet's threads may hang
    processes = [context.Process(target=save_often, args=(file, float(mean), 50)) for mean in (4, 5)]
    threads = [threading.Thread(target=save_in_a_thread, args=(inference_of(mean=mean),)) for mean in (6.0, 7.0)]
    reader = inference_of()
    for writer in processes + threads:
        writer.start()
    while any(writer.is_alive() for writer in processes + threads):
        load(reader, file)
        value = value_of(reader).tolist()
        assert value[0] == value[1]
        seen.add(value[0])
    for writer in processes + threads:
        writer.join()
    assert not failures
    assert [process.exitcode for process in processes] == [0, 0]
    assert seen <= {3.0, 4.0, 5.0, 6.0, 7.0}
    assert os.listdir(os.path.dirname(file)) == ["inference.zip"]


def test_a_save_that_fails_leaves_nothing_behind(file, monkeypatch):
    def fail(descriptor):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space left"):
        save(inference_of(mean=8.0), file)
    assert os.listdir(os.path.dirname(file)) == ["inference.zip"]
    inference = inference_of()
    load(inference, file)
    assert value_of(inference).tolist() == [3.0, 3.0]


@pytest.mark.parametrize("other", [None, 1.5, "inference", np.zeros(2), mx.nd.zeros(2), Model()], ids=repr)
def test_what_is_no_inference_is_refused(file, other):
    for function in (save, load):
        with pytest.raises(InferenceError, match=f"`inference`: got a {type(other).__name__}; expected an Inference"):
            function(other, file)


@pytest.mark.parametrize("name", [None, 3, 1.5, ["inference.zip"]], ids=repr)
def test_what_is_no_name_of_a_file_is_refused(name):
    for function in (save, load):
        with pytest.raises(InferenceError, match=f"`zip_filename`: got a {type(name).__name__}; expected the name"):
            function(inference_of(), name)
