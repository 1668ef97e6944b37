# SPDX-License-Identifier: Apache-2.0
"""The base of distributions that are given one square matrix: a covariance, a precision or a Cholesky factor."""

from mxfusion_mvn.distributions._base import VectorDistribution
from mxfusion_mvn.gaussian import Gaussian
from mxfusion_mvn.structures import forms


class MatrixDistribution(VectorDistribution):
    """A distribution of vectors with one matrix Sigma, in one of its three forms."""

    EVENT = {"random_variable": "D", **dict.fromkeys(forms.MATRICES, "DD")}
    CHECKS = {name: form.check for name, form in forms.MATRICES.items()}

    def _gaussian(self, mean, matrix, dim):
        """
        The Gaussian of a mean and Sigma, aligned as they are.

        :param mean: NDArray (S or 1, B..., D).
        :param matrix: dict from the name of a form to NDArray (S or 1, B..., D, D).
        :param dim: D.
        :returns: a :class:`~mxfusion_mvn.Gaussian`.
        """
        ((form, value),) = matrix.items()
        return Gaussian._of(mean, self._structure(form, value, dim))

    def _structure(self, form, matrix, dim):
        return forms.of_matrix(form, matrix, dim, self._policy(), self._full_name(form))
