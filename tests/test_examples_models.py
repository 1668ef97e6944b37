# SPDX-License-Identifier: Apache-2.0
"""The examples that fit one model to one table: run as a user runs them, and their references checked by SciPy."""

import importlib
import re

import numpy as np
import pytest
from scipy import stats

from helpers.examples_runner import EXAMPLES, PNG_SIGNATURE, run_example
from helpers.tolerances import assert_close

NAMES = ["missing_data", "mixture", "robust_returns"]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """What an example printed, with few iterations; each runs once."""
    printed = {}

    def output(name):
        if name not in printed:
            folder = tmp_path_factory.mktemp(name)
            process = run_example(name, folder, "--iterations", "250")
            assert process.returncode == 0, process.stdout + process.stderr
            assert "Warning" not in process.stderr  # as MXFusion gives at every run()
            assert f"The picture is in {(folder / name).resolve()}.png" in process.stdout
            assert (folder / f"{name}.png").read_bytes().startswith(PNG_SIGNATURE)
            printed[name] = process.stdout
        return printed[name]

    return output


@pytest.fixture
def example(monkeypatch):
    """Import an example by its name."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module


def numbers_after(label, text):
    """All the numbers of the first line that begins with a label, after that label."""
    line = re.search(rf"^{re.escape(label)}(.*)$", text, flags=re.MULTILINE)
    assert line, f"no line {label!r} in:\n{text}"
    return np.array([float(number) for number in re.findall(r"-?[\d.]+\d(?:e[-+]?\d+)?", line.group(1))])


def assert_flat(log_likelihood, *parameters):
    """A function of these arrays has its maximum here: it falls alike to both sides, wherever one goes."""
    best = log_likelihood(*parameters)
    rng = np.random.default_rng(1)
    for _ in range(5):
        steps = [1e-4 * rng.standard_normal(parameter.shape) for parameter in parameters]
        steps = [step + step.T for step in steps]  # symmetric where it is a matrix
        left, right = (log_likelihood(*(p + sign * step for p, step in zip(parameters, steps))) for sign in (-1, 1))
        assert max(left, right) < best
        assert abs(left - right) < 0.01 * (2 * best - left - right)


@pytest.mark.parametrize("name", NAMES)
def test_deviations_are_printed_within_their_bounds(outputs, name):
    table = outputs(name).split("Largest deviation")[1].split("The picture")[0].splitlines()[1:]
    deviations = [[float(number) for number in line.split()[-2:]] for line in table if line]
    assert len(deviations) >= 2
    for found, bound in deviations:
        assert 0 < found <= bound <= 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_an_example_fails_where_it_has_not_converged(tmp_path, name):
    process = run_example(name, tmp_path, "--iterations", "3")
    assert process.returncode == 1
    assert "EXCEEDED" in process.stdout
    assert "The fit has not converged; try more --iterations." in process.stderr


def test_missing_data_agrees_with_the_moments_of_what_is_never_missing(outputs, example):
    wind_and_temperature = example("_common").read_table("airquality.csv", ["Wind", "Temp"])
    wind_and_temperature[:, 1] = (wind_and_temperature[:, 1] - 32) / 1.8  # in degrees Celsius
    for who in ("fitted", "EM"):
        assert_close(
            numbers_after(f"mean, {who}", outputs("missing_data"))[2:], wind_and_temperature.mean(axis=0), 1e-4
        )
        assert_close(numbers_after(f"sd, {who}", outputs("missing_data"))[2:], wind_and_temperature.std(axis=0), 1e-4)


def test_missing_data_counts_the_days_and_its_bands_cover(outputs, example):
    stdout = outputs("missing_data")
    ozone = example("_common").read_table("airquality.csv", ["Ozone"])
    assert f"Days above 80 ppb: {(ozone > 80).sum()} measured," in stdout  # and not the day with 80
    assert stdout.startswith("153 days, 111 of them complete;")
    share = int(re.search(r"the 90 % band holds \d+, (\d+)%", stdout).group(1))
    assert 85 <= share <= 95


def test_expectation_maximisation_ends_where_the_likelihood_is_flat(example):
    module = example("missing_data")
    x = example("_common").read_table("airquality.csv", module.COLUMNS)
    x = (x - np.nanmean(x, axis=0)) / np.nanstd(x, axis=0)
    mean, covariance, _ = module.expectation_maximisation(x)

    def log_likelihood(mean, covariance):
        observed = [(row, ~np.isnan(row)) for row in x]
        return sum(
            stats.multivariate_normal(mean[known], covariance[np.ix_(known, known)]).logpdf(row[known])
            for row, known in observed
        )

    assert_flat(log_likelihood, mean, covariance)


def test_mixture_prints_the_published_likelihood(outputs):
    ours, reference = numbers_after("log likelihood, per eruption:", outputs("mixture"))[:2]
    assert_close(272 * ours, -1130.264, 1e-6)  # as the R package mixtools finds
    assert_close(ours, reference, 1e-6)


def test_mixture_says_what_to_install(tmp_path):
    (tmp_path / "sklearn").mkdir()
    (tmp_path / "sklearn" / "__init__.py").write_text("raise ImportError\n")
    process = run_example("mixture", tmp_path, path=[tmp_path])
    assert process.returncode == 1
    assert "pip install scikit-learn" in process.stderr


@pytest.fixture
def returns(example):
    """The days to fit to, and those held out."""
    module = example("robust_returns")
    returns = 100 * np.diff(np.log(example("_common").read_table("eustockmarkets.csv", module.MARKETS)), axis=0)
    return np.split(returns, [module.NUM_TRAINING])


def test_robust_returns_prints_held_out_log_densities_as_scipy_has_them(outputs, example, returns):
    training, held_out = returns
    stdout = outputs("robust_returns").split("Held-out")[1]
    normal = stats.multivariate_normal(training.mean(axis=0), np.cov(training.T, ddof=0))
    assert_close(numbers_after("Gaussian ", stdout)[:2], [normal.logpdf(held_out).mean()] * 2, 1e-4)
    found, _ = example("robust_returns").maximise_by_ecme(training)
    student = stats.multivariate_t(found.mean, found.scale, found.freedom)
    assert_close(numbers_after("Student t ", stdout)[:2], [student.logpdf(held_out).mean()] * 2, 1e-4)
    assert_close(numbers_after("gain ", stdout)[0], np.mean(student.logpdf(held_out) - normal.logpdf(held_out)), 5e-3)


def test_ecme_ends_where_the_likelihood_is_flat(example, returns):
    found, _ = example("robust_returns").maximise_by_ecme(returns[0])

    def log_likelihood(mean, scale, freedom):
        return stats.multivariate_t(mean, scale, freedom).logpdf(returns[0]).sum()

    assert_flat(log_likelihood, found.mean, found.scale, np.array(found.freedom))


def test_tail_probabilities_are_those_of_scipy(example, returns):
    module = example("robust_returns")
    held_out = returns[1]
    student = module.Fit(5.0, np.zeros(4), np.eye(4))
    distance = (held_out**2).sum(axis=1)
    assert_close(module.tail_probability(held_out, student), stats.f(4, 5.0).sf(distance / 4), 1e-10)
    gaussian = student._replace(freedom=np.inf)
    assert_close(module.tail_probability(held_out, gaussian), stats.chi2(4).sf(distance), 1e-10)
