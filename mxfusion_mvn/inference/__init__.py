# SPDX-License-Identifier: Apache-2.0
"""Inference that knows about covariance: supports, joint posteriors, and runs that can be followed.

Everything here is run by MXFusion's own ``GradBasedInference`` and ``StochasticVariationalInference``.
"""

from mxfusion_mvn.inference.grad_based_inference import GradBasedInference
from mxfusion_mvn.inference.laplace.approximation import (
    LaplaceApproximation,
    ModeNotFoundWarning,
    SingularHessianWarning,
)
from mxfusion_mvn.inference.loops.compiled import CompiledLoop
from mxfusion_mvn.inference.loops.compiled_minibatch import CompiledMinibatchLoop
from mxfusion_mvn.inference.loops.compiled_stepper import NotCompiledWarning
from mxfusion_mvn.inference.loops.imperative import BatchLoop, MinibatchLoop
from mxfusion_mvn.inference.loops.record import Plateau, RunRecord, TrainingStoppedWarning
from mxfusion_mvn.inference.map import MAP
from mxfusion_mvn.inference.results.arviz_data import to_arviz
from mxfusion_mvn.inference.results.files import load, save
from mxfusion_mvn.inference.results.summaries import summary
from mxfusion_mvn.inference.supports import register_support, support_of, unregister_support
from mxfusion_mvn.inference.unconstrained import log_density
from mxfusion_mvn.inference.variational.posteriors import (
    create_Gaussian_fullrank,
    create_Gaussian_lowrank,
    create_Gaussian_meanfield,
    unconstrained_gaussian,
)

__all__ = [
    "BatchLoop",
    "CompiledLoop",
    "CompiledMinibatchLoop",
    "GradBasedInference",
    "LaplaceApproximation",
    "MAP",
    "MinibatchLoop",
    "ModeNotFoundWarning",
    "NotCompiledWarning",
    "Plateau",
    "RunRecord",
    "SingularHessianWarning",
    "TrainingStoppedWarning",
    "create_Gaussian_fullrank",
    "create_Gaussian_lowrank",
    "create_Gaussian_meanfield",
    "load",
    "log_density",
    "register_support",
    "save",
    "summary",
    "support_of",
    "to_arviz",
    "unconstrained_gaussian",
    "unregister_support",
]
