# SPDX-License-Identifier: Apache-2.0
"""Learn to hold a ship in place, with a network whose action is a Gaussian of full covariance.

Wind and waves push a ship about. A weak and a strong thruster hold it in place; they push in nearly the same direction,
and share one generator, so that their powers add up. In each step t, with position and velocity x_t, powers u_t and
gusts w_t, the cost and the motion are::

    x^T Q x + u^T R u        x_t+1 = A x_t + B u_t + w_t

A policy is a density p(u|x). The learner knows none of these matrices, only the states and costs of simulated
trips. It minimises the cost of a whole trip, with a bonus for entropy, which keeps it exploring::

    E sum_t gamma^t (x^T Q x + u^T R u + tau log p(u|x))

Here the best policy is known. If the remaining cost is x^T P x + constant, an action costs, up to terms free of u::

    (u + K x)^T M (u + K x) + ...        M = R + gamma B^T P B        K = gamma M^-1 B^T P A

Among all densities, E[cost of u] + tau E[log p(u|x)] is least for p proportional to exp(-cost of u / tau), and so::

    p(u|x) = N(-K x, tau/2 M^-1)        P = Q + gamma A^T P (A - B K)

The second is the Riccati equation of control without the bonus, so the mean of the best policy is the best controller
(X. Guo, X. Li, R. Xu: Fast policy learning for linear-quadratic control with entropy regularization, SIAM J. Control
Optim. 64(1), 2026, arXiv 2311.14168). Its covariance is far from diagonal: where one thruster does too much and the
other too little, it costs next to nothing.

The policy is a Gluon network, hybridized, that ends in a :class:`~mxfusion_mvn.gluon.MultivariateNormalHead`. It is
trained by the policy gradient, from scratch for each of several seeds. The script prints

1. the cost of always taking the mean action of the learned policy, beside the cost of the best controller;
2. the covariance of the learned policy beside tau/2 M^-1, and the divergence between the two policies;

and draws both. It ends with an error if they differ by more than the bounds it prints.

Run ``python examples/policy_gradient.py``; it takes about 20 seconds.
"""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

# On Python 3.12 MXNet can only be imported by way of this package, so it comes before mxnet.
from mxfusion_mvn import Gaussian
from mxfusion_mvn.gluon import MultivariateNormalHead

import mxnet as mx
import numpy as np
from mxnet import autograd
from mxnet.gluon import HybridBlock, Trainer, nn
from policy_gradient_report import draw_picture, print_table

STEP = 0.5  # minutes
ANGLES = np.radians([25.0, -10.0])  # where the weak and the strong thruster push to
THRUST = np.array([1.0, 1.6])
DIRECTIONS = THRUST * np.array([np.cos(ANGLES), np.sin(ANGLES)])  # (2, 2), a column for each thruster

# The state is the position and the velocity, each in two dimensions.
A = np.block([[np.eye(2), STEP * np.eye(2)], [np.zeros((2, 2)), 0.9 * np.eye(2)]])
B = np.vstack([np.zeros((2, 2)), STEP * DIRECTIONS])
Q = np.diag([1.0, 1.0, 0.0, 0.0])
R = np.array([[0.4, 0.3], [0.3, 0.4]])
START = np.array([1.0, 1.0, 0.5, 0.5])  # sd of the first state
GUSTS = np.array([0.05, 0.05, 0.1, 0.1])  # sd of w
DISCOUNT, TEMPERATURE = 0.9, 0.2  # gamma and tau

TRIPS, STEPS = 256, 20  # in each iteration of the training
WIDTH = 32  # of the hidden layer
LEARNING_RATE = 0.02
TEST_STEPS = 80  # gamma^80 is 0.0002: later costs do not count
RATIO_BOUND, DIVERGENCE_BOUND = 1.05, 0.02


class Optimum(NamedTuple):
    """The best policy, and the cost of the best controller."""

    gain: np.ndarray  # K (2, 4)
    curvature: np.ndarray  # M (2, 2)
    covariance: np.ndarray  # (2, 2)
    cost: float


class Glance(NamedTuple):
    """A policy during its training."""

    iteration: int
    ratio: float  # of its cost to the cost of the best controller
    covariance: np.ndarray  # (2, 2), averaged over states


class Result(NamedTuple):
    """A trained policy, tested."""

    history: list  # of Glance
    cost: float  # simulated
    ratio: float  # to the simulated cost of the best controller
    closed_form_ratio: float
    covariance: np.ndarray  # (2, 2), averaged over states
    divergence: float  # of the covariances, in nats
    paths: np.ndarray  # (steps, trips, 2), positions


class Policy(HybridBlock):
    """A network from states (..., 4) to the mean (..., 2) and the Cholesky factor (..., 2, 2) of the action."""

    def __init__(self):
        super().__init__()
        with self.name_scope():
            self.body = nn.Dense(WIDTH, activation="tanh", flatten=False)
            self.head = MultivariateNormalHead(dim=2)

    def hybrid_forward(self, F, state):
        """The distribution of the action; F is mxnet.sym because the block is hybridized."""
        return self.head(self.body(state))


class Act(HybridBlock):
    """A draw from the policy, and how likely it was."""

    def __init__(self, policy):
        super().__init__()
        with self.name_scope():
            self.policy = policy

    def hybrid_forward(self, F, state, noise):
        """The action for standard normals (..., 2), and its log density (...)."""
        mean, scale_tril = self.policy(state)
        actions = Gaussian(mean, scale_tril=scale_tril)
        action = actions.draw_samples(noise=noise)
        return action, actions.log_pdf(action)


class Surrogate(HybridBlock):
    """A function whose gradient is the policy gradient (R. J. Williams, Machine Learning 8, 1992)."""

    def __init__(self, policy):
        super().__init__()
        with self.name_scope():
            self.policy = policy

    def hybrid_forward(self, F, state, action, advantage):
        """The mean of log p(action|state) times the excess of the cost of the action over the expected cost."""
        mean, scale_tril = self.policy(state)
        return F.mean(advantage * Gaussian(mean, scale_tril=scale_tril).log_pdf(action))


def train(seed, iterations, examine):
    """
    Train a policy by the policy gradient.

    :param seed: of everything random.
    :param iterations: how many steps to take.
    :param examine: called as examine(iteration, policy) before some of the steps and after the last.
    :returns: the policy.
    """
    mx.random.seed(seed)
    policy = Policy()
    # Small weights: a ship that begins by steering wildly is soon where tanh is flat, and nothing is learned.
    policy.initialize(mx.init.Normal(0.1))
    act, surrogate = Act(policy), Surrogate(policy)
    for block in (act, surrogate):
        block.hybridize()  # and the policy with it
    schedule = mx.lr_scheduler.PolyScheduler(iterations, base_lr=LEARNING_RATE, final_lr=LEARNING_RATE / 100, pwr=1)
    trainer = Trainer(policy.collect_params(), "adam", {"learning_rate": LEARNING_RATE, "lr_scheduler": schedule})
    value = np.zeros(1 + 4 * 4)
    for iteration in range(iterations):
        if iteration % 2 == 0:
            examine(iteration, policy)
        states, actions, costs = travel(act)
        advantage, value = compare(costs.asnumpy(), states.asnumpy(), value)
        with autograd.record():
            loss = surrogate(states[:-1], actions, mx.nd.array(advantage))
        loss.backward()
        trainer.step(batch_size=1)
    examine(iterations, policy)
    return policy


def travel(act):
    """
    Make some trips at once, following the policy.

    :param act: Act.
    :returns: states (STEPS + 1, TRIPS, 4), actions (STEPS, TRIPS, 2), and costs with the bonus (STEPS, TRIPS).
    """
    motion, effect = mx.nd.array(A.T), mx.nd.array(B.T)
    noise = mx.nd.random.normal(shape=(STEPS, TRIPS, 2))
    gusts = mx.nd.array(GUSTS) * mx.nd.random.normal(shape=(STEPS, TRIPS, 4))
    states, actions, log_pdfs = [mx.nd.array(START) * mx.nd.random.normal(shape=(TRIPS, 4))], [], []
    for step in range(STEPS):
        action, log_pdf = act(states[-1], noise[step])
        states.append(mx.nd.dot(states[-1], motion) + mx.nd.dot(action, effect) + gusts[step])
        actions.append(action)
        log_pdfs.append(log_pdf)
    states, actions = mx.nd.stack(*states), mx.nd.stack(*actions)
    costs = quadratic(states[:-1], Q) + quadratic(actions, R) + TEMPERATURE * mx.nd.stack(*log_pdfs)
    return states, actions, costs


def quadratic(x, matrix):
    """x^T matrix x for every vector x."""
    return mx.nd.sum(mx.nd.dot(x, mx.nd.array(matrix)) * x, axis=-1)


def compare(costs, states, value):
    """
    The excess of the actions' costs over the expected cost: the cost-to-go less a baseline of the state alone.

    Its noise is small at the end of the training, because the cost has the log density in it: for the best policy, cost
    and expected remaining cost add up to the same for every action.

    :param costs: (STEPS, TRIPS).
    :param states: (STEPS + 1, TRIPS, 4).
    :param value: weights of the baseline, from the trips before.
    :returns: advantages (STEPS, TRIPS), standardised, and the new weights.
    """
    features = value_features(states)
    to_go = features[-1] @ value  # in place of all costs after the last step
    totals = np.empty(costs.shape)
    for step in reversed(range(len(costs))):
        to_go = totals[step] = costs[step] + DISCOUNT * to_go
    advantage = totals - features[:-1] @ value
    value = np.linalg.lstsq(features[:-1].reshape(totals.size, -1), totals.ravel(), rcond=None)[0]
    return (advantage - advantage.mean()) / advantage.std(), value


def value_features(states):
    """Products of two entries, and 1: (..., 4) to (..., 17)."""
    products = states[..., :, None] * states[..., None, :]
    return np.concatenate([np.ones(states.shape[:-1] + (1,)), products.reshape(states.shape[:-1] + (-1,))], axis=-1)


def solve_control():
    """The best policy, by iterating the Riccati equation."""
    P = Q
    for _ in range(1000):
        curvature = R + DISCOUNT * B.T @ P @ B
        gain = DISCOUNT * np.linalg.solve(curvature, B.T @ P @ A)
        P = Q + DISCOUNT * A.T @ P @ (A - B @ gain)
    # x_0^T P x_0 in expectation, and w^T P w discounted by how far ahead each gust is.
    cost = np.trace(P * START**2) + DISCOUNT / (1 - DISCOUNT) * np.trace(P * GUSTS**2)
    return Optimum(gain, curvature, TEMPERATURE / 2 * np.linalg.inv(curvature), cost)


class Trials:
    """
    Trips to compare controllers on: the starts and the gusts are the same for all.

    The starts have exactly the second moments they should have, which takes most of the noise out of the costs.

    :param optimum: Optimum.
    :param trips: how many.
    """

    def __init__(self, optimum, trips):
        rng = np.random.default_rng(0)
        self.optimum = optimum
        normals = rng.normal(size=(trips, 4))
        self.start = START * np.linalg.solve(np.linalg.cholesky(normals.T @ normals / trips), normals.T).T
        self.gusts = GUSTS * rng.normal(size=(TEST_STEPS, trips, 4))

    def simulate(self, controller, start=None):
        """
        Let a controller steer.

        :param controller: function from states (trips, 4) to actions (trips, 2).
        :param start: first states (trips or fewer, 4), by default the starts of the trials.
        :returns: states (TEST_STEPS, trips, 4) and actions (TEST_STEPS, trips, 2).
        """
        x = self.start if start is None else start
        states, actions = [], []
        for gust in self.gusts:
            states.append(x)
            actions.append(controller(x))
            x = x @ A.T + actions[-1] @ B.T + gust[: len(x)]
        return np.array(states), np.array(actions)

    def cost(self, states, actions):
        """The discounted cost of the trips that :meth:`simulate` returned."""
        return total(np.sum(states @ Q * states, axis=-1) + np.sum(actions @ R * actions, axis=-1))

    def closed_form_ratio(self, states, actions):
        """
        The cost over the optimum of :func:`solve_control`, with little noise, and never below 1.

        A controller exceeds the cost of the best one by the sum of the excess costs of its actions (S. Kakade, J.
        Langford, ICML 2002, lemma 6.1), which is the quadratic form of M in how far the action is from the best.
        """
        error = actions + states @ self.optimum.gain.T
        return 1 + total(np.sum(error @ self.optimum.curvature * error, axis=-1)) / self.optimum.cost

    def spread(self, states, policy):
        """The covariance of a policy (2, 2) and its divergence from the best, averages with weights gamma^t."""
        mean, scale_tril = policy(mx.nd.array(states))
        learned = Gaussian(mean, scale_tril=scale_tril)
        best = Gaussian(mean, covariance=mx.nd.array(self.optimum.covariance))
        share = (1 - DISCOUNT) / (1 - DISCOUNT ** len(states))
        return share * total(learned.covariance.asnumpy()), share * total(learned.kl_divergence(best).asnumpy())


def total(per_step):
    """Sum over the first axis with weights gamma^t; mean over the second."""
    return np.tensordot(DISCOUNT ** np.arange(len(per_step)), per_step.mean(axis=1), axes=1)


def steer_by(policy):
    """The controller that takes the mean action of a policy."""
    return lambda states: policy(mx.nd.array(states))[0].asnumpy()


def steer_best(optimum):
    """The best controller."""
    return lambda states: -states @ optimum.gain.T


def learn(seed, iterations, trials, starts):
    """Train from one seed and test the policy; starts (trips, 4) are the first states of the paths to draw."""
    history, few = [], Trials(trials.optimum, trips=100)

    def examine(iteration, policy):
        states, actions = few.simulate(steer_by(policy))
        history.append(Glance(iteration, few.closed_form_ratio(states, actions), few.spread(states, policy)[0]))

    policy = train(seed, iterations, examine)
    states, actions = trials.simulate(steer_by(policy))
    cost, best_cost = trials.cost(states, actions), trials.cost(*trials.simulate(steer_best(trials.optimum)))
    closed_form_ratio = trials.closed_form_ratio(states, actions)
    paths = trials.simulate(steer_by(policy), starts)[0][..., :2]
    return Result(history, cost, cost / best_cost, closed_form_ratio, *trials.spread(states, policy), paths)


def main(arguments=None):
    """Train, print and draw; the exit status is 1 if a bound is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=60, help="of the training (default: 60)")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[1, 2, 3, 4], help="one training each (default: 1 2 3 4)"
    )
    parser.add_argument("--output", type=Path, default=Path("policy_gradient.png"), help="the picture")
    options = parser.parse_args(arguments)

    optimum = solve_control()
    trials = Trials(optimum, trips=1000)
    angles = 2 * np.pi * np.arange(5) / 5
    starts = 2 * np.stack([np.cos(angles), np.sin(angles), 0 * angles, 0 * angles], axis=1)
    results = {seed: learn(seed, options.iterations, trials, starts) for seed in options.seeds}

    best_cost = trials.cost(*trials.simulate(steer_best(optimum)))
    print_table(optimum, best_cost, results, RATIO_BOUND, DIVERGENCE_BOUND)
    best_paths = trials.simulate(steer_best(optimum), starts)[0][..., :2]
    draw_picture(options.output, optimum, best_paths, results, RATIO_BOUND, DIRECTIONS)
    print(f"\nThe picture is in {options.output.resolve()}")
    if not all(within_bounds(result) for result in results.values()):
        print("The policy has not converged; try more --iterations.", file=sys.stderr)
        return 1
    return 0


def within_bounds(result):
    """Whether a training succeeded; not if anything is NaN."""
    ratios = (result.ratio, result.closed_form_ratio)
    return all(ratio <= RATIO_BOUND for ratio in ratios) and result.divergence <= DIVERGENCE_BOUND


if __name__ == "__main__":
    sys.exit(main())
