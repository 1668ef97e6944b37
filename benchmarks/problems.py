# SPDX-License-Identifier: Apache-2.0
"""The data and the constants of the models that are timed: the same for every library, so this needs NumPy only.

All are in float32, with the names that the files ``models_*.py`` and ``more_models_*.py`` give them. Six models:

- ``mean``: x_n ~ N(mean, Sigma), Sigma known, mean ~ N(0, 10^2 I)
- ``mean and covariance``: the same, and Sigma = L L^T with L a parameter
- ``regression``: y_n ~ N(w . x_n, 0.7^2), w ~ N(0, 10^2 I); 442 patients, D = 10
- ``sleepstudy``: y_ij ~ N(a_i + b_i t_j, noise^2), (a_i, b_i) ~ N(beta, L L^T), L = diag(sd) R,
  beta ~ N(0, 10^2 I), sd and noise^2 ~ Gamma(2, 2), R ~ LKJ(2); 18 subjects on 10 days
- ``neural net``: y_n ~ N(net(x_n), 0.1^2) with two hidden layers of 20 tanh, every weight ~ N(0, 1); N = 100
- ``process``: y ~ N(0, K), K_nm = variance exp(-(x_n - x_m)^2 / (2 length^2)) + noise [n = m],
  all three ~ Gamma(2, 2); N = 100

Eight of other kinds:

- ``eight schools``: y_j ~ N(mu + tau eta_j, sigma_j^2), eta_j ~ N(0, 1), mu ~ N(0, 10^2), tau ~ Gamma(2, 0.2)
- ``conjugate normal``: x_n ~ N(mean, Sigma), mean ~ N(0, Sigma), Sigma ~ InverseWishart(7, I); N = 200, D = 5
- ``mixture``: x_n ~ sum_k w_k N(mean_k, Sigma_k), w ~ Dirichlet(2, 2), mean_k ~ N(0, 10^2 I),
  Sigma_k ~ InverseWishart(4, I); 272 eruptions, D = 2
- ``LKJ hierarchy``: y_n ~ N(x_n . b_g(n), noise^2), b_g ~ N(beta, L L^T), with the priors of ``sleepstudy``;
  10 groups of 20 rows, D = 3
- ``factor model``: x_n ~ N(mean, W W^T + diag(d)), mean ~ N(0, 10^2 I), W_ij ~ N(0, 1), d_i ~ Gamma(2, 2); N = 200,
  D = 10, two factors
- ``Student t``: y_n ~ t(nu, w . x_n, s^2), w ~ N(0, 10^2 I), s^2 ~ Gamma(2, 2), nu ~ Gamma(2, 0.1); the patients
- ``logistic``: y_n ~ Bernoulli(1 / (1 + exp(-w . x_n))), w ~ N(0, 10^2 I); which patients are above the mean
- ``volatility``: y_t ~ N(0, exp(h_t)), h ~ N(mu, K), K_st = 0.9^|s - t|, mu ~ N(0, 10^2); the DAX on 200 days
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
TABLES = Path(__file__).parents[1] / "examples" / "data"
TAU = (2.0, 0.2)  # shape and rate
FREEDOM = (2.0, 0.1)  # shape and rate
DIRICHLET = 2.0
COMPONENTS = 2
GROUPS, ROWS_OF_A_GROUP, PREDICTORS = 10, 20, 3
FACTORS = 2
DAYS, PERSISTENCE = 200, 0.9


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
    y = _columns("sleepstudy", "Reaction").reshape(18, 10)
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


def eight_schools():
    """Effects y (8,) of coaching in eight schools, and their standard errors (8,) (Rubin, 1981)."""
    y, sd = [28, 8, -3, 7, -1, 1, 18, 12], [15, 10, 16, 11, 9, 11, 10, 18]
    return {"y": np.array(y, "float32"), "sd": np.array(sd, "float32")}


def conjugate_normal():
    """Rows of a correlated normal: x (200, 5)."""
    return {"x": gaussian()["x"]}


def freedom(dim):
    """Degrees of freedom of the inverse Wishart priors of D x D covariances: those whose mean is the scale, I."""
    return dim + 2.0


def mixture():
    """Lengths of the eruptions of a geyser and of the waits after them, standardised: x (272, 2)."""
    return {"x": _standardised(_columns("faithful", "eruptions", "waiting"))}


def lkj_hierarchy():
    """Rows in groups, each with coefficients of its own: y (200,), x (200, 3), and the group of each row, (200,)."""
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(GROUPS), ROWS_OF_A_GROUP)
    x = rng.normal(size=(len(groups), PREDICTORS))
    coefficients = rng.multivariate_normal(np.ones(PREDICTORS), random_covariance(rng, PREDICTORS), size=GROUPS)
    y = (x * coefficients[groups]).sum(axis=1) + rng.normal(size=len(groups))
    return {"y": y.astype("float32"), "x": x.astype("float32"), "groups": groups.astype("int32")}


def factor_model(rows=200, dim=10):
    """Rows that two factors correlate: x (N, D)."""
    rng = np.random.default_rng(2)
    loadings = rng.normal(size=(dim, FACTORS))
    x = rng.normal(size=(rows, FACTORS)) @ loadings.T + 0.5 * rng.normal(size=(rows, dim))
    return {"x": x.astype("float32")}


student_t = regression


def logistic():
    """The patients: x (442, 10), and whether y (442,) is above its mean."""
    data = regression()
    return {"x": data["x"], "y": (data["y"] > 0).astype("float32")}


def volatility():
    """The last 200 daily returns of the DAX, standardised: y (200,), and the covariance K (200, 200)."""
    returns = np.diff(np.log(_columns("eustockmarkets", "DAX")))[-DAYS:]
    days = np.arange(DAYS)
    covariance = PERSISTENCE ** np.abs(days[:, None] - days)
    return {"y": _standardised(returns), "covariance": covariance.astype("float32")}


def net_shapes(inputs=1, outputs=1):
    """Shapes of the weights of the neural net, by name, layer by layer."""
    sizes = [inputs, HIDDEN, HIDDEN, outputs]
    shapes = {}
    for layer, pair in enumerate(zip(sizes, sizes[1:])):
        shapes[f"weight{layer}"], shapes[f"bias{layer}"] = pair, pair[1:]
    return shapes


def _columns(table, *names):
    """Columns of one of the tables of the examples, (N, number of columns), or (N,) for one."""
    with (TABLES / f"{table}.csv").open(newline="") as file:
        rows = [[float(row[name]) for name in names] for row in csv.DictReader(file)]
    return np.array(rows) if len(names) > 1 else np.array(rows)[:, 0]


def _standardised(array):
    return ((array - array.mean(axis=0)) / array.std(axis=0)).astype("float32")
