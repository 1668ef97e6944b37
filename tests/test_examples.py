# SPDX-License-Identifier: Apache-2.0
"""The examples, run as a user runs them, in a process of their own and from another folder."""

import re

import numpy as np
import pytest
from scipy.linalg import solve_discrete_are

from helpers.examples_runner import DATA, EXAMPLES, PNG_SIGNATURE, run_example
from helpers.tolerances import assert_close


def run_quickstart(folder, *arguments):
    """The finished process of examples/quickstart.py, whatever its exit status."""
    return run_example("quickstart", folder, *arguments)


def numbers_after(label, text):
    """All the numbers of the first line that begins with a label, after that label."""
    line = re.search(rf"^{re.escape(label)} (.*)$", text, flags=re.MULTILINE)
    assert line, f"no line {label!r} in:\n{text}"
    return np.array([float(number) for number in line.group(1).split()])


def measurements_of(species):
    """The complete measurements of a species, by NumPy alone."""
    table = np.genfromtxt(
        DATA / "penguins.csv",
        delimiter=",",
        names=True,
        dtype=None,
        encoding="utf-8",
    )
    columns = ["bill_len", "bill_dep", "flipper_len", "body_mass"]
    rows = np.array([table[name] for name in columns], dtype=float).T[table["species"] == species]
    return rows[np.isfinite(rows).all(axis=1)]


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart")
    return run_quickstart(folder, "--iterations", "250", "--output", "picture.png"), folder


def test_quickstart_succeeds_without_a_warning_from_the_host(quickstart):
    process, _ = quickstart
    assert process.returncode == 0, process.stdout + process.stderr
    assert "UserWarning" not in process.stderr  # as MXFusion gives at every run()


@pytest.mark.parametrize("species", ["Adelie", "Chinstrap", "Gentoo"])
def test_quickstart_prints_the_closed_forms(quickstart, species):
    stdout = quickstart[0].stdout
    section = stdout[stdout.index(f"\n{species} (") :]
    x = measurements_of(species)
    correlation = np.corrcoef(x.T)
    sd = x.std(axis=0)
    expected = {
        "mean": x.mean(axis=0),
        "sd": sd,
        "r bill length": correlation[0, 1:],
        "r bill depth": correlation[1, 2:],
        "r flipper length": correlation[2, 3:],
    }
    for label, wanted in expected.items():
        fitted, exact = numbers_after(label, section).reshape(-1, 2).T
        assert_close(exact, wanted, rtol=5e-5, atol=5e-5)  # that many digits are printed
        assert_close(fitted, wanted, rtol=1e-3)
    fitted, exact = numbers_after("sd of the mean", section).reshape(-1, 2).T
    assert_close(exact, sd / np.sqrt(len(x)), rtol=2e-3)  # the prior is wide, not flat
    assert_close(fitted, sd / np.sqrt(len(x)), rtol=2e-3)


def test_quickstart_prints_deviations_within_their_bounds(quickstart):
    stdout = quickstart[0].stdout
    for label in (
        "mean, in sd of all penguins",
        "covariance, in sd^2 of all penguins",
        "posterior mean, in posterior sd",
        "posterior sd, relative",
    ):
        found, bound = numbers_after(label, stdout)
        assert 0 < found <= bound <= 0.001


def test_quickstart_says_where_its_picture_is(quickstart):
    process, folder = quickstart
    picture = folder / "picture.png"
    assert f"The picture is in {picture.resolve()}" in process.stdout
    assert picture.read_bytes().startswith(PNG_SIGNATURE)


def test_quickstart_fails_where_it_has_not_converged(tmp_path):
    process = run_quickstart(tmp_path, "--iterations", "3")
    assert process.returncode == 1
    assert "EXCEEDED" in process.stdout
    assert "The fit has not converged; try more --iterations." in process.stderr


def test_policy_gradient_knows_its_optimum(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import policy_gradient as example

    root = np.sqrt(example.DISCOUNT)  # which takes the discount out of the Riccati equation
    P = solve_discrete_are(root * example.A, root * example.B, example.Q, example.R)
    curvature = example.R + example.DISCOUNT * example.B.T @ P @ example.B
    gusts = example.DISCOUNT / (1 - example.DISCOUNT) * np.diag(example.GUSTS**2)
    optimum = example.solve_control()
    assert_close(optimum.covariance, example.TEMPERATURE / 2 * np.linalg.inv(curvature), rtol=1e-9)
    assert_close(optimum.cost, np.trace(P @ (np.diag(example.START**2) + gusts)), rtol=1e-9)


def test_policy_gradient_reaches_the_best_cost_and_covariance(tmp_path):
    process = run_example("policy_gradient", tmp_path, "--seeds", "1", "--iterations", "50", "--output", "picture.png")
    assert process.returncode == 0, process.stdout + process.stderr
    _, _, _, *best = numbers_after("optimum", process.stdout)
    _, ratio, closed_form_ratio, *learned, divergence = numbers_after("seed 1", process.stdout)
    assert_close(ratio, closed_form_ratio, rtol=0.005)  # two ways to measure the same
    assert 1 < closed_form_ratio <= 1.05
    assert_close(learned, best[:-1], rtol=0.1)  # sd of both thrusters, and their correlation
    assert 0 < divergence <= 0.02
    assert (tmp_path / "picture.png").read_bytes().startswith(PNG_SIGNATURE)


def test_policy_gradient_fails_where_it_has_not_converged(tmp_path):
    process = run_example("policy_gradient", tmp_path, "--seeds", "1", "--iterations", "3")
    assert process.returncode == 1
    assert "The policy has not converged; try more --iterations." in process.stderr
