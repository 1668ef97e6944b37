# SPDX-License-Identifier: Apache-2.0
"""The log pdf by other libraries: reads inputs, writes results. Runs in an environment of its own (see the Makefile).

JAX needs a newer NumPy than MXNet allows, so the two cannot be in one process. Every library is called as its
documentation says, in its defaults, with arrays of the dtype in question.
"""

import sys
from importlib.metadata import version

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as numpyro
import torch
from scipy.stats import Covariance, multivariate_normal

jax.config.update("jax_enable_x64", True)  # so that float64 is possible; what is float32 stays float32
NAMES = {"covariance": "covariance_matrix", "precision": "precision_matrix", "scale_tril": "scale_tril"}


def by_torch(value, mean, matrix, form):
    """Of torch.distributions, in the dtype of the inputs."""
    value, mean, matrix = (torch.from_numpy(array) for array in (value, mean, matrix))
    return torch.distributions.MultivariateNormal(mean, **{NAMES[form]: matrix}).log_prob(value).numpy()


def by_numpyro(value, mean, matrix, form):
    """Of NumPyro, in the dtype of the inputs."""
    value, mean, matrix = (jnp.asarray(array) for array in (value, mean, matrix))
    return np.asarray(numpyro.MultivariateNormal(mean, **{NAMES[form]: matrix}).log_prob(value))


def by_scipy(value, mean, matrix, form):
    """Of SciPy, which computes in float64 whatever it is given: by eigenvalues, unless another form is passed."""
    if form == "precision":
        matrix = Covariance.from_precision(matrix)
    elif form == "scale_tril":
        matrix = Covariance.from_cholesky(matrix)
    return multivariate_normal.logpdf(value, mean, matrix)


def by_scipy_cholesky(value, mean, matrix, form):
    """Of SciPy told to use the Cholesky factor of a covariance."""
    if form != "covariance":
        return by_scipy(value, mean, matrix, form)
    factor = np.linalg.cholesky(matrix.astype("float64"))
    return multivariate_normal.logpdf(value, mean, Covariance.from_cholesky(factor))


PEERS = {
    "torch": by_torch,
    "NumPyro": by_numpyro,
    "SciPy": by_scipy,
    "SciPy (Cholesky)": by_scipy_cholesky,
}


def evaluate(log_pdf, value, mean, matrix, form):
    """One log pdf in float64, NaN where the library refuses the inputs."""
    try:
        return np.float64(log_pdf(value, mean, matrix, form))
    except (ValueError, np.linalg.LinAlgError):
        return np.nan


def main(inputs, results):
    """Evaluate every peer on every cell."""
    cells = np.load(inputs)
    found = {}
    for name in sorted({key.rsplit("/", 1)[0] for key in cells}):
        form = name.split("/")[0]
        rows = list(zip(*(cells[f"{name}/{array}"] for array in ("value", "mean", "matrix"))))
        for peer, log_pdf in PEERS.items():
            found[f"{name}/{peer}"] = np.array([evaluate(log_pdf, *row, form) for row in rows])
    versions = [f"{name} {version(name)}" for name in ("torch", "numpyro", "jax", "scipy")]
    np.savez(results, versions=np.array(versions), **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
