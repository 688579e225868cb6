"""SVRG and its family: scikit-learn's optimum, naive twins, unbiasedness by enumeration, and the theorems' factors."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import ElasticNet as SklearnElasticNet
from sklearn.linear_model import LogisticRegression

from corollary.core import InputError
from corollary.optim import (
    SAG,
    SAGA,
    SARAH,
    SGD,
    SGDBB,
    SVRG,
    SVRGBB,
    Composite,
    FiniteSum,
    Katyusha,
    LeastSquares,
    LooplessSVRG,
    ShufflingSARAH,
    fit_convergence,
    minimize,
    svrg_factor,
)
from corollary.optim import _minimize as driver
from corollary.optim import penalties as P
from corollary.optim.stochastic import _epoch as E

N, D, L2, SEEDS = 48, 5, 0.05, 24
METHODS = {
    "svrg": SVRG(),
    "loopless": LooplessSVRG(),
    "sag": SAG(step_size=0.1),
    "saga": SAGA(),
    "sarah": SARAH(),
    "shuffling": ShufflingSARAH(),
    "inexact": ShufflingSARAH(full_gradient=False),
    "katyusha": Katyusha(),
    "svrg-bb": SVRGBB(),
}


def data(dtype="float64"):
    rng = np.random.default_rng(3)
    X = rng.normal(size=(N, D)) * np.linspace(1, 0.4, D)
    return X.astype(dtype), (X[:, 0] + rng.normal(size=N) > 0).astype(dtype)


def logistic(l2=L2, dtype="float64"):
    return FiniteSum("logistic", *data(dtype), l2=l2, shuffle=False)


@functools.cache
def optimum(l2=L2):
    X, y = data()
    fit = LogisticRegression(C=1 / (N * l2), fit_intercept=False, solver="newton-cholesky", tol=1e-13)
    return fit.fit(X, y).coef_[0]


def gradient(x, rows=slice(None), l2=L2):
    X, y = data()
    X, s = X[rows], 2 * y[rows] - 1
    return -(X * (s / (1 + np.exp(s * (X @ x))))[:, None]).mean(0) + l2 * x


def objective(x, l2=L2):
    X, y = data()
    return np.logaddexp(0, -(2 * y - 1) * (X @ x)).mean() + l2 / 2 * x @ x


def solved(problem, name, x0=None, tol=1e-13):
    """One length of history and one start for all, so that a method compiles once."""
    return minimize(problem, np.ones(D) if x0 is None else x0, METHODS[name], tol=tol, max_steps=3000, history=True)


@functools.cache
def run(name):
    return solved(logistic(), name)


@pytest.mark.covers("svrg", "sag", "saga", "sarah", "shuffling-sarah", "katyusha", "sgd-bb")
@pytest.mark.parametrize("name", METHODS)
def test_optimum_is_scikit_learns_and_convergence_is_linear(name):
    solution = run(name)
    assert solution.converged
    assert solution.holds
    gap = float(solution.certificates["duality_gap"].bound)
    assert np.linalg.norm(solution.value - optimum()) <= np.sqrt(2 * gap / L2)
    falls = solution.history["objective"][: int(solution.steps)] - objective(optimum())
    fit = fit_convergence(np.append(falls[falls > 1e-12], 1e-13))
    assert fit.model == "linear" or name in ("svrg-bb", "sarah", "katyusha")
    assert falls[-1] < 1e-6 * falls[0]


@functools.cache
def blocks(seeds, passes=1):
    """The single rows that an epoch visits, by the keys that are split for it."""
    b = E.batch(logistic(), "auto")
    count = N // b
    keys = jax.random.split(jax.random.key(0), seeds)
    order = np.asarray(E.order(keys[1], "iid", passes * count, count))
    return [np.arange(k * b, (k + 1) * b) for k in order]


def twin(name):
    """The first epoch by the papers' formulas, from ones, as plain loops."""
    x0 = np.ones(D)
    step = float(run(name).history["step_size"][0])
    if name == "svrg":
        x, full = x0.copy(), gradient(x0)
        for B in blocks(3):
            x = x - step * (gradient(x, B) - gradient(x0, B) + full)
        return x
    if name in ("saga", "sag"):
        x, count = x0.copy(), len(blocks(2))
        b = N // count
        table = {k: gradient(x0, np.arange(k * b, (k + 1) * b), 0) for k in range(count)}
        for B in blocks(2):
            k, mean = B[0] // b, sum(table.values()) / count
            new = gradient(x, B, 0)
            weight = 1 if name == "saga" else 1 / count
            x = x - step * (weight * (new - table[k]) + mean + L2 * x)
            table[k] = new
        return x
    if name == "sarah":
        before, v = x0, gradient(x0)
        x = x0 - step * v
        for B in blocks(3):
            v = gradient(x, B) - gradient(before, B) + v
            before, x = x, x - step * v
        return x
    if name == "katyusha":
        L, m = 1 / (3 * step), len(blocks(2, 2))
        tau = min(np.sqrt(m * L2 / (3 * L)), 0.5)
        alpha, y, z, full, ys = 1 / (3 * tau * L), x0, x0, gradient(x0, l2=0), []
        for B in blocks(2, 2):
            x = tau * z + x0 / 2 + (0.5 - tau) * y
            v = gradient(x, B, 0) - gradient(x0, B, 0) + full
            z, y = (z - alpha * v) / (1 + alpha * L2), (x - step * v) / (1 + step * L2)
            ys.append(y)
        return np.average(ys, axis=0, weights=(1 + alpha * L2) ** np.arange(m))
    raise ValueError(name)


@pytest.mark.covers("svrg", "saga", "sag", "sarah", "katyusha")
@pytest.mark.parametrize("name", ["svrg", "saga", "sag", "sarah", "katyusha"])
def test_first_epoch_is_the_naive_twins(name):
    assert np.isclose(run(name).history["objective"][0], objective(twin(name)), rtol=1e-12)


@pytest.mark.covers("svrg")
def test_svrg_direction_is_unbiased_and_its_noise_vanishes(x64):
    problem, solver = logistic(), SVRG(batch_size=1)
    moved = jnp.asarray(optimum() + 0.3)

    @jax.jit
    def directions(snapshot, x):
        state = solver.init(problem, snapshot)
        return jax.lax.map(lambda k: solver.direction(problem, state, x, k), jnp.arange(N))

    v = directions(jnp.ones(D), moved)
    np.testing.assert_allclose(v.mean(0), gradient(np.asarray(moved)), atol=1e-14)
    for i in range(N):
        single = gradient(np.asarray(moved), [i]) - gradient(np.ones(D), [i]) + gradient(np.ones(D))
        np.testing.assert_allclose(v[i], single, atol=1e-13)
    at = jnp.asarray(optimum())
    noise = [float(jnp.sum(jnp.var(directions(at + r, at - r), axis=0))) for r in (1e-1, 1e-3, 0.0)]
    assert noise[1] < 1e-3 * noise[0]
    assert noise[2] < 1e-18


@pytest.mark.covers("saga", "sag")
@pytest.mark.parametrize("solver", [SAGA(batch_size=5), SAG(batch_size=5)])
def test_table_mean_is_exact_and_saga_is_unbiased(solver, x64):
    """With blocks of 5 the last of 10 is short: it counts for what it holds."""
    problem = logistic()

    @jax.jit
    def after_an_epoch(x):
        state, _ = solver.step(problem, solver.init(problem, x))
        return state, jax.lax.map(lambda k: solver.direction(problem, state, k), jnp.arange(10))

    state, v = after_an_epoch(jnp.ones(D))
    theta = np.asarray(state.table)
    assert not theta[-1, :2].any()  # rows that the block before holds
    theta = np.concatenate([theta[:-1].ravel(), theta[-1, 2:]])
    np.testing.assert_allclose(state.mean, theta @ data()[0] / N, atol=1e-15)
    full = gradient(np.asarray(state.x))
    if isinstance(solver, SAGA):
        np.testing.assert_allclose(v.mean(0), full, atol=1e-14)
    else:
        assert np.abs(v.mean(0) - full).max() > 1e-4


@functools.partial(jax.jit, static_argnames=("solver", "epochs"))
def epochs_of(problem, solver, x0, keys, epochs):
    """x after some epochs, for each key."""

    def one(key):
        state = solver.init(problem, x0)
        state = type(state)(**{**vars(state), "key": key})
        return jax.lax.fori_loop(0, epochs, lambda _, s: solver.step(problem, s)[0], state).x

    return jax.vmap(one)(keys)


@pytest.mark.covers("svrg")
def test_svrg_contracts_by_the_theorems_factor(x64):
    l2, problem = 0.5, logistic(0.5)
    L = float(E.smoothness(problem, jnp.ones(D), 1))
    step, passes = 0.1 / L, 5
    factor = float(svrg_factor(step, passes * N, L, l2))
    assert factor < 0.75
    solver = SVRG(step_size=step, batch_size=1, passes=passes, snapshot="random")
    x = np.asarray(epochs_of(problem, solver, jnp.ones(D), jax.random.split(jax.random.key(1), SEEDS), 2))
    gaps = np.array([objective(row, l2) for row in x]) - objective(optimum(l2), l2)
    assert gaps.mean() <= factor**2 * (objective(np.ones(D), l2) - objective(optimum(l2), l2))
    assert np.isinf(svrg_factor(0.5 / L, 100, L, l2))  # a step of 1/(2L) proves nothing


@pytest.mark.covers("saga")
def test_saga_contracts_by_the_theorems_factor(x64):
    l2, problem = 0.5, logistic(0.5)
    L = float(E.smoothness(problem, jnp.ones(D), 1))
    x = np.asarray(epochs_of(problem, SAGA(batch_size=1), jnp.ones(D), jax.random.split(jax.random.key(2), SEEDS), 8))
    best = optimum(l2)
    squared = ((x - best) ** 2).sum(1).mean()
    start = ((1 - best) ** 2).sum() + 2 * N / (3 * L) * (objective(np.ones(D), l2) - objective(best, l2))
    assert squared <= (1 - min(1 / (4 * N), l2 / (3 * L))) ** (8 * N) * start


def sarah_epoch(x, order, step):
    """Points and directions of SARAH's inner loop."""
    xs, vs = [x], [gradient(x)]
    for i in order:
        xs.append(xs[-1] - step * vs[-1])
        vs.append(gradient(xs[-1], [i]) - gradient(xs[-2], [i]) + vs[-1])
    return xs, vs


@pytest.mark.covers("sarah")
def test_sarah_is_biased_given_the_past_and_unbiased_in_total():
    """By enumeration of all draws of three steps among four rows: N = 48 copies would change nothing."""
    rows = [0, 9, 20, 31]

    def grad(x, i=slice(None)):
        return gradient(x, np.array(rows)[i])

    last, conditional = [], []
    for draws in itertools.product(range(4), repeat=3):
        x, v = np.ones(D), grad(np.ones(D))
        for i in draws:
            before, x = x, x - 0.5 * v
            past = v
            v = grad(x, [i]) - grad(before, [i]) + v
        last.append(v - grad(x))
        conditional.append(np.linalg.norm(past - grad(before)))  # E[v | past] − ∇f(x)
    np.testing.assert_allclose(np.mean(last, axis=0), 0, atol=1e-15)
    assert max(conditional) > 1e-3


@pytest.mark.covers("sarah")
def test_sarah_directions_vanish_within_an_epoch_and_svrgs_do_not():
    rng, step, steps = np.random.default_rng(0), 0.3, 400
    sarah, svrg = [], []
    for _ in range(12):
        order = rng.integers(N, size=steps)
        sarah.append([v @ v for v in sarah_epoch(np.ones(D), order, step)[1]])
        x, full, seen = np.ones(D), gradient(np.ones(D)), []
        for i in order:
            v = gradient(x, [i]) - gradient(np.ones(D), [i]) + full
            x, seen = x - step * v, [*seen, v @ v]
        svrg.append(seen)
    sarah, svrg = np.mean(sarah, axis=0), np.mean(svrg, axis=0)
    assert sarah[-1] < 1e-4 * sarah[0]
    assert fit_convergence(sarah).model == "linear"
    assert svrg[-50:].mean() > 30 * sarah[-1]


@pytest.mark.covers("shuffling-sarah")
def test_shuffling_sarah_converges_along_any_permutation():
    """Rows sorted by label: the worst order for SGD."""
    X, y = data()
    by = np.argsort(y)
    problem = FiniteSum("logistic", X[by], y[by], l2=L2, shuffle=False)
    solution = minimize(problem, np.ones(D), ShufflingSARAH(order="cyclic"), tol=1e-10, max_steps=3000)
    assert solution.converged
    np.testing.assert_allclose(solution.value, optimum(), atol=np.sqrt(2e-10 / L2))


@pytest.mark.covers("shuffling-sarah")
def test_shuffling_sarah_with_one_term_is_gradient_descent():
    a, b, step = np.array([1.0, 2.0]), 3.0, 0.05
    problem = FiniteSum("squared", a[None], [b])
    solution = minimize(problem, np.ones(2), ShufflingSARAH(step_size=step), tol=0.0, max_steps=5)
    x = np.ones(2)
    for _ in range(10):  # an epoch is the first step, and one for the row
        x = x - step * (a @ x - b) * a
    np.testing.assert_allclose(solution.value, x, rtol=1e-12)


def weak(l2):
    """Two directions that only the ridge holds: κ = L/l2."""
    X, y = data()
    X = X.copy()
    X[:, 3:] *= 1e-4
    return FiniteSum("logistic", X, y, l2=l2, shuffle=False)


@pytest.mark.covers("katyusha")
def test_katyusha_takes_the_root_of_svrgs_passes():
    L = 0.25 * (data()[0] ** 2).sum(1).max()
    kappas, passes = np.array([2e2, 8e2, 3.2e3]), {}
    for name, solver in (("katyusha", Katyusha(batch_size=1)), ("svrg", SVRG(batch_size=1, passes=2))):
        passes[name] = []
        for kappa in kappas:
            problem = weak(L / kappa)
            solution = minimize(problem, np.ones(D), solver, tol=1e-10, max_steps=20_000)
            assert solution.converged
            passes[name].append(3 * int(solution.steps))
    slope = {k: np.polyfit(np.log(kappas), np.log(v), 1)[0] for k, v in passes.items()}
    assert 0.3 < slope["katyusha"] < 0.7
    assert 0.8 < slope["svrg"] < 1.2
    assert passes["katyusha"][-1] < passes["svrg"][-1] / 3


@functools.cache
def regression():
    rng = np.random.default_rng(5)
    X = rng.normal(size=(N, D))
    return X, X[:, :2].sum(1) + 0.3 * rng.normal(size=N)


PROX = {"svrg": SVRG(), "saga": SAGA(), "sarah": SARAH()}


@pytest.mark.covers("prox-svrg", "saga")
@pytest.mark.parametrize("name", PROX)
def test_prox_methods_reach_scikit_learns_lasso_and_elastic_net(name):
    X, y = regression()
    for alpha, ratio in ((0.1, 1.0), (0.3, 0.5)):
        problem = FiniteSum("squared", X, y, penalty=P.ElasticNet(alpha, ratio), shuffle=False)
        solution = minimize(problem, solver=PROX[name], tol=0.0, max_steps=2000, history=True)
        expected = SklearnElasticNet(alpha=alpha, l1_ratio=ratio, fit_intercept=False, tol=1e-14, max_iter=100_000)
        expected = expected.fit(X, y).coef_
        assert solution.holds
        np.testing.assert_allclose(solution.value, expected, atol=1e-8)
        np.testing.assert_array_equal(solution.value != 0, expected != 0)
        falls = solution.history["objective"][: int(solution.steps)] - float(solution.stats["objective"])
        falls = falls[falls > 1e-13]
        assert np.log(falls[-1] / falls[0]) / len(falls) < -0.1  # a factor an epoch


@pytest.mark.covers("prox-svrg")
def test_a_penalty_of_weight_zero_changes_nothing():
    """The first epoch is that of plain SVRG."""
    X, y = regression()
    problem = FiniteSum("squared", X, y, penalty=P.ElasticNet(0.0, 1.0), shuffle=False)
    solution = minimize(problem, solver=PROX["svrg"], tol=0.0, max_steps=2000, history=True)
    x, full = np.zeros(D), -X.T @ y / N
    for B in blocks(3):
        x = x - solution.history["step_size"][0] * (X[B].T @ (X[B] @ x) / len(B) + full)
    assert np.isclose(solution.history["objective"][0], ((X @ x - y) ** 2).mean() / 2, rtol=1e-12)


@pytest.mark.covers("sgd-bb")
def test_barzilai_borwein_steps_stay_within_their_bounds():
    X = data()[0]
    solution = run("svrg-bb")
    L, m = np.linalg.eigvalsh(X.T @ X / N)[-1] / 4 + L2, 2 * (N // int(E.batch(logistic(), "auto")))
    steps = solution.history["step_size"][1 : int(solution.steps)]
    assert np.all(steps >= (1 - 1e-6) / (m * L))
    assert np.all(steps <= (1 + 1e-6) / (m * L2))


@pytest.mark.covers("sgd-bb")
def test_sgd_bb_lowers_its_step_and_comes_near():
    solution = minimize(logistic(), np.ones(D), SGDBB(), tol=1e-9, max_steps=200, history=True)
    steps = solution.history["step_size"]
    assert not solution.converged  # and says so
    assert steps[-1] < steps[20] < steps[0] * 10
    assert float(solution.stats["objective"]) - objective(optimum()) < 1e-2 * (
        objective(np.ones(D)) - objective(optimum())
    )


@pytest.mark.covers("saga", "svrg")
@pytest.mark.parametrize("name", ["saga", "svrg"])
def test_float32_and_scale(name):
    low = solved(logistic(dtype="float32"), name, np.ones(D, "float32"), tol=1e-5)
    assert low.value.dtype == np.float32
    assert low.converged
    assert low.holds
    np.testing.assert_allclose(low.value, optimum(), atol=np.sqrt(2e-5 / L2))
    X, y = data()
    for c in (1e-12, 1e12):
        problem = FiniteSum("logistic", X * c, y, l2=L2 * c**2, shuffle=False)
        scaled = solved(problem, name, np.ones(D) / c)
        assert scaled.converged
        np.testing.assert_allclose(scaled.value * c, run(name).value, rtol=1e-6)


@pytest.mark.covers("saga", "svrg")
@pytest.mark.parametrize("solver", [SVRG(precondition=True), SAGA(precondition=True)])
def test_a_metric_pays_for_correlated_columns(solver):
    X, y = data()
    X = X @ np.vander(np.linspace(0.1, 1, D), D)  # κ(XᵀX) > 1e6
    problem = FiniteSum("logistic", X, y, l2=1e-4, shuffle=False)
    solution = minimize(problem, np.zeros(D), solver, tol=1e-8, max_steps=200)
    assert solution.converged
    assert int(solution.steps) < 100


def test_numbers_are_traced_and_keys_decide():
    run("saga")
    before = driver._advance._cache_size()
    first, again = (solved(logistic(0.1), "saga", tol=1e-7) for _ in range(2))
    np.testing.assert_array_equal(first.value, again.value)
    assert driver._advance._cache_size() == before


def test_a_smoothness_that_was_given_too_small_is_found_out():
    """The step is cut by four till the residual falls; a step that the caller names is left to him."""
    problem = FiniteSum("logistic", *data(), l2=L2, lipschitz=1e-3, shuffle=False)
    solution = solved(problem, "saga", tol=1e-9)
    assert solution.converged
    assert float(solution.stats["step_size"]) < 10.0
    np.testing.assert_allclose(solution.value, optimum(), atol=np.sqrt(2e-9 / L2))


def test_a_blown_up_run_goes_back_to_its_snapshot():
    """From a start where the curvature says nothing the running point explodes before a coin falls."""
    problem = FiniteSum(lambda x, e: jnp.sum(x**4 / 4 - 100 * x * (1 + e / 10)), np.linspace(-1, 1, 32)[:, None])
    run = minimize(problem, np.full(1, 0.01), LooplessSVRG(), max_steps=100, tol=1e-6)
    assert run.converged
    np.testing.assert_allclose(run.value, 100 ** (1 / 3), rtol=1e-5)


def test_bb_steps_are_capped_where_the_theorem_asks_for_longer_epochs(x64):
    """40 rows of condition 1e3: 1/(mμ) is far beyond what a block bears."""
    rng = np.random.default_rng(1)
    A = rng.normal(size=(40, 5)) * np.array([30.0, 10, 3, 1, 0.1])
    problem = FiniteSum("squared", A, A @ np.ones(5) + rng.normal(size=40), l2=1e-4)
    run = minimize(problem, np.ones(D), SVRGBB(), tol=1e-13, max_steps=3000, history=True)
    seen = run.history["objective"][: int(run.steps)]
    assert np.all(np.isfinite(seen))
    assert seen.max() <= problem.objective(np.ones(D))
    L = float(E.smoothness(problem, np.ones(D), int(E.batch(problem, "auto"))))
    assert run.history["step_size"][: int(run.steps)].max() <= (1 + 1e-12) / (2 * L)


BAD = [
    (lambda: SVRG(step_size=-1.0), "step_size: found -1.0"),
    (lambda: SVRG(snapshot="best"), "snapshot: found 'best'"),
    (lambda: SAGA(batch_size=0), "batch_size: found 0"),
    (lambda: SAGA(sampling="cyclic"), "sampling: found 'cyclic'"),
    (lambda: SAGA(key=3), "key: found int"),
    (lambda: SARAH(passes=0), "passes: found 0"),
    (lambda: Katyusha(strong_convexity=-1.0), "strong_convexity: found -1.0"),
    (lambda: LooplessSVRG(probability=2.0), "probability: found 2.0"),
    (lambda: ShufflingSARAH(order="random"), "order: found 'random'"),
    (lambda: SGDBB(decay=2.0), "decay: found 2.0"),
    (lambda: SGD(average="mean"), "average: found 'mean'"),
    (lambda: SGD("linear"), "schedule: found 'linear'"),
    (lambda: SAG().check(FiniteSum("squared", *regression(), penalty=P.L1(1.0))), "problem: found the penalty L1"),
    (lambda: SVRG(precondition=True).check(FiniteSum(lambda x, e: (x - e) ** 2, np.ones(3))), "expected a named loss"),
    (lambda: SVRG().check(Composite(LeastSquares(*regression()))), "problem: found Composite, expected a FiniteSum"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        call()
