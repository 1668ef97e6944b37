# SPDX-License-Identifier: Apache-2.0
"""A saved inference, its entries one by one, and how it is refused."""

import zipfile

from mxfusion_mvn import MultivariateNormal
from mxfusion_mvn.inference import BatchLoop, load

import mxfusion.inference as host
import numpy as np
from mxfusion import Model, Variable
from mxfusion.common.exceptions import InferenceError
from mxfusion.inference import GradBasedInference

from helpers.host import nd


def inference_of(covariance=1.0, mean=0.0, rows=5):
    """X ~ N(m, covariance), whose parameter m has the given value."""
    model = Model()
    model.N = Variable()
    model.m = Variable(shape=(2,), initial_value=nd(np.full(2, mean), "float32"))
    covariance = nd(covariance * np.eye(2), "float32")
    model.X = MultivariateNormal(mean=model.m, covariance=covariance, shape=(model.N, 2))
    inference = GradBasedInference(host.MAP(model, [model.X]), grad_loop=BatchLoop())
    inference.initialize(X=(rows, 2))
    return inference


def value_of(inference):
    return inference.params[inference.inference_algorithm.model.m].asnumpy()


def entries_of(file):
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(file, entries):
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def refusal_of(inference, file):
    """The message of our error, or None where the file is loaded."""
    try:
        load(inference, file)
    except InferenceError as error:
        return str(error)
    return None
