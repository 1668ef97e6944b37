# SPDX-License-Identifier: Apache-2.0
"""The data and the constants of the models that are timed: the same for every library, so this needs NumPy only.

Six models, all in float32, with the names that the files ``models_*.py`` give them:

- ``mean``: x_n ~ N(mean, Sigma), Sigma known, mean ~ N(0, 10^2 I)
- ``mean and covariance``: the same, and Sigma = L L^T with L a parameter
- ``regression``: y_n ~ N(w . x_n, 0.7^2), w ~ N(0, 10^2 I); 442 patients, D = 10
- ``sleepstudy``: y_ij ~ N(a_i + b_i t_j, noise^2), (a_i, b_i) ~ N(beta, L L^T), L = diag(sd) R,
  beta ~ N(0, 10^2 I), sd and noise^2 ~ Gamma(2, 2), R ~ LKJ(2); 18 subjects on 10 days
- ``neural net``: y_n ~ N(net(x_n), 0.1^2) with two hidden layers of 20 tanh, every weight ~ N(0, 1); N = 100
- ``process``: y ~ N(0, K), K_nm = variance exp(-(x_n - x_m)^2 / (2 length^2)) + noise [n = m],
  all three ~ Gamma(2, 2); N = 100
"""

import csv
from pathlib import Path

import numpy as np

PRIOR_SD = 10.0
GAMMA = (2.0, 2.0)  # shape and rate
LKJ = 2.0
REGRESSION_SD = 0.7
NET_SD = 0.1
HIDDEN = 20
SCALE = 0.1  # the initial standard deviation of every guide
SLEEPSTUDY = Path(__file__).parents[1] / "examples" / "data" / "sleepstudy.csv"


def gaussian(rows=200, dim=5):
    """Rows of a correlated normal: x (N, D), and its covariance (D, D)."""
    rng = np.random.default_rng(dim)
    covariance = random_covariance(rng, dim).astype("float32")
    noise = rng.standard_normal((rows, dim), dtype="float32")
    return {"x": 1 + noise @ np.linalg.cholesky(covariance).T, "covariance": covariance}


def mean():
    """The data of the smallest models."""
    return gaussian()


mean_and_covariance = mean


def random_covariance(rng, dim, condition=10.0):
    """A covariance (D, D) with a random basis, and eigenvalues up to the condition number apart."""
    basis, _ = np.linalg.qr(rng.normal(size=(dim, dim)))
    return (basis * np.geomspace(1, condition, dim)) @ basis.T


def regression():
    """Diabetes of scikit-learn, standardised: x (442, 10) and y (442,)."""
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True)
    return {"x": _standardised(x), "y": _standardised(y)}


def sleepstudy():
    """Reaction times y (18, 10) of subjects on days, and the design (10, 2): one, and the day."""
    with SLEEPSTUDY.open(newline="") as file:
        y = np.array([float(row["Reaction"]) for row in csv.DictReader(file)]).reshape(18, 10)
    days = _standardised(np.arange(10.0))
    y = ((y - y.mean()) / y.std()).astype("float32")
    return {"y": y, "design": np.stack([np.ones_like(days), days], axis=1)}


def neural_net():
    """A noisy sine: x (100, 1) and y (100, 1)."""
    rng = np.random.default_rng(0)
    x = np.linspace(-2, 2, 100)[:, None]
    y = np.sin(3 * x) + NET_SD * rng.normal(size=x.shape)
    return {"x": x.astype("float32"), "y": y.astype("float32")}


def process():
    """The same sine: x (100, 1) and y (100,)."""
    data = neural_net()
    return {"x": data["x"], "y": data["y"][:, 0]}


def net_shapes(inputs=1, outputs=1):
    """Shapes of the weights of the neural net, by name, layer by layer."""
    sizes = [inputs, HIDDEN, HIDDEN, outputs]
    shapes = {}
    for layer, pair in enumerate(zip(sizes, sizes[1:])):
        shapes[f"weight{layer}"], shapes[f"bias{layer}"] = pair, pair[1:]
    return shapes


def _standardised(array):
    return ((array - array.mean(axis=0)) / array.std(axis=0)).astype("float32")
