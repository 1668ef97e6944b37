# SPDX-License-Identifier: Apache-2.0
"""The examples of inference over correlated unknowns, run as a user runs them; their references checked by SciPy."""

import importlib
import re

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from helpers.examples_runner import EXAMPLES, PNG_SIGNATURE, run_example
from helpers.tolerances import assert_close

BUDGETS = {"bayesian_linear_regression": 1600, "random_effects": 800}
NUMBER = r"(-?[\d.]+(?:e[+-]\d+)?)"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Runs each example once, with its small budget: name -> (process, picture)."""
    runs = {}

    def run(name):
        if name not in runs:
            folder = tmp_path_factory.mktemp(name)
            arguments = ["--iterations", str(BUDGETS[name]), "--output", "picture.png"]
            runs[name] = run_example(name, folder, *arguments), folder / "picture.png"
        return runs[name]

    return run


@pytest.fixture
def example(monkeypatch):
    """Import an example by its name."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module


def checks(stdout):
    """{label: (here, reference, off by, bound)} of all lines that compare two numbers."""
    table = stdout.split("Largest deviation")[1]
    lines = re.findall(rf"^(\w.*?) +{NUMBER} +{NUMBER} +{NUMBER} +{NUMBER}$", table, flags=re.MULTILINE)
    return {label: tuple(map(float, numbers)) for label, *numbers in lines}


def mean_log_ratio(q, p):
    """E[log q - log p] under the Gaussian q, whose points mean +- sqrt(D) L_i have the mean of any quadratic form."""
    steps = np.sqrt(len(q.mean)) * np.linalg.cholesky(q.covariance).T
    points = np.concatenate([q.mean + steps, q.mean - steps])
    log_q, log_p = (multivariate_normal(g.mean, g.covariance).logpdf(points) for g in (q, p))
    return np.mean(log_q - log_p)


@pytest.mark.parametrize("name", BUDGETS)
def test_example_succeeds_without_a_warning_and_draws_its_picture(finished, name):
    process, picture = finished(name)
    assert process.returncode == 0, process.stdout + process.stderr
    assert "Warning" not in process.stderr
    assert f"The picture is in {picture.resolve()}" in process.stdout
    assert picture.read_bytes().startswith(PNG_SIGNATURE)


@pytest.mark.parametrize("name", BUDGETS)
def test_example_fails_where_it_has_not_converged(tmp_path, name):
    process = run_example(name, tmp_path, "--iterations", "3")
    assert process.returncode == 1
    assert "EXCEEDED" in process.stdout
    assert "The fit has not converged; try more --iterations." in process.stderr
    assert (tmp_path / f"{name}.png").exists()


def test_regression_finds_the_exact_posterior_within_the_bounds_that_were_promised(finished):
    found = checks(finished("bayesian_linear_regression")[0].stdout)
    for name in ("full rank", "Laplace"):
        bounds = {"mean, in posterior sd": 0.02, "sd, relative": 0.02, "correlation": 0.02, "log evidence": 0.01}
        for label, bound in bounds.items():
            deviation, printed_bound = found[f"{name}: {label}"][2:]
            assert deviation <= printed_bound == bound
    assert len(found) == 13


def test_regression_prints_the_lower_bounds_in_order(finished):
    found = checks(finished("bayesian_linear_regression")[0].stdout)
    labels = ["mean-field: lower bound", "rank 1: lower bound", "rank 3: lower bound", "full rank: log evidence"]
    bounds = [found[label][0] for label in labels]
    assert (np.diff(bounds) > 0.1).all()  # each has more freedom than the one before


@pytest.fixture
def regression(example):
    """The module, the data and the exact posterior."""
    module = example("bayesian_linear_regression")
    x, y = module.read_patients()
    noise_variance = module.residual_variance(x, y)
    return module, x, y, noise_variance, module.exact_posterior(x, y, noise_variance)


def test_exact_posterior_of_the_regression_is_a_conditional_of_the_joint_gaussian(regression):
    _, x, y, noise_variance, exact = regression
    marginal = multivariate_normal(np.zeros(len(x)), x @ x.T + noise_variance * np.eye(len(x)))
    assert_close(exact.log_evidence, marginal.logpdf(y[:, 0]), 1e-10)
    gain = np.linalg.solve(marginal.cov, x).T
    assert_close(exact.mean, gain @ y[:, 0], 1e-8)
    assert_close(exact.covariance, np.eye(10) - gain @ x, 1e-8, 1e-10)


def test_divergence_is_the_mean_log_ratio(regression, rng):
    module, exact = regression[0], regression[-1]
    root = np.diag(exact.sd) + 0.02 * rng.standard_normal((10, 10))
    q = module.Gaussian(exact.mean + 0.01 * rng.standard_normal(10), root @ root.T, 0.0)
    assert_close(module.divergence(q, exact), mean_log_ratio(q, exact), 1e-8)


def test_best_mean_field_has_no_better_neighbour(regression, rng):
    module, exact = regression[0], regression[-1]
    best = module.best_mean_field(exact)
    least = module.divergence(best, exact)
    assert_close(best.log_evidence, exact.log_evidence - least, 1e-12)
    for _ in range(5):
        step = 1e-3 * rng.standard_normal(10)
        covariances = (best.covariance * np.exp(sign * step) for sign in (-1, 1))
        left, right = (module.divergence(best._replace(covariance=c), exact) for c in covariances)
        assert min(left, right) > least
        assert abs(left - right) < 0.01 * (left + right - 2 * least)


def test_regression_says_what_to_install(tmp_path):
    (tmp_path / "sklearn.py").write_text("raise ImportError('as if it were not installed')\n")
    process = run_example("bayesian_linear_regression", tmp_path, path=[tmp_path])
    assert process.returncode != 0
    assert "run: pip install scikit-learn" in process.stderr
    assert "Traceback" not in process.stderr


def test_random_effects_agree_with_lme4_and_with_the_exact_posterior(finished):
    found = checks(finished("random_effects")[0].stdout)
    assert len(found) == 9
    for label, published, error in (("intercept, lme4", 251.405, 6.825), ("slope, lme4", 10.467, 1.546)):
        here, reference = found[label][:2]
        assert reference == published
        assert abs(here - reference) < 0.25 * error
    assert found["log evidence, exact"][0] < found["log evidence, exact"][1]  # it is a lower bound


def test_random_effects_print_the_published_estimates_beside_those_of_the_same_method(finished):
    stdout = finished("random_effects")[0].stdout
    for name, published in {"sd of intercepts": 24.74, "sd of slopes": 5.92, "noise sd": 25.59}.items():
        lme4, restricted = re.search(rf"^{name} +{NUMBER} +{NUMBER} ", stdout, flags=re.MULTILINE).groups()
        assert float(lme4) == published
        assert round(float(restricted), 2) == published
    restricted = re.search(rf"^correlation +0.070 +{NUMBER} ", stdout, flags=re.MULTILINE).group(1)
    assert round(float(restricted), 2) == 0.07


class Sleep:
    """Everything of the sleepstudy for one value of deviations, noise and correlation, as one Gaussian."""

    def __init__(self, module, first, second, noise_sd, correlation):
        days, _, reaction = module.read_reaction_times()
        self.design = np.stack([np.ones(10), days / 10], axis=1)
        self.y = reaction.ravel() / 100
        covariance = correlation * first * second
        self.own = np.array([[first**2, covariance], [covariance, second**2]])
        everybody = np.tile(self.design, (18, 1))
        self.covariance = (
            np.kron(np.eye(18), self.design @ self.own @ self.design.T)
            + module.PRIOR_SD**2 * everybody @ everybody.T
            + noise_sd**2 * np.eye(180)
        )
        of_persons = np.kron(np.eye(18), self.own @ self.design.T)
        self.cross = of_persons + module.PRIOR_SD**2 * np.tile(everybody.T, (18, 1))

    def log_pdf(self):
        """Of all measurements."""
        return multivariate_normal(np.zeros(180), self.covariance).logpdf(self.y)

    def persons(self):
        """The expected coefficients of each, given all measurements, (18, 2)."""
        return (self.cross @ np.linalg.solve(self.covariance, self.y)).reshape(18, 2)


POINTS = [(0.25, 0.6, 0.25, 0.1), (0.4, 0.3, 0.3, -0.7)]


@pytest.mark.parametrize("point", POINTS, ids=str)
def test_random_effects_given_deviations_are_those_of_one_long_gaussian(example, monkeypatch, point):
    module = example("random_effects")
    sleep = Sleep(module, *point)
    monkeypatch.setattr(module, "make_grid", lambda: (np.array([point]).T, np.zeros(1)))
    days, _, reaction = module.read_reaction_times()
    exact = module.exact_posterior(module.fit_lines(days, reaction))
    assert_close(exact.log_evidence, sleep.log_pdf(), 1e-5)  # the prior of beta is taken as flat
    assert_close(exact.persons / module.UNITS, sleep.persons(), 1e-5)


def test_random_effects_do_not_depend_on_the_grid(example, monkeypatch):
    module = example("random_effects")
    days, _, reaction = module.read_reaction_times()
    lines = module.fit_lines(days, reaction)
    coarse = module.exact_posterior(lines)
    monkeypatch.setattr(module, "GRID_SIZE", 24)
    monkeypatch.setattr(module, "TURN", 2.6)
    monkeypatch.setattr(module, "RANGES", ((0.03, 1.5), (0.12, 2.5), (0.18, 0.38)))
    wide = module.exact_posterior(lines)
    for name in module.PARAMETERS:
        assert abs(coarse.mean[name] - wide.mean[name]) < 0.005 * wide.sd[name]
        assert_close(coarse.sd[name], wide.sd[name], 0.01)
    assert_close(coarse.log_evidence, wide.log_evidence, 0, 0.005)


def test_restricted_likelihood_is_largest_at_the_estimates(example):
    module = example("random_effects")
    days, _, reaction = module.read_reaction_times()
    lines = module.fit_lines(days, reaction)
    estimates, errors = module.restricted_maximum_likelihood(lines)
    units = np.array([module.PARAMETERS[name][1] for name in module.REST])
    best = np.array([estimates[name] for name in module.REST]) / units
    rng = np.random.default_rng(1)
    middle = Sleep(module, *best).log_pdf()
    for _ in range(5):
        step = 1e-3 * rng.standard_normal(4)
        left, right = (Sleep(module, *(best + sign * step)).log_pdf() for sign in (-1, 1))
        assert max(left, right) < middle
        assert abs(left - right) < 0.05 * (2 * middle - left - right)
    assert_close([errors[name] for name in module.FIXED], [6.825, 1.546], 5e-4)
