# SPDX-License-Identifier: Apache-2.0
"""The examples whose covariance has structure, run as a user runs them, with small budgets."""

import re

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from helpers.examples_runner import DATA, PNG_SIGNATURE, run_example
from helpers.tolerances import assert_close

BUDGETS = {"probabilistic_pca": 250, "gaussian_process": 150, "kalman_smoothing": 250}
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


def checks(stdout):
    """{label: (here, reference, off by, bound)} of all lines that compare two numbers."""
    lines = re.findall(rf"^(\w.*?) +{NUMBER} +{NUMBER} +{NUMBER} +{NUMBER}$", stdout, flags=re.MULTILINE)
    return {label: tuple(map(float, numbers)) for label, *numbers in lines}


@pytest.mark.parametrize("name", BUDGETS)
def test_example_succeeds_without_a_warning_and_draws_its_picture(finished, name):
    process, picture = finished(name)
    assert process.returncode == 0, process.stdout + process.stderr
    assert "Warning" not in process.stderr
    assert f"The picture is in {picture.resolve()}" in process.stdout
    assert picture.read_bytes().startswith(PNG_SIGNATURE)


@pytest.mark.parametrize("name", BUDGETS)
def test_example_prints_deviations_within_their_bounds(finished, name):
    found = checks(finished(name)[0].stdout)
    assert len(found) == {"probabilistic_pca": 4, "gaussian_process": 4, "kalman_smoothing": 5}[name]
    for deviation, bound in (numbers[2:] for numbers in found.values()):
        assert 0 <= deviation <= bound <= 0.01


@pytest.mark.parametrize("name", BUDGETS)
def test_example_fails_where_it_has_not_converged(tmp_path, name):
    process = run_example(name, tmp_path, "--iterations", "3")
    assert process.returncode == 1
    assert "EXCEEDED" in process.stdout
    assert "The fit has not converged; try more --iterations." in process.stderr
    assert (tmp_path / f"{name}.png").exists()


def test_probabilistic_pca_prints_the_closed_form(finished):
    table = np.genfromtxt(DATA / "penguins.csv", delimiter=",", names=True, dtype=None, encoding="utf-8")
    x = np.array([table[name] for name in ("bill_len", "bill_dep", "flipper_len", "body_mass")], dtype=float).T
    x = x[np.isfinite(x).all(axis=1)]
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    values, vectors = np.linalg.eigh(x.T @ x / len(x))
    noise_variance = (values[0] + values[1]) / 2
    covariance = (vectors * np.append([noise_variance] * 2, values[2:])) @ vectors.T
    log_likelihood = multivariate_normal(np.zeros(4), covariance).logpdf(x).sum()

    found = checks(finished("probabilistic_pca")[0].stdout)
    assert_close(found["noise variance"][1], noise_variance, rtol=1e-5)  # that many digits are printed
    assert_close(found["noise variance"][0], noise_variance, rtol=5e-4)
    for number in found["log likelihood"][:2]:
        assert_close(number, log_likelihood, rtol=1e-5)


def test_kalman_smoothing_finds_the_published_variances(finished):
    found = checks(finished("kalman_smoothing")[0].stdout)
    assert found["noise variance, published"][1] == 15099
    assert found["step variance, published"][1] == 1469.1
    assert_close(found["noise variance, published"][0], 15099, rtol=1e-3)
    assert_close(found["step variance, published"][0], 1469.1, rtol=1e-3)


def test_kalman_smoothing_prints_the_log_likelihood_of_the_differences(finished):
    difference = np.diff(np.loadtxt(DATA / "nile.csv", delimiter=",", skiprows=1)[:, 1])
    size = len(difference)
    # Cov[d_t, d_t] = step + 2 noise, Cov[d_t, d_t+1] = -noise.
    covariance = (1469.1 + 2 * 15099) * np.eye(size) - 15099 * (np.eye(size, k=1) + np.eye(size, k=-1))
    expected = multivariate_normal(np.zeros(size), covariance).logpdf(difference)
    for number in checks(finished("kalman_smoothing")[0].stdout)["log likelihood, Kalman filter"][:2]:
        assert_close(number, expected, rtol=1e-6)  # it is flat there


def test_gaussian_process_learns_what_scikit_learn_does(finished):
    stdout = finished("gaussian_process")[0].stdout
    # By scikit-learn alone, the best of eight starts: it has this one maximum.
    assert_close(checks(stdout)["log likelihood, each one's best"][:2], [-121.4333] * 2, rtol=1e-4)
    spells = re.search(rf"^spells +{NUMBER} °C +{NUMBER} days$", stdout, flags=re.MULTILINE)
    assert_close([float(number) for number in spells.groups()], [4.3, 7.7], rtol=0.05)
    assert "13 of the 14 hidden days are within the 90 % band." in stdout


def test_gaussian_process_says_that_it_needs_scikit_learn(tmp_path):
    (tmp_path / "sklearn.py").write_text("raise ImportError('as if it were not installed')\n")
    process = run_example("gaussian_process", tmp_path, path=[tmp_path])
    assert process.returncode != 0
    assert "run: pip install scikit-learn" in process.stderr
    assert "Traceback" not in process.stderr
