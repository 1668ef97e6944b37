# SPDX-License-Identifier: Apache-2.0
"""Training by this package's loop and by the host's, and the log density by this package.

The model, the posterior and the optimizer are the same in both; so is what is random, given a seed.
"""

import contextlib
import time

from mxfusion_mvn import MultivariateNormal
from mxfusion_mvn.compiler.evaluation import Evaluations
from mxfusion_mvn.compiler.threads import one_blas_thread
from mxfusion_mvn.inference import MAP, CompiledLoop, create_Gaussian_fullrank, create_Gaussian_meanfield
from mxfusion_mvn.transformations import PositiveDefinite

import models_ours
import more_models_ours
import mxfusion.components.distributions as host
import mxfusion.inference as host_inference
import mxnet as mx
import numpy as np
import problems
from mxfusion import Variable
from mxfusion.inference import BatchInferenceLoop, GradBasedInference, StochasticVariationalInference
from mxfusion.models import Posterior
from worker import serve

MODELS = {**models_ours.MODELS, **more_models_ours.MODELS}
LOOKS = 50  # steps between two looks at the losses, as by default
LEAST_LOOKS = 8  # in a long run of fast steps, as by default
COMPILED = 200  # steps after which a program of several of them has been made, if one is


class Training:
    """A model, its posterior and Adam in a loop."""

    def __init__(self, case, loop):
        mx.random.seed(case["seed"])
        model, observed = MODELS[case["model"]](dict(np.load(case["data"])))
        self.observed = {name: mx.nd.array(value) for name, value in observed.items()}
        self.learning_rate = case["learning_rate"]
        self.algorithm = _algorithm(case, model, [getattr(model, name) for name in observed])
        self.inference = GradBasedInference(self.algorithm, grad_loop=loop)

    def run(self, steps):
        """Take so many steps."""
        self.inference.run(optimizer="adam", learning_rate=self.learning_rate, max_iter=steps, **self.observed)
        mx.nd.waitall()

    def posterior(self):
        """Mean and covariance of the joint Gaussian over all latent variables."""
        inputs = dict(self.algorithm.posterior.joint_0.factor.inputs)
        mean, scale, below = (self.inference.params[inputs[name]].asnumpy() for name in ("mean", "scale", "below"))
        root = np.eye(len(mean))
        root[np.tril_indices(len(mean), -1)] = below
        root *= scale[:, None]
        return mean, root @ root.T


class CompiledTraining(Training):
    """By this package's loop."""

    chunk = 5  # a shorter run may be over before it is compiled

    def __init__(self, case):
        super().__init__(case, CompiledLoop())

    def run(self, steps):
        """Take so many steps, or say why they were not compiled."""
        record = self.inference.run(optimizer="adam", learning_rate=self.learning_rate, max_iter=steps, **self.observed)
        if not record.compiled:
            raise RuntimeError(record.fallback_reason)

    def seconds(self, steps):
        """The time of so many steps in the midst of a run, after all of it was compiled."""
        every, stamps = max(min(steps, LOOKS), steps // LEAST_LOOKS), []
        before = -(-COMPILED // every)
        self.inference._grad_loop = CompiledLoop(stop=lambda _: stamps.append(time.perf_counter()), check_every=every)
        self.run((before + 1 + steps // every) * every)
        stamps = stamps[before:]
        return (stamps[-1] - stamps[0]) * steps / (every * (len(stamps) - 1))

    def explain(self):
        """What a step is made of."""
        return self.inference._grad_loop.explain()

    def watch(self, steps, every, report):
        """Run, and report mean and covariance of the posterior each so many steps."""
        self.inference._grad_loop = CompiledLoop(checkpoint=lambda _: report(*self.posterior()), check_every=every)
        self.run(steps)


class HostTraining(Training):
    """By the host's loop."""

    def __init__(self, case):
        super().__init__(case, BatchInferenceLoop())

    def seconds(self, steps):
        """The time of so many steps; the evaluation at the end of a run is none."""
        start = time.perf_counter()
        self.run(1 + steps)
        middle = time.perf_counter()
        self.run(1)
        return 2 * middle - start - time.perf_counter()

    def watch(self, steps, every, report):
        """Run, and report mean and covariance of the posterior each so many steps."""
        self.inference._grad_loop = WatchedLoop(every, lambda: report(*self.posterior()))
        self.run(steps)


class WatchedLoop(BatchInferenceLoop):
    """The host's loop, which calls a function before each so many evaluations."""

    def __init__(self, every, report):
        super().__init__()
        self.every, self.report = every, report

    def run(self, infr_executor, **kwargs):
        """As the host's, with the objective evaluated through a function that counts."""
        evaluations = 0

        def evaluate(*data):
            nonlocal evaluations
            if evaluations and evaluations % self.every == 0:
                with mx.autograd.pause():
                    self.report()
            evaluations += 1
            return infr_executor(*data)

        return super().run(infr_executor=evaluate, **kwargs)


class Density:
    """The summed log density and its gradient for the mean and the covariance, compiled."""

    is_changing = True  # the rows

    def __init__(self, case):
        arrays = np.load(case["data"])
        parameters = {name: _parameter(name, arrays[name]) for name in ("mean", "covariance")}
        x = arrays["x"]
        x = mx.nd.array(x.reshape(-1, x.shape[-1]), dtype=x.dtype)
        inputs = {name: Variable(shape=parameter.shape) for name, parameter in parameters.items()}
        factor = MultivariateNormal(**inputs, shape=x.shape).factor

        def objective(_, x):
            arrays = {inputs[name].uuid: parameter.data() for name, parameter in parameters.items()}
            arrays[factor.outputs[0][1].uuid] = x
            total = factor.total_log_pdf(mx.nd, {uuid: array.expand_dims(0) for uuid, array in arrays.items()})
            return total, total

        evaluations = Evaluations(
            objective, parameters, mx.cpu(), [self.is_changing], lambda is_traced: contextlib.nullcontext()
        )
        for _ in range(2):
            evaluations.evaluate([x])
        if evaluations.reason is not None:
            raise RuntimeError(evaluations.reason)
        self.graph = evaluations.simplified
        self.program = evaluations.program(parameters)

    def run(self, steps):
        """Evaluate so many times."""
        with one_blas_thread([self.graph], mx.cpu()):
            for _ in range(steps):
                self.program.run()
            mx.nd.waitall()


class FixedDensity(Density):
    """The same, of rows that stay the same."""

    is_changing = False


def _parameter(name, value):
    value = value.reshape(-1, value.shape[-1]) if name == "mean" and value.ndim > 1 else value
    parameter = mx.gluon.Parameter(name, shape=value.shape, dtype=value.dtype.name)
    parameter.initialize(mx.init.Zero())
    parameter.set_data(mx.nd.array(value, dtype=value.dtype))
    return parameter


def _algorithm(case, model, observed):
    if case["guide"] == "delta":
        return MAP(model=model, observed=observed)
    guides = {
        "fullrank": lambda: create_Gaussian_fullrank(model, observed, initial_scale=problems.SCALE),
        "meanfield": lambda: create_Gaussian_meanfield(model, observed, initial_scale=problems.SCALE),
        "host's meanfield": lambda: host_inference.create_Gaussian_meanfield(model, observed),
        "host's fullrank": lambda: _hosts_fullrank(model),
    }
    return StochasticVariationalInference(case["samples"], model, guides[case["guide"]](), observed)


def _hosts_fullrank(model):
    """The host's multivariate normal as posterior of a mean; its covariance could not stay one by the host alone."""
    posterior, shape = Posterior(model), model.mean.shape
    covariance = Variable(
        shape=shape * 2, transformation=PositiveDefinite(), initial_value=problems.SCALE**2 * mx.nd.eye(*shape)
    )
    posterior.mean.set_prior(host.MultivariateNormal(mean=Variable(shape=shape), covariance=covariance))
    return posterior


if __name__ == "__main__":
    serve(
        {
            "compiled": CompiledTraining,
            "host": HostTraining,
            "density": Density,
            "density of fixed data": FixedDensity,
        }
    )
