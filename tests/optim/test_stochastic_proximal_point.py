"""Stochastic proximal point: its subproblem, the Kaczmarz limit, stability where SGD diverges, the optimum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from corollary.core import InputError
from corollary.optim import SGD, FiniteSum, StochasticProximalPoint, minimize, penalties, prox_of_term

N, D, L2 = 48, 5, 0.05


def data():
    rng = np.random.default_rng(3)
    X = rng.normal(size=(N, D)) * np.linspace(1, 0.4, D)
    return X, (X[:, 0] + rng.normal(size=N) > 0).astype(float)


SLOPES = {
    "logistic": lambda z, y: -y / (1 + np.exp(y * z)),
    "squared": lambda z, y: z - y,
    "huber": lambda z, y: np.clip(z - y, -1.35, 1.35),
    "squared_hinge": lambda z, y: -y * max(1 - y * z, 0.0),
}


@pytest.mark.covers("stochastic-proximal-point")
@pytest.mark.parametrize("loss", SLOPES)
@pytest.mark.parametrize("l2", [None, 0.3])
def test_step_solves_its_subproblem(loss, l2, x64):
    """Optimality, f_i'(u) + l2·u + (u − x)/η = 0, to 1e-10 of ‖x‖/η and rounding, over nine decades of η."""
    X, y = data()
    problem = FiniteSum(loss, 30 * X[:6], y[:6], l2=l2, shuffle=False)
    sign = 2 * y - 1 if loss in ("logistic", "squared_hinge") else y
    x = np.linspace(-2, 2, D)
    step = jax.jit(jax.vmap(lambda k, eta: prox_of_term(problem, jnp.asarray(x), k, eta)))
    k, eta = (a.ravel() for a in np.meshgrid(np.arange(6), 10.0 ** np.arange(-4, 6)))
    for i, t, u in zip(k, eta, np.asarray(step(k, eta)), strict=True):
        a = 30 * X[i]
        residual = SLOPES[loss](a @ u, sign[i]) * a + (l2 or 0) * u + (u - x) / t
        # Rounding a @ u alone moves the first term by eps·‖a‖²‖u‖.
        noise = 8 * np.finfo(float).eps * (a @ a) * np.linalg.norm(u)
        assert np.linalg.norm(residual) <= 1e-10 * np.linalg.norm(x) / t + noise


@pytest.mark.covers("stochastic-proximal-point")
def test_long_steps_are_kaczmarz_projections():
    X, b = data()[0], np.random.default_rng(0).normal(size=N)
    problem, x = FiniteSum("squared", X, b, shuffle=False), np.ones(D)
    for i in (0, 7):
        u = prox_of_term(problem, jnp.asarray(x, jnp.float32), i, 1e8)
        np.testing.assert_allclose(u, x + (b[i] - X[i] @ x) / (X[i] @ X[i]) * X[i], rtol=2e-6, atol=2e-6)


def test_numpy_in_numpy_out():
    problem = FiniteSum("squared", np.eye(2), np.ones(2), shuffle=False)
    found = prox_of_term(problem, np.zeros(2), 0, 1e12)
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.float64


@pytest.mark.covers("stochastic-proximal-point")
def test_a_consistent_system_is_solved_by_projections_where_sgd_diverges():
    """At a step of a thousand times 1/L; with noise-free data every projection brings x* nearer."""
    X = data()[0]
    problem = FiniteSum("squared", X, X @ np.ones(D), shuffle=False)
    step = 1e3 / (X**2).sum(1).max()
    point = minimize(
        problem,
        np.zeros(D),
        StochasticProximalPoint(step, variance_reduced=False, sampling="reshuffle"),
        tol=1e-9,
        max_steps=200,
    )
    assert point.converged
    np.testing.assert_allclose(point.value, 1, atol=1e-6)
    sgd = minimize(problem, np.zeros(D), SGD("constant", step, batch_size=1), tol=1e-9, max_steps=3)
    assert not sgd.converged
    assert float(sgd.stats["objective"]) >= 0.9 * problem.objective(np.zeros(D))


@pytest.mark.covers("stochastic-proximal-point")
def test_variance_reduction_reaches_scikit_learns_optimum():
    X, y = data()
    solution = minimize(FiniteSum("logistic", X, y, l2=L2), solver=StochasticProximalPoint(), tol=1e-13, max_steps=500)
    fit = LogisticRegression(C=1 / (N * L2), fit_intercept=False, solver="newton-cholesky", tol=1e-13).fit(X, y)
    assert solution.converged
    assert solution.holds
    np.testing.assert_allclose(solution.value, fit.coef_[0], atol=1e-6)


BAD = [
    (lambda: StochasticProximalPoint(0.0), "step_size: found 0.0"),
    (lambda: StochasticProximalPoint(sampling="all"), "sampling: found 'all'"),
    (
        lambda: StochasticProximalPoint().check(FiniteSum(lambda x, e: x * e, np.ones(3))),
        "found a sum of functions, expected a named loss",
    ),
    (
        lambda: StochasticProximalPoint().check(FiniteSum("squared", *data(), penalty=penalties.L1(1.0))),
        "found the penalty L1",
    ),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()
