# SPDX-License-Identifier: Apache-2.0
"""Saving what an inference has learned, and loading it into an inference over the same model.

The files are those of the host's ``Inference.save``, with one entry more, ``transformations.json``: under which
transformation each parameter is stored, and which bijection leads to each latent variable. Without it raw numbers would
be read through whatever transformation the model has today, and mean something else.

The host's load may change some parameters and then fail, and reads no file that was written under NetworkX 3.6 or later
with an older one, nor the other way round. Here everything is checked before anything is changed, and both are read.
"""

import contextlib
import json
import os
import tempfile
import warnings
import zipfile
from typing import Any, Dict, NamedTuple

from mxfusion_mvn.bijections import describe
from mxfusion_mvn.inference._laws import Pushforward
from mxfusion_mvn.inference._names import name_of

import networkx
import numpy as np
from mxfusion.common.exceptions import InferenceError
from mxfusion.components.variables import VariableType
from mxfusion.inference.inference_parameters import InferenceParameters
from mxfusion.models import FactorGraph, Posterior
from mxfusion.util import serialization

TRANSFORMATIONS = "transformations.json"
_ENTRIES = serialization.FILENAMES


class _File(NamedTuple):
    """What a file holds; all dicts are by the uuids of the file."""

    name: str
    graphs: list
    parameters: Dict[str, Any]
    constants: Dict[str, Any]
    sizes: Dict[str, Any]
    configuration: Dict[str, Any]
    transformations: Dict[str, str]


def save(inference, zip_filename=serialization.DEFAULT_ZIP):
    """
    Save what an inference has learned.

    The host's ``Inference.load`` reads the file too, but looks at no transformation. A file of that name is replaced
    when the new one is complete.

    :param inference: a host Inference that has been run, or loaded.
    :param zip_filename: where to.
    :raises InferenceError: if there is nothing to save yet.
    """
    _check_initialized(inference, "Call its run first.")
    with tempfile.TemporaryDirectory() as folder:
        temporary = os.path.join(folder, "inference.zip")
        with _quiet():
            inference.save(temporary)
        with zipfile.ZipFile(temporary, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(TRANSFORMATIONS, json.dumps(_transformations(inference), indent=1))
        with open(temporary, "rb") as source, open(f"{zip_filename}.part", "wb") as target:
            target.write(source.read())
    os.replace(f"{zip_filename}.part", zip_filename)


def load(inference, zip_filename=serialization.DEFAULT_ZIP):
    """
    Load what another inference over the same model has learned; its parameters are then equal bit by bit.

    As in the host the constants are loaded, too. A file of the host's own save is read as well, but says nothing about
    transformations. If anything does not fit, the inference keeps the values it has.

    :param inference: a host Inference, initialised: a run does that, or ``inference.initialize(X=X.shape)``.
    :param zip_filename: the file.
    :raises InferenceError: if the inference is not initialised; if the file is of another kind, or from another model:
        with other variables, shapes, dtypes, transformations or bijections.
    """
    _check_initialized(inference, "Call its initialize with the shapes of the data, such as initialize(X=X.shape).")
    with _quiet():
        file = _read(zip_filename, inference.mxnet_context)
        today = _match(inference, file)
    _check_transformations(inference, file, today)
    _check_parameters(inference, file, today)
    params = InferenceParameters.load_parameters(
        uuid_map=today,
        mxnet_parameters=file.parameters,
        variable_constants={uuid: value for uuid, value in file.sizes.items() if uuid in today},
        mxnet_constants={uuid: value for uuid, value in file.constants.items() if uuid in today},
        context=inference.mxnet_context,
        dtype=inference.dtype,
        current_params=inference.params.param_dict,
    )
    params.update_constants({**inference.params.constants, **params.constants})
    inference.params = params
    inference.load_configuration(file.configuration, today)


def _transformations(inference):
    """What each parameter is stored under, and what leads to each latent variable, by uuid."""
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
    # Which part of which joint Gaussian counts as well: the parameters of these match by name.
    return f"{description} from {variable.factor.joint.name}[{variable.factor.start}] on"


def _read(zip_filename, ctx):
    try:
        with zipfile.ZipFile(zip_filename) as archive:
            version = json.loads(archive.read(_ENTRIES["version_file"]))["serialization_version"]
            if version != serialization.SERIALIZATION_VERSION:
                raise InferenceError(
                    f"`zip_filename`: {zip_filename} has version {version}; expected "
                    f"{serialization.SERIALIZATION_VERSION}. Load it with the MXFusion that wrote it."
                )
            return _File(
                name=str(zip_filename),
                graphs=_read_graphs(json.loads(archive.read(_ENTRIES["graphs"]))),
                parameters=serialization.load_parameters(_ENTRIES["mxnet_params"], archive, context=ctx),
                constants=serialization.load_parameters(_ENTRIES["mxnet_constants"], archive, context=ctx),
                sizes=json.loads(archive.read(_ENTRIES["variable_constants"])),
                configuration=json.loads(archive.read(_ENTRIES["configuration"])),
                transformations=_read_transformations(archive),
            )
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise InferenceError(
            f"`zip_filename`: {zip_filename} cannot be read ({error}); expected a file that save has written. Check "
            "its name. Nothing was changed."
        ) from error


def _read_transformations(archive):
    return json.loads(archive.read(TRANSFORMATIONS)) if TRANSFORMATIONS in archive.namelist() else {}


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
    """The uuid of today for each uuid of a file, as the host finds it: by the names in the graphs."""
    try:
        return FactorGraph.reconcile_graphs(inference.graphs, file.graphs[0], file.graphs[1:])
    except Exception as error:  # for a name or an edge that is missing the host raises no error of its own
        raise InferenceError(
            f"`inference`: its model or posterior has not the structure that {file.name} was saved with (no match for "
            f"{error}). Build both as they were built then. Nothing was changed."
        ) from error


def _check_transformations(inference, file, today):
    expected = _transformations(inference)
    for uuid, description in file.transformations.items():
        if uuid in today:
            _check_same(inference, file, today[uuid], "transformation", description, expected.get(today[uuid], "none"))


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
        _check_same(inference, file, uuid, "shape", stored[uuid].shape, expected[uuid].shape)
        _check_same(inference, file, uuid, "dtype", stored[uuid].dtype, np.dtype(expected[uuid].dtype).type)


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


def _check_initialized(inference, remedy):
    if not inference._initialized:
        raise InferenceError(f"`inference`: got one without parameters; expected an initialised one. {remedy}")


@contextlib.contextmanager
def _quiet():
    """Without the warnings of NetworkX 3.4 and 3.5, and those that the host gives at every load."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="networkx")
        warnings.filterwarnings("ignore", "The value .* has already been assigned in the model")
        yield
