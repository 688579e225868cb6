"""Finite sums: terms, blocks, bounds, dense = sparse = function, SGD's schedules and averages, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.sparse
from sklearn.linear_model import LogisticRegression

from corollary.core import InputError, Status
from corollary.optim import SAGA, SGD, SVRG, FiniteSum, minimize, penalties
from corollary.optim.stochastic import _epoch as E
from corollary.optim.stochastic._losses import LOSSES

N, D = 23, 4
VALUES = {
    "logistic": lambda z, y: np.logaddexp(0, -y * z),
    "squared": lambda z, y: (z - y) ** 2 / 2,
    "huber": lambda z, y: np.where(abs(z - y) <= 1.35, (z - y) ** 2 / 2, 1.35 * (abs(z - y) - 1.35 / 2)),
    "squared_hinge": lambda z, y: np.maximum(1 - y * z, 0) ** 2 / 2,
}


def data(loss="logistic"):
    rng = np.random.default_rng(1)
    X = rng.normal(size=(N, D)) * (rng.random((N, D)) < 0.6)
    y = 3 * rng.normal(size=N)
    return X, np.where(y > 0, 1.0, -1.0) if loss in ("logistic", "squared_hinge") else y


@pytest.mark.parametrize("loss", VALUES)
@pytest.mark.parametrize("sparse", [False, True])
def test_a_pass_over_blocks_is_the_objective_its_gradient_and_a_bound(loss, sparse, x64):
    """With 23 rows in blocks of 8 the last reaches back over one row that must not count twice."""
    X, y = data(loss)
    problem = FiniteSum(loss, scipy.sparse.csr_array(X) if sparse else X, y, l2=0.1, penalty=penalties.L1(0.02))
    look = jax.jit(lambda x: E.snapshot(problem, x, 8))
    F = lambda x: VALUES[loss](X @ x, y).mean() + 0.05 * x @ x + 0.02 * np.abs(x).sum()  # noqa: E731
    best, t = np.zeros(D), 1 / (np.linalg.norm(X, 2) ** 2 / N + 0.1)
    for _ in range(400):  # plain proximal gradient
        theta = np.array([(VALUES[loss](X @ best + h, y) - VALUES[loss](X @ best - h, y)) / 2e-6 for h in [1e-6]])[0]
        v = best - t * (X.T @ theta / N + 0.1 * best)
        best = v - np.clip(v, -0.02 * t, 0.02 * t)
    rng = np.random.default_rng(0)
    for x in (*rng.normal(size=(5, D)), 1e-9 * np.ones(D), best):
        at = look(jnp.asarray(x))
        assert np.isclose(at.objective, F(x), rtol=1e-13)
        assert np.isclose(problem.objective(x), F(x), rtol=1e-13)
        assert float(at.lower) <= F(best) * (1 + 1e-14)
        smooth = lambda v: VALUES[loss](X @ v, y).mean() + 0.05 * v @ v  # noqa: E731
        slopes = [(smooth(x + h) - smooth(x - h)) / 2e-6 for h in 1e-6 * np.eye(D)]
        np.testing.assert_allclose(at.gradient, slopes, atol=1e-7)
    assert F(best) - float(at.lower) < 1e-8  # the gap closes at the solution


def test_smoothness_bounds_every_block(x64):
    X, y = data()
    for b in (1, 4, 8):
        problem, blocks = FiniteSum("logistic", X, y, l2=0.1, shuffle=False), -(-N // b)
        L = float(E.smoothness(problem, jnp.zeros(D), b))
        rows = [X[k * b : (k + 1) * b] for k in range(blocks)]
        exact = max(np.linalg.norm(A, 2) ** 2 for A in rows) / 4 * blocks / N + 0.1
        assert exact * (1 - 1e-12) <= L <= exact * 1.2


def test_conjugates_obey_fenchels_equality(x64):
    rng = np.random.default_rng(2)
    z, s = jnp.asarray(3 * rng.normal(size=50)), jnp.where(jnp.asarray(rng.random(50)) < 0.5, 1.0, -1.0)
    delta = jnp.asarray(1.35)
    for phi in LOSSES.values():
        theta = phi.slope(z, s, delta)
        np.testing.assert_allclose(phi.conjugate(theta, s, delta), theta * z - phi.value(z, s, delta), atol=1e-12)
        assert float(phi.curvature(z, s, delta).max()) <= phi.smoothness


@pytest.mark.parametrize(("solver", "tol"), [(SVRG(), 1e-9), (SAGA(), 1e-7)])
def test_a_function_of_a_pytree_reaches_the_linear_models_answer(solver, tol):
    X, y = data()

    def loss(x, example):
        return jax.nn.softplus(-example["y"] * (example["a"] @ x["w"] + x["b"]))

    problem = FiniteSum(loss, {"a": X, "y": y}, l2=0.1)
    solution = minimize(problem, {"w": np.zeros(D), "b": np.zeros(())}, solver, tol=tol, max_steps=500)
    fit = LogisticRegression(C=10 / N, fit_intercept=False, solver="newton-cholesky", tol=1e-13)
    expected = fit.fit(np.column_stack([X, np.ones(N)]), y).coef_[0]
    assert solution.converged
    assert list(solution.certificates) == ["stationarity"]
    np.testing.assert_allclose(np.append(solution.value["w"], solution.value["b"]), expected, atol=100 * tol)


def test_auto_chooses_and_says_why():
    solution = minimize(FiniteSum("squared", *data("squared"), l2=0.1), tol=1e-9, max_steps=500)
    assert solution.converged
    assert "SAGA" in str(solution.stats["solver"])
    rng = np.random.default_rng(0)
    tall = FiniteSum("squared", rng.normal(size=(64, D)), np.ones(64), l2=0.1)
    assert tall.default_solver()[0].precondition
    assert isinstance(FiniteSum(lambda x, e: (x - e) ** 2, np.ones(3)).default_solver()[0], SVRG)


SCHEDULES = [
    ("sqrt", "suffix"),
    ("inverse", "weighted"),
    (optax.cosine_decay_schedule(0.5, 40 * 23), "uniform"),
    ("constant", None),
]


@pytest.mark.parametrize(("schedule", "average"), SCHEDULES)
def test_sgd_is_its_naive_twin(schedule, average):
    """Single rows, reshuffled, ten passes."""
    X, y = data()
    problem = FiniteSum("logistic", X, y, l2=0.1, shuffle=False)
    solution = minimize(
        problem, np.ones(D), SGD(schedule, average=average, batch_size=1), tol=0.0, max_steps=10, history=True
    )
    L = 0.25 * (X**2).sum(1).max() + 0.1
    key, x, mean, t, objectives = jax.random.key(0), np.ones(D), np.ones(D), 0, []
    lengths = {"constant": lambda t: 0.5 / L, "sqrt": lambda t: 0.5 / L / np.sqrt(t + 1)}
    lengths["inverse"] = lambda t: 2 / (4 * L + 0.1 * t)
    eta = lengths.get(schedule) if isinstance(schedule, str) else lambda t: float(schedule(t))
    for _ in range(10):
        key, draw = jax.random.split(key)
        for i in np.asarray(E.order(draw, "reshuffle", N, N)):
            x = x - eta(t) * (-y[i] * X[i] / (1 + np.exp(y[i] * (X[i] @ x))) + 0.1 * x)
            start = 2 ** int(np.log2(t + 1))
            weight = {"uniform": 1 / (t + 1), "weighted": 2 / (t + 2), "suffix": 1 / (t + 2 - start), None: 1.0}[
                average
            ]
            mean, t = mean + weight * (x - mean), t + 1
        objectives.append(VALUES["logistic"](X @ mean, y).mean() + 0.05 * mean @ mean)
    # Optax's schedules may compute in single precision outside.
    np.testing.assert_allclose(
        solution.history["objective"][:10], objectives, rtol=1e-6 if callable(schedule) else 1e-10
    )
    assert solution.status == Status.MAX_STEPS  # noise is left, and it says so


def test_rows_of_a_sparse_matrix_must_be_of_like_length():
    A = scipy.sparse.lil_array((400, 300))
    A[0, :] = 1.0
    A[:, 0] = 1.0
    with pytest.raises(InputError, match="data: found a fullest row of 300"):
        FiniteSum("squared", A.tocsr(), np.ones(400))


def test_bounds_that_overflow_or_come_from_an_inexact_prox(x64):
    """x = u/l2 whose square overflows is no infinite bound; a prox that stops at a gap is charged with the gap."""
    X, y = (a.astype(np.float32) for a in data("squared"))
    for scale, l2 in ((1.0, 1e-8), (1e12, 1e-32)):
        problem = FiniteSum("squared", X / np.float32(scale), y, l2=np.float32(l2))
        at = E.snapshot(problem, jnp.zeros(D, jnp.float32), 8)
        assert float(at.lower) <= float(at.objective)
        huge = problem.lower_bound(at.table * np.float32(1e25), at.data * np.float32(1e25))
        assert float(huge) <= float(at.objective)  # no +inf, no NaN
    edges = np.stack([np.arange(D - 1), np.arange(1, D)], 1)
    rows, goals = data("squared")
    exact = FiniteSum("squared", rows, goals, l2=1e-2, penalty=penalties.TotalVariation(0.3))
    rough = penalties.GraphTotalVariation(edges, 0.3, tol=0.5, max_steps=2)
    loose = FiniteSum("squared", rows, goals, l2=1e-2, penalty=rough)
    at = E.snapshot(exact, jnp.linspace(-1, 1, D), 8)
    assert float(loose.lower_bound(at.table, at.data)) <= float(at.lower) < np.inf


def test_a_short_step_is_no_success():
    """The rounding of a gradient has nothing to do with the step."""
    for solver in (SVRG(step_size=2e-7), SGD(optax.linear_schedule(1e-3, 0.0, 4))):
        problem = FiniteSum("squared", *data("squared"))
        run = minimize(problem, np.ones(D), solver, max_steps=3, tol=1e-9)
        assert run.status == Status.MAX_STEPS
        assert float(run.certificates["stationarity"].bound) < 1e-6
    with jax.enable_x64(False):
        X, y = (jnp.asarray(a, jnp.float32) for a in data("squared"))
        run = minimize(FiniteSum("squared", X, y), jnp.ones(D), SVRG(step_size=1e-9), max_steps=3)
        assert run.status == Status.MAX_STEPS


def test_smoothness_where_the_hessian_vanishes_and_of_short_blocks(x64):
    """A function that is linear at the start gets a step of its own scale; a block counts for N·b/n terms."""

    def huber(c, x, e):
        r = jnp.abs(x - e)
        return c * jnp.sum(jnp.where(r < 1, r**2 / 2, r - 0.5))

    for c in (1.0, 1e-16, 1e16):
        problem = FiniteSum(jax.tree_util.Partial(huber, jnp.asarray(c)), jnp.linspace(-0.5, 0.5, N)[:, None])
        run = minimize(problem, jnp.full(1, 50.0), max_steps=100)
        assert run.converged
        np.testing.assert_allclose(run.value, 0, atol=1e-5)
    short = FiniteSum(lambda x, e: (x - e) @ (x - e) / 2, np.ones((17, 1)), lipschitz=1.0)
    block = jax.jacfwd(lambda x: short.terms.local(x, jnp.int32(0), 16)[1])(jnp.zeros(1))
    assert float(block[0, 0]) <= float(E.smoothness(short, jnp.zeros(1), 16)) * (1 + 1e-12)


def test_the_metric_does_not_overflow():
    """M = P⁻¹ has entries of 1e20 and more; its square would leave float32."""
    rng = np.random.default_rng(0)
    X, y = (rng.normal(size=(64, D)) / 1e12).astype(np.float32), rng.normal(size=64).astype(np.float32)
    with jax.enable_x64(False):
        problem = FiniteSum("squared", jnp.asarray(X), jnp.asarray(y), l2=1e-26)
        metric = E.metric_of(problem, True)
        assert 0.1 < float(E.smoothness(problem, jnp.zeros(D), 4, metric)) < 100


BAD = [
    (lambda: FiniteSum("hinge", *data()), "loss: found 'hinge'"),
    (lambda: FiniteSum("logistic", data()[0]), "y: found None"),
    (lambda: FiniteSum("logistic", data()[0], np.arange(N)), "y: found values"),
    (lambda: FiniteSum("logistic", data()[0], np.arange(N) % 3 - 1), "y: found values"),
    (lambda: SGD(optax.constant_schedule(0.1), 0.2), "step_size: found 0.2"),
    (lambda: FiniteSum("squared", data()[0], np.ones(N + 1)), "y: found 24 entries, expected 23"),
    (lambda: FiniteSum("squared", data()[0] * np.nan, np.ones(N)), "data: found NaN"),
    (lambda: FiniteSum("squared", *data(), l2=-1.0), "l2: found -1.0"),
    (lambda: FiniteSum("squared", *data(), penalty="l1"), "penalty: found str"),
    (lambda: FiniteSum("squared", *data(), lipschitz=0.0), "lipschitz: found 0.0"),
    (lambda: FiniteSum(lambda x, e: x, [np.ones(3), np.ones(2)]), "data: found shapes"),
    (lambda: FiniteSum(lambda x, e: x, np.ones((0, 2))), "data: found no rows"),
    (lambda: FiniteSum(lambda x, e: x, np.ones(3), np.ones(3)), "y: found an array"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()
