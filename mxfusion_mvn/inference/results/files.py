# SPDX-License-Identifier: Apache-2.0
"""Saving what an inference has learned, and loading it into an inference over the same model.

The files are those of MXFusion's ``Inference.save`` with additional entries. ``transformations.json`` holds the
transformation under which each parameter is stored, and the bijection of each latent variable: without it raw values
would be read through the present transformations of the model, and mean something else. ``last_run.json`` says how the
last run ended.

MXFusion's load may change some parameters and then fail; and with an older NetworkX it does not read files written
under NetworkX 3.6 or later, or vice versa. Here everything is checked before anything is changed, and both kinds are
read. A file may be damaged or forged: it is refused if it is larger, unpacked, than the inference expects, and nothing
in it is executed.
"""

from __future__ import annotations

import contextlib
import io
import json
import numbers
import os
import uuid as uuids
import warnings
import zipfile
from typing import Any, NamedTuple

from mxfusion_mvn.checks import plain_index
from mxfusion_mvn.inference.arguments import check_inference, refuse
from mxfusion_mvn.inference.last_runs import Ending, last_run_of, remember
from mxfusion_mvn.inference.names import name_of
from mxfusion_mvn.inference.supports import describe
from mxfusion_mvn.inference.variational.gaussians import Pushforward
from mxfusion_mvn.transformations import Scaled

import mxnet as mx
import networkx
import numpy as np
from mxfusion.common.exceptions import InferenceError
from mxfusion.components.variables import Variable, VariableType
from mxfusion.inference import Inference
from mxfusion.models import FactorGraph, Posterior
from mxfusion.util import serialization

TRANSFORMATIONS = "transformations.json"
LAST_RUN = "last_run.json"
_ENTRIES = serialization.FILENAMES
# The names, headers and checksums around one array, and the text that every file has, take no more bytes than this.
_AROUND_AN_ARRAY = 1024
_ALWAYS = 1 << 16


class _File(NamedTuple):
    """The content of a file; the keys of all dicts are the uuids of the file."""

    name: str
    graphs: list
    parameters: dict[str, np.ndarray]
    constants: dict[str, Any]
    configuration: dict[str, Any]
    transformations: dict[str, str] | None
    ending: Ending | None


def save(inference: Inference, zip_filename: str | os.PathLike = serialization.DEFAULT_ZIP) -> None:
    """
    Save what an inference has learned.

    MXFusion's ``Inference.load`` reads the file too, but ignores the transformations. An existing file is replaced once
    the new one is complete and on the disk, so that several processes may save under one name while others load.

    :param inference: an Inference that has been run, or loaded.
    :param zip_filename: the file to write.
    :raises InferenceError: if there is nothing to save yet, or *zip_filename* is not a file name.
    :raises OSError: if the file cannot be written; an existing file is untouched.
    """
    _check_initialized(inference, "Call its run first.")
    target = _path(zip_filename)
    # In the same folder, because a move across file systems copies; under a unique name, because others may be saving.
    temporary = f"{target}.{uuids.uuid4().hex}.part"
    try:
        with _quiet():
            inference.save(temporary)
        with zipfile.ZipFile(temporary, "a", zipfile.ZIP_DEFLATED) as archive:
            for name, content in _own_entries(inference).items():
                archive.writestr(name, json.dumps(content, indent=1))
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())
        os.replace(temporary, target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def load(inference: Inference, zip_filename: str | os.PathLike = serialization.DEFAULT_ZIP) -> None:
    """
    Load what another inference over the same model has learned; the parameters are then equal bit by bit.

    As in MXFusion, sizes that follow from the data are loaded, too; all other constants must be equal. A file of
    MXFusion's own save is read as well, but does not hold the transformations. If anything does not fit, the inference
    keeps its values.

    :param inference: an Inference that was initialised, by a run or by ``inference.initialize(X=X.shape)``.
    :param zip_filename: the file to read.
    :raises InferenceError: if the inference is not initialised; if the file is damaged or of another kind, or from
        another model: with other variables, shapes, dtypes, transformations, bijections or constants; for parameters
        that are not finite.
    :raises OSError: if there is no such file, or it may not be opened.
    """
    _check_initialized(inference, "Call its initialize with the shapes of the data, such as initialize(X=X.shape).")
    with _quiet():
        file = _read(_path(zip_filename), _limits(inference))
        today = _match(inference, file)
    _check_transformations(inference, file, today)
    _check_parameters(inference, file, today)
    sizes = _check_constants(inference, file, today)
    units = _new_units(inference)
    for uuid, array in file.parameters.items():
        is_older = file.transformations is not None and file.transformations.get(uuid, "none") == "none"
        array = (array / units.get(today.get(uuid), 1.0)).astype(array.dtype) if is_older else array
        inference.params.param_dict[today.get(uuid, uuid)].set_data(mx.nd.array(array, dtype=array.dtype))
    remember(
        inference.params.param_dict, {}, file.ending
    )  # its parameters no longer come from the data of its last run
    inference.params.update_constants(sizes)
    inference.load_configuration(file.configuration, today)


def _own_entries(inference):
    """The entries saved beside MXFusion's: dict from the name of each to the content that is written as JSON."""
    ending = last_run_of(inference.params.param_dict).ending
    return {TRANSFORMATIONS: _transformations(inference), LAST_RUN: ending and ending._asdict()}


def _transformations(inference):
    """The transformation of each parameter and the bijection of each latent variable, described, by uuid."""
    variables = {uuid: variable for graph in inference.graphs for uuid, variable in graph.variables.items()}
    for graph in inference.graphs:
        for module in graph.modules.values():
            variables.update({uuid: module[uuid] for uuid in module.hidden_parameters})
    return {uuid: _description(variable) for uuid, variable in variables.items() if _is_described(variable)}


def _is_described(variable):
    if variable.type == VariableType.RANDVAR:
        return getattr(variable.factor, "bijection", None) is not None
    return variable.type == VariableType.PARAMETER


def _description(variable):
    if variable.type == VariableType.PARAMETER:
        return describe(variable.transformation)
    description = describe(variable.factor.bijection)
    if not isinstance(variable.factor, Pushforward):
        return description
    # Also which slice of which joint Gaussian, because the parameters of joint Gaussians are matched by name.
    return f"{description} from {variable.factor.joint.name}[{variable.factor.start}] on"


def _limits(inference):
    """The largest number of bytes of each entry of a file of this inference, by its name."""
    arrays = [value for value in inference.params.constants.values() if isinstance(value, mx.nd.NDArray)]
    text = json.dumps([graph.as_json() for graph in inference.graphs], cls=serialization.ModelComponentEncoder)
    # For the same model names are equal, and uuids have equal length; only a file of another model is far longer.
    limits = dict.fromkeys((*_ENTRIES.values(), *_own_entries(inference)), _ALWAYS + 4 * len(text))
    limits[TRANSFORMATIONS] += 4 * len(json.dumps(_transformations(inference)))
    limits[_ENTRIES["mxnet_params"]] = _size_of(inference.params.param_dict.values())
    limits[_ENTRIES["mxnet_constants"]] = _size_of(arrays)
    return limits


def _size_of(arrays):
    sizes = [int(np.prod(array.shape)) * np.dtype(array.dtype).itemsize for array in arrays]
    return sum(sizes) + _AROUND_AN_ARRAY * (len(sizes) + 1)


def _read(zip_filename, limits):
    with open(zip_filename, "rb") as stream:
        try:
            with zipfile.ZipFile(stream) as archive:
                return _content(zip_filename, _unpack(archive, limits))
        except InferenceError:
            raise
        except Exception as error:  # zipfile, json, NumPy and MXFusion raise errors of many kinds
            raise InferenceError(
                f"`zip_filename`: {zip_filename} cannot be read ({type(error).__name__}: {error}); expected a file "
                "that save has written. Check its name; if it is damaged, take another copy. Nothing was changed."
            ) from error


def _unpack(archive, limits):
    """The entries by name, in bytes; unknown and too large ones are refused before they are unpacked."""
    for entry in archive.infolist():
        if entry.filename not in limits:
            raise ValueError(f"it has an entry {entry.filename!r}")
        _check_size(entry.filename, entry.file_size, limits[entry.filename])
    content = {name: archive.read(name) for name in archive.namelist()}
    missing = sorted(set(_ENTRIES.values()) - set(content))
    if missing:
        raise ValueError(f"it has no entry {missing[0]!r}")
    for name in (_ENTRIES["mxnet_params"], _ENTRIES["mxnet_constants"]):
        content[name] = _arrays(name, content[name], limits[name])
    return content


def _check_size(name, size, limit):
    if size > limit:
        raise ValueError(f"its {name} has {size} bytes unpacked, where this inference has no more than {limit}")


def _arrays(name, content, limit):
    """The arrays of an npz file by name."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        _check_size(name, sum(entry.file_size for entry in archive.infolist()), limit)
        return {entry[: -len(".npy")]: _array(archive.read(entry)) for entry in archive.namelist()}


def _array(content):
    """The array of an npy file; NumPy's own reader would allocate whatever size a forged header claims."""
    stream = io.BytesIO(content)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("it has arrays of an unknown version")
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    return np.frombuffer(content, dtype, offset=stream.tell()).reshape(shape, order="F" if is_fortran else "C")


def _content(zip_filename, entries):
    texts = {name: json.loads(content) for name, content in entries.items() if not isinstance(content, dict)}
    version = texts[_ENTRIES["version_file"]]["serialization_version"]
    if version != serialization.SERIALIZATION_VERSION:
        raise InferenceError(
            f"`zip_filename`: {zip_filename} has version {version}; expected "
            f"{serialization.SERIALIZATION_VERSION}. Load it with the MXFusion that wrote it."
        )
    sizes = _mapping(texts[_ENTRIES["variable_constants"]])
    return _File(
        name=str(zip_filename),
        graphs=_read_graphs(texts[_ENTRIES["graphs"]]),
        parameters=entries[_ENTRIES["mxnet_params"]],
        constants={**entries[_ENTRIES["mxnet_constants"]], **sizes},
        configuration=_mapping(texts[_ENTRIES["configuration"]]),
        transformations=_mapping(texts[TRANSFORMATIONS]) if TRANSFORMATIONS in texts else None,
        ending=_ending(texts.get(LAST_RUN)),
    )


def _ending(value):
    if value is None:
        return None
    ending = Ending(**_mapping(value))
    if not isinstance(ending.message, str) or not isinstance(ending.has_arrived, bool):
        raise ValueError(f"its {LAST_RUN} is none")
    return ending


def _mapping(value):
    if not isinstance(value, dict):
        raise ValueError(f"it has a {type(value).__name__} in place of names and values")
    return value


def _read_graphs(graphs):
    key = "edges" if "edges" in networkx.node_link_data(networkx.MultiDiGraph()) else "links"
    text = json.dumps(_with_edges_under(key, graphs))
    return FactorGraph.load_graphs(json.loads(text, cls=serialization.ModelComponentDecoder))


def _with_edges_under(key, value):
    """The graphs, and those of the modules inside them, in the form that the installed NetworkX reads."""
    if isinstance(value, list):
        return [_with_edges_under(key, item) for item in value]
    if not isinstance(value, dict):
        return value
    is_graph = "nodes" in value and ("edges" in value or "links" in value)
    return {
        key if is_graph and name in ("edges", "links") else name: _with_edges_under(key, item)
        for name, item in value.items()
    }


def _match(inference, file):
    """The present uuid for each uuid of a file, as MXFusion matches them: by the names in the graphs."""
    try:
        return FactorGraph.reconcile_graphs(inference.graphs, file.graphs[0], file.graphs[1:])
    except Exception as error:  # MXFusion has no error of its own for a name or an edge that is missing
        raise InferenceError(
            f"`inference`: its model or posterior has another structure than when {file.name} was saved (no match for "
            f"{error}). Build both as they were built then. Nothing was changed."
        ) from error


def _check_transformations(inference, file, today):
    if file.transformations is None:  # a file by MXFusion's own save
        return
    stored = {today[uuid]: text for uuid, text in file.transformations.items() if uuid in today}
    expected = _transformations(inference)
    matched, units = set(today.values()), _new_units(inference)
    for uuid in [*stored, *(uuid for uuid in expected if uuid not in stored)]:
        if uuid in matched:
            got, wanted = stored.get(uuid, "none"), expected.get(uuid, "none")
            wanted = got if got == "none" and uuid in units else wanted
            _check_same(inference, file, uuid, "transformation", got, wanted)


def _new_units(inference):
    """The units of triangles by uuid; files of earlier versions stored these triangles without units."""
    variables = {uuid: variable for graph in inference.graphs for uuid, variable in graph.variables.items()}
    scaled = {uuid: v for uuid, v in variables.items() if isinstance(getattr(v, "transformation", None), Scaled)}
    return {uuid: variable.transformation.unit for uuid, variable in scaled.items()}


def _check_parameters(inference, file, today):
    stored = {today.get(uuid, uuid): array for uuid, array in file.parameters.items()}
    expected = inference.params.param_dict
    for uuid in list(expected) + list(stored):
        if uuid not in stored or uuid not in expected:
            raise InferenceError(
                f"{_shown(inference, uuid)}: {'no value' if uuid in expected else 'a value'} in {file.name}; expected "
                f"{'one' if uuid in expected else 'none'}. Load it into the model that it was saved from. Nothing was "
                "changed."
            )
        _check_array(inference, file, uuid, stored[uuid], expected[uuid])
        bad = np.argwhere(~np.isfinite(stored[uuid]))
        if len(bad):
            index = plain_index(bad[0])
            raise InferenceError(
                f"{_shown(inference, uuid)}: got {stored[uuid][index]} at index {index} in {file.name}; expected "
                "finite numbers. The run that was saved had failed: take a file from before. Nothing was changed."
            )


def _check_constants(inference, file, today):
    """Refuse constants that differ from the present ones; return the sizes that follow from data, to be taken over."""
    shapes = [variable.shape or () for graph in inference.graphs for variable in graph.variables.values()]
    are_sizes = {size.uuid for shape in shapes for size in shape if isinstance(size, Variable)}
    constants = {today[uuid]: value for uuid, value in file.constants.items() if uuid in today}
    for uuid, value in constants.items():
        expected = inference.params.constants.get(uuid)
        if uuid in are_sizes:
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                _check_same(inference, file, uuid, "size", repr(value), "an integer that is not negative")
        elif isinstance(expected, mx.nd.NDArray) and isinstance(value, np.ndarray):
            _check_array(inference, file, uuid, value, expected)
            _check_value(inference, file, uuid, value, expected.asnumpy())
        elif isinstance(value, numbers.Real) and isinstance(expected, numbers.Real):
            _check_value(inference, file, uuid, value, expected)
        else:
            kinds = (type(kind).__name__ if kind is not None else "nothing" for kind in (value, expected))
            _check_same(inference, file, uuid, "constant", *kinds)
    return {uuid: value for uuid, value in constants.items() if uuid in are_sizes}


def _check_array(inference, file, uuid, stored, expected):
    _check_same(inference, file, uuid, "shape", stored.shape, expected.shape)
    _check_same(inference, file, uuid, "dtype", stored.dtype.type, np.dtype(expected.dtype).type)


def _check_value(inference, file, uuid, stored, expected):
    """Compare a constant with the present one, both scalars or both arrays of one shape."""
    stored, expected = np.asarray(stored), np.asarray(expected)
    different = np.argwhere((stored != expected) & ~((stored != stored) & (expected != expected)))
    if len(different):
        index = tuple(different[0])
        where = f"constant at index {plain_index(index)}" if stored.ndim else "constant"
        _check_same(inference, file, uuid, where, stored[index].item(), expected[index].item())


def _check_same(inference, file, uuid, what, stored, expected):
    if stored != expected:
        stored, expected = (getattr(found, "__name__", found) for found in (stored, expected))
        raise InferenceError(
            f"{_shown(inference, uuid)}: got the {what} {stored} in {file.name}; expected {expected}. Load it into the "
            "model that it was saved from. Nothing was changed."
        )


def _shown(inference, uuid):
    for graph in inference.graphs:
        if uuid in graph:
            return f"`{name_of(graph[uuid])}`" + (" of the posterior" if isinstance(graph, Posterior) else "")
    return f"`variable {uuid[:5]}`"


def _path(zip_filename):
    try:
        return os.fsdecode(zip_filename)
    except TypeError:
        raise InferenceError(
            f"`zip_filename`: got a {type(zip_filename).__name__}; expected the name of a file. Write 'inference.zip'."
        ) from None


def _check_initialized(inference, remedy):
    check_inference("inference", inference)
    if not inference._initialized:
        refuse("inference", "one without parameters", "an initialised one", remedy)


@contextlib.contextmanager
def _quiet():
    """Without the warnings of NetworkX 3.4 and 3.5, and without those of MXFusion at every load."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="networkx")
        warnings.filterwarnings("ignore", "The value .* has already been assigned in the model")
        yield
