# SPDX-License-Identifier: Apache-2.0
"""Objectives of many kinds: inference algorithms with the distributions, functions and modules of the host and ours.

Each function returns an algorithm and its data, a dict from name to NumPy array.
"""

import mxfusion_mvn as mvn
from mxfusion_mvn import inference as ours
from mxfusion_mvn.transformations import LowerCholesky, Positive, PositiveDefinite

import mxnet as mx
import numpy as np
from mxfusion import Model, Variable
from mxfusion.components import distributions as host
from mxfusion.components.distributions.gp.kernels import RBF
from mxfusion.components.functions import MXFusionGluonFunction
from mxfusion.components.functions.operators import broadcast_to, dot
from mxfusion.components.variables import PositiveTransformation
from mxfusion.inference import (
    MAP,
    ScoreFunctionInference,
    ScoreFunctionRBInference,
    StochasticVariationalInference,
    create_Gaussian_meanfield,
)
from mxfusion.models import Posterior
from mxfusion.modules.gp_modules import GPRegression, SparseGPRegression, SVGPRegression

from helpers.host import nd

N = 12
RANDOM = np.random.RandomState(8)
REAL = RANDOM.normal(size=(N, 1))
UNIT = RANDOM.uniform(0.1, 0.9, size=(N, 1))
VECTORS = RANDOM.normal(size=(N, 3))
SPD = np.array([[2.0, 0.3, 0.1], [0.3, 1.5, 0.2], [0.1, 0.2, 1.0]])
MATRICES = np.stack([SPD, 2 * SPD, SPD + np.eye(3)])


def free(value, transformation=None, dtype="float32"):
    """A parameter that is learned."""
    return Variable(shape=np.shape(value), transformation=transformation, initial_value=nd(value, dtype))


def positive(value, dtype="float32"):
    return free(value, PositiveTransformation(), dtype)


def likelihood(define, data, **parameters):
    """MAP of the parameters of one random variable Y, which `define` makes of them and of a shape."""
    model = Model()
    for name, parameter in parameters.items():
        setattr(model, name, parameter)
    named = {name: getattr(model, name) for name in parameters}
    model.Y = define(shape=data.shape, **named)
    return MAP(model, [model.Y]), {"Y": data}


def univariate(define, data, **parameters):
    """The same for a distribution of the host, whose parameters are broadcast to all rows."""

    def define_broadcast(shape, **named):
        return define(shape=shape, **{name: broadcast_to(variable, shape) for name, variable in named.items()})

    return likelihood(define_broadcast, data, **parameters)


def categorical():
    data = RANDOM.randint(0, 3, size=(N, 1)).astype("float32")

    def define(shape, log_prob):
        return host.Categorical.define_variable(broadcast_to(log_prob, (N, 3)), num_classes=3, shape=shape)

    return likelihood(define, data, log_prob=free([[0.1, 0.2, 0.3]]))


def bernoulli():
    def define(shape, prob_true):
        return host.Bernoulli.define_variable(broadcast_to(prob_true, shape), shape=shape)

    return likelihood(define, (UNIT > 0.4).astype("float32"), prob_true=positive([[0.6]]))


def dirichlet():
    data = np.random.RandomState(1).dirichlet([2.0, 3.0, 4.0], size=N)

    def define(shape, alpha):
        return host.Dirichlet.define_variable(broadcast_to(alpha, shape), shape=shape)

    return likelihood(define, data, alpha=positive([[1.0, 2.0, 1.5]]))


def host_multivariate():
    def define(shape, mean, covariance):
        return host.MultivariateNormal.define_variable(
            mean=broadcast_to(mean, (N, 3)), covariance=broadcast_to(covariance, (N, 3, 3)), shape=shape
        )

    covariance = free(SPD[None], PositiveDefinite())
    return likelihood(define, VECTORS, mean=free(np.zeros((1, 3))), covariance=covariance)


def latent_normal(draw=host.Normal.define_variable):
    """Y ~ N(mu, s), mu ~ N(0, 1): the model and its observed variable."""
    model = Model()
    model.mu = host.Normal.define_variable(mean=nd([0.0], "float32"), variance=nd([1.0], "float32"), shape=(1,))
    model.s = positive([1.5])
    model.Y = draw(broadcast_to(model.mu, (N, 1)), broadcast_to(model.s, (N, 1)), shape=(N, 1))
    return model


def variational(algorithm, create_posterior=create_Gaussian_meanfield, num_samples=4):
    model = latent_normal()
    return algorithm(num_samples, model, create_posterior(model, [model.Y]), [model.Y]), {"Y": REAL}


def single_draw(algorithm):
    return variational(algorithm, num_samples=1)


def host_map():
    model = latent_normal()
    return MAP(model, [model.Y]), {"Y": REAL}


def map_with_supports(jacobian):
    model = Model()
    model.scale = host.Gamma.define_variable(alpha=nd([2.0], "float32"), beta=nd([1.0], "float32"), shape=(1,))
    model.Y = host.Normal.define_variable(
        mean=nd(np.zeros((N, 1)), "float32"), variance=broadcast_to(model.scale, (N, 1)), shape=(N, 1)
    )
    return ours.MAP(model, [model.Y], jacobian=jacobian), {"Y": REAL}


def joint_posterior(create):
    """Rows with an unknown mean and covariance."""
    model = Model()
    model.mean = mvn.MultivariateNormal(covariance=nd(4 * np.eye(3), "float32"), shape=(3,))
    model.covariance = mvn.InverseWishart(6.0, nd(np.eye(3), "float32"), shape=(3, 3))
    model.Y = mvn.MultivariateNormal(model.mean, model.covariance, shape=(N, 3))
    posterior = create(model, [model.Y])
    return StochasticVariationalInference(3, model, posterior, [model.Y]), {"Y": VECTORS}


def latent_of_law(law, data_mean):
    """SVI of a latent of a law of the host under a posterior of the same law, whose draws have no gradient."""
    model = Model()
    model.latent = law()
    model.Y = host.Normal.define_variable(
        mean=broadcast_to(model.latent, (N, 1)), variance=nd(np.ones((N, 1)), "float32"), shape=(N, 1)
    )
    posterior = Posterior(model)
    posterior.latent.set_prior(data_mean())
    return ScoreFunctionInference(4, model, posterior, [model.Y]), {"Y": REAL}


def laplace_posterior():
    return latent_of_law(
        lambda: host.Normal.define_variable(mean=nd([0.0], "float32"), variance=nd([1.0], "float32"), shape=(1,)),
        lambda: host.Laplace(location=free([0.2]), scale=positive([0.7])),
    )


def gamma_posterior():
    return latent_of_law(
        lambda: host.Gamma.define_variable(alpha=nd([2.0], "float32"), beta=nd([1.0], "float32"), shape=(1,)),
        lambda: host.Gamma(alpha=positive([2.0]), beta=positive([1.5])),
    )


def regression():
    """Y ~ N(X w, s) with the host's dot."""
    model = Model()
    model.X = Variable(shape=(N, 3))
    model.w = host.Normal.define_variable(
        mean=nd(np.zeros((3, 1)), "float32"), variance=nd(np.ones((3, 1)), "float32"), shape=(3, 1)
    )
    model.s = positive([1.0])
    model.f = dot(model.X, model.w) + model.s * model.s
    model.Y = host.Normal.define_variable(mean=model.f, variance=broadcast_to(model.s, (N, 1)), shape=(N, 1))
    posterior = create_Gaussian_meanfield(model, [model.Y, model.X])
    return StochasticVariationalInference(3, model, posterior, [model.X, model.Y]), {"X": VECTORS, "Y": REAL}


def network(*layers, hybridize=True, priors=False):
    """Y ~ N(net(X), s), with the weights learned or under normal priors."""
    net = mx.gluon.nn.HybridSequential(prefix="net_")
    with net.name_scope():
        net.add(mx.gluon.nn.Dense(6, activation="tanh", flatten=False, in_units=3), *layers)
        net.add(mx.gluon.nn.Dense(1, flatten=False, in_units=6))
    x = nd(VECTORS, "float32")
    net.cast(x.dtype)
    net.initialize(mx.init.Xavier())
    if hybridize:
        net.hybridize()
    net(x)
    model = Model()
    model.X = Variable(shape=(N, 3))
    model.net = MXFusionGluonFunction(net, num_outputs=1, broadcastable=False)
    model.f = model.net(model.X)
    model.s = positive([0.5])
    if priors:
        for weight in model.f.factor.parameters.values():
            zeros, ones = nd(np.zeros(weight.shape), "float32"), nd(np.ones(weight.shape), "float32")
            weight.set_prior(host.Normal(mean=zeros, variance=ones))
    model.Y = host.Normal.define_variable(mean=model.f, variance=broadcast_to(model.s, (N, 1)), shape=(N, 1))
    data = {"X": VECTORS, "Y": REAL}
    if not priors:
        return MAP(model, [model.X, model.Y]), data
    posterior = create_Gaussian_meanfield(model, [model.X, model.Y])
    return StochasticVariationalInference(2, model, posterior, [model.X, model.Y]), data


def process(module, **options):
    """A Gaussian process of the host, in float64: its matrices are ill conditioned."""
    model = Model()
    model.X = Variable(shape=(N, 1))
    model.noise = positive([0.1], "float64")
    kernel = RBF(input_dim=1, variance=1.0, lengthscale=1.0, dtype="float64")
    options = {"X": model.X, "kernel": kernel, "noise_var": model.noise, "shape": (N, 1), "dtype": "float64", **options}
    model.Y = module.define_variable(**options)
    for algorithm in ("svgp_log_pdf", "sgp_log_pdf"):
        if hasattr(model.Y.factor, algorithm):
            getattr(model.Y.factor, algorithm).jitter = 1e-4
    return MAP(model, [model.X, model.Y]), {"X": np.linspace(0, 3, N)[:, None], "Y": REAL}


COMPILED = {
    "normal": lambda: univariate(host.Normal.define_variable, REAL, mean=free([[0.1]]), variance=positive([[1.5]])),
    "normal_mean_precision": lambda: univariate(
        host.NormalMeanPrecision.define_variable, REAL, mean=free([[0.1]]), precision=positive([[1.5]])
    ),
    "gamma": lambda: univariate(host.Gamma.define_variable, UNIT, alpha=positive([[1.2]]), beta=positive([[2.0]])),
    "gamma_mean_variance": lambda: univariate(
        host.GammaMeanVariance.define_variable, UNIT, mean=positive([[1.2]]), variance=positive([[2.0]])
    ),
    "beta": lambda: univariate(host.Beta.define_variable, UNIT, alpha=positive([[1.2]]), beta=positive([[2.0]])),
    "laplace": lambda: univariate(host.Laplace.define_variable, REAL, location=free([[0.1]]), scale=positive([[1.0]])),
    "uniform": lambda: univariate(host.Uniform.define_variable, UNIT, low=free([[-0.5]]), high=free([[1.5]])),
    "bernoulli": bernoulli,
    "categorical": categorical,
    "dirichlet": dirichlet,
    "host_multivariate_normal": host_multivariate,
    "covariance": lambda: likelihood(
        mvn.MultivariateNormal, VECTORS, mean=free(np.zeros(3)), covariance=free(SPD, PositiveDefinite())
    ),
    "precision": lambda: likelihood(
        mvn.MultivariateNormalMeanPrecision, VECTORS, mean=free(np.zeros(3)), precision=free(SPD, PositiveDefinite())
    ),
    "scale_tril": lambda: likelihood(
        mvn.MultivariateNormal, VECTORS, mean=free(np.zeros(3)), scale_tril=free(np.eye(3), LowerCholesky())
    ),
    "low_rank": lambda: likelihood(
        mvn.LowRankMultivariateNormal,
        VECTORS,
        mean=free(np.zeros(3)),
        factor=free([[0.1], [0.2], [0.3]]),
        diagonal=free(np.ones(3), Positive()),
    ),
    "matrix_normal": lambda: likelihood(
        mvn.MatrixNormal,
        MATRICES,
        mean=free(np.zeros((3, 3))),
        row_scale_tril=free(np.eye(3), LowerCholesky()),
        column_covariance=free(SPD, PositiveDefinite()),
    ),
    "student_t": lambda: likelihood(
        mvn.MultivariateStudentT,
        VECTORS,
        degrees_of_freedom=free([5.0], Positive()),
        mean=free(np.zeros(3)),
        scale_tril=free(np.eye(3), LowerCholesky()),
    ),
    "mixture": lambda: likelihood(
        mvn.GaussianMixture,
        VECTORS,
        weights=free([0.4, 0.6], Positive()),
        mean=free([[0.0, 0.1, 0.2], [1.0, 0.0, 0.5]]),
        scale_tril=free(np.stack([np.eye(3)] * 2), LowerCholesky()),
    ),
    "wishart": lambda: likelihood(mvn.Wishart, MATRICES, degrees_of_freedom=free([5.0], Positive()), scale=_matrix()),
    "inverse_wishart": lambda: likelihood(
        mvn.InverseWishart, MATRICES, degrees_of_freedom=free([5.0], Positive()), scale=_matrix()
    ),
    "host_map": host_map,
    "map_with_supports": lambda: map_with_supports(False),
    "map_with_jacobian": lambda: map_with_supports(True),
    "variational": lambda: variational(StochasticVariationalInference),
    "single_draw": lambda: single_draw(StochasticVariationalInference),
    "score_function": lambda: variational(ScoreFunctionInference),
    "laplace_posterior": laplace_posterior,
    "gamma_posterior": gamma_posterior,
    "meanfield": lambda: joint_posterior(ours.create_Gaussian_meanfield),
    "fullrank": lambda: joint_posterior(ours.create_Gaussian_fullrank),
    "lowrank": lambda: joint_posterior(lambda *args: ours.create_Gaussian_lowrank(*args, rank=2)),
    "regression": regression,
    "network": network,
    "network_not_hybridized": lambda: network(hybridize=False),
    "dropout": lambda: network(mx.gluon.nn.Dropout(0.4)),
    "batch_norm": lambda: network(mx.gluon.nn.BatchNorm(in_channels=6)),
    "bayesian_network": lambda: network(priors=True),
    "gp": lambda: process(GPRegression),
    "sparse_gp": lambda: process(SparseGPRegression, num_inducing=4),
    "svgp": lambda: process(SVGPRegression, num_inducing=4),
}

IN_FLOAT64 = ("gp", "sparse_gp", "svgp")

NOT_COMPILED = {
    "rao_blackwell": (lambda: variational(ScoreFunctionRBInference, num_samples=1), "reads the value"),
}


def _matrix():
    return free(SPD, PositiveDefinite())
