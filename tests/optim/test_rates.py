"""Rates against runs: descent lemma, gradient descent, FISTA's energy, and the fitted order of convergence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corollary.core import InputError
from corollary.optim import (
    Composite,
    LeastSquares,
    descent_lemma,
    fista_energy,
    fit_convergence,
    gd_rate_convex,
    gd_rate_strongly_convex,
    minimize,
    quadratic_surrogate,
)
from corollary.optim import penalties as P

RNG = np.random.default_rng(0)
EIGENVALUES = jnp.asarray([1.0, 3.0, 10.0], "float32")


def quadratic(x):
    return jnp.sum(EIGENVALUES.astype(x.dtype) * x**2) / 2


def huber(x):
    return jnp.sum(jnp.where(jnp.abs(x) <= 1, x**2 / 2, jnp.abs(x) - 0.5))


def log_cosh(x):
    return jnp.sum(jnp.logaddexp(x, -x))


@pytest.mark.covers("descent-lemma")
def test_descent_lemma(dtype):
    for f, L in ((quadratic, 10.0), (huber, 1.0), (log_cosh, 1.0)):
        for t in np.array([0.1, 0.5, 1.0, 1.9, 2.0]) / L:
            x = (3 * RNG.normal(size=3)).astype(dtype)
            one = descent_lemma(f, x, t, L)
            assert one.holds
            assert one.stats["decrease"] >= -1e-5 * abs(float(f(jnp.asarray(x))))
    # Equality on L/2·‖x‖², for every t; descent fails for t > 2/L (control).
    x = RNG.normal(size=3).astype(dtype)
    for t in (0.1, 0.5, 1.2):
        one = descent_lemma(lambda x: jnp.sum(x**2), x, t, 2.0)
        assert abs(float(one.stats["slack"])) <= 50 * np.finfo(dtype).eps * float(np.sum(x**2))
    assert one.stats["decrease"] < 0
    # A constant that is too small is found out.
    assert not descent_lemma(lambda x: jnp.sum(x**2), x, 0.5, 1.0).holds


@pytest.mark.covers("descent-lemma")
def test_surrogate(x64):
    x, L = jnp.asarray([1.0, -2.0, 0.5]), 10.0
    for t, above in ((0.5 / L, True), (1 / L, True), (1.3 / L, False)):
        model = quadratic_surrogate(quadratic, x, t)
        step = x - t * jax.grad(quadratic)(x)
        np.testing.assert_allclose(jax.grad(model)(step), 0, atol=1e-13)
        y = jnp.asarray(RNG.normal(size=(200, 3)) * 3).at[0].set(x + jnp.asarray([0, 0, 1.0]))
        over = jax.vmap(model)(y) - jax.vmap(quadratic)(y)
        assert bool(jnp.all(over >= -1e-12)) == above


@pytest.mark.covers("gd-rate-convex")
def test_convex_rate(dtype):
    A = RNG.normal(size=(8, 3)).astype(dtype)
    b = (A @ np.ones(3)).astype(dtype)
    for f, L, best in (
        (
            lambda x: jnp.sum((jnp.asarray(A) @ x - b) ** 2) / 2,
            np.linalg.norm(A.astype(float), 2) ** 2 * (1 + 1e-6),
            np.ones(3),
        ),
        (log_cosh, 1.0, np.zeros(3)),
        (huber, 1.0, np.zeros(3)),
    ):
        x0 = (3 * RNG.normal(size=3)).astype(dtype)
        for step in (None, 0.3 / L):
            run = gd_rate_convex(f, x0, best.astype(dtype), L, 40, step=step)
            assert np.all(run.holds)
            assert ("tight_rate" in run.certificates) == (step is None)
    too_long = gd_rate_convex(huber, x0, np.zeros(3, dtype), 1.0, 5, step=1.5)
    assert not np.any(too_long.certificates["rate"].holds)  # the checked assumption fails


@pytest.mark.covers("gd-rate-convex")
@pytest.mark.parametrize("k", [1, 3, 10])
def test_the_tight_rate_is_attained_on_the_huber_function(k, x64):
    # Drori & Teboulle (2014), theorem 3.2: f linear beyond R/(2k + 1), R = ‖x0 − x*‖, L = 1.
    R = 1.0
    edge = R / (2 * k + 1)

    def f(x):
        return jnp.sum(jnp.where(jnp.abs(x) >= edge, edge * jnp.abs(x) - edge**2 / 2, x**2 / 2))

    run = gd_rate_convex(f, [R], [0.0], 1.0, k)
    np.testing.assert_allclose(run.history["suboptimality"][-1], run.history["tight_bound"][-1], rtol=1e-12)


@pytest.mark.covers("gd-rate-strongly-convex")
def test_strongly_convex_rate(dtype):
    x0 = RNG.normal(size=3).astype(dtype)
    for step in (None, 2 / 11, 0.05):
        run = gd_rate_strongly_convex(quadratic, x0, np.zeros(3, dtype), 1.0, 10.0, 30, step=step)
        assert np.all(run.holds)
    assert float(run.stats["best_step"]) == pytest.approx(2 / 11)
    too_long = gd_rate_strongly_convex(quadratic, x0, np.zeros(3, dtype), 1.0, 10.0, 5, step=0.19)
    assert not np.any(too_long.certificates["rate"].holds)


@pytest.mark.covers("gd-rate-strongly-convex")
def test_the_best_step_is_attained_by_the_extreme_eigenvectors(x64):
    run = gd_rate_strongly_convex(quadratic, [1.0, 0.0, 1.0], np.zeros(3), 1.0, 10.0, 20, step=2 / 11)
    assert float(run.stats["factor"]) == pytest.approx((9 / 11) ** 2)
    ratio = run.history["distance"][1:] / run.history["distance"][:-1]
    np.testing.assert_allclose(ratio, 9 / 11, rtol=1e-12)  # 0.818, where t = 1/L gives 0.9
    slow = gd_rate_strongly_convex(quadratic, [1.0, 0.0, 0.0], np.zeros(3), 1.0, 10.0, 20)
    np.testing.assert_allclose(slow.history["distance"][1:] / slow.history["distance"][:-1], 0.9, rtol=1e-12)
    grid = np.linspace(0.01, 0.25, 4801)
    worst = np.maximum(np.abs(1 - grid), np.abs(1 - 10 * grid))
    assert grid[np.argmin(worst)] == pytest.approx(2 / 11, abs=1e-4)


@pytest.mark.covers("fista-energy")
def test_energy_of_the_ledger_example(x64):
    # A = diag(1, 1e-3), b = 0, λ = 1, x0 = (0, 100): with θ_t² in place of θ_{t−1}² the energy would rise.
    problem = Composite(LeastSquares(np.diag([1.0, 1e-3]), np.zeros(2)), P.L1(1.0))
    run = fista_energy(problem, [0.0, 100.0], [0.0, 0.0], 99, step_size=1.0)
    assert np.all(run.holds)
    assert np.all(np.diff(run.value) <= 1e-9)
    assert run.value[0] <= 5000
    theta, gap = run.history["theta"], run.history["suboptimality"]
    wrong = np.append(theta[1:], (1 + np.sqrt(1 + 4 * theta[-1] ** 2)) / 2) ** 2 * gap + run.value - theta**2 * gap
    wrong = np.concatenate([[problem.objective(np.array([0.0, 100.0])) + 5000], wrong])
    assert wrong[0] == pytest.approx(5100, abs=0.01)
    assert wrong[1] == pytest.approx(5159.7, abs=0.1)


@pytest.mark.covers("fista-energy")
@pytest.mark.parametrize("seed", range(3))
def test_energy_never_rises(seed, dtype):
    rng = np.random.default_rng(seed)
    A, b = rng.normal(size=(12, 6)).astype(dtype), rng.normal(size=12).astype(dtype)
    problem = Composite(LeastSquares(A, b), P.L1(0.5))
    best = minimize(problem, tol=1e-14 if dtype == "float64" else 1e-7).value
    run = fista_energy(problem, np.ones(6, dtype), best, 80)
    assert np.all(run.holds)
    # The theorem's rate follows from the energy.
    k = np.arange(1, 81)
    assert np.all(run.history["theta"] >= (k + 1) / 2 * (1 - 1e-5))


@pytest.mark.covers("convergence-rate-fit")
def test_planted_sequences():
    t = np.arange(1, 200)
    for p in (0.5, 1.0, 2.0):
        fit = fit_convergence(3.0 * t**-p)
        assert (fit.model, round(fit.parameter, 6)) == ("sublinear", p)
    fit = fit_convergence(5 * 0.9**t)
    assert (fit.model, round(fit.parameter, 8), fit.entry) == ("linear", 0.9, 1)
    fit = fit_convergence(np.exp(-(2.0 ** np.arange(9))))
    assert fit.model == "quadratic"
    assert fit.parameter == pytest.approx(2, abs=1e-6)
    fit = fit_convergence(np.exp(-(1.5 ** np.arange(14))))
    assert (fit.model, round(fit.parameter, 4)) == ("superlinear", 1.5)
    late = np.concatenate([1 / np.arange(1, 41), 0.8 ** np.arange(1, 161) / 40, [np.nan] * 20])
    fit = fit_convergence(late)
    assert (fit.model, round(fit.parameter, 6)) == ("linear", 0.8)
    assert 38 <= fit.entry <= 42


@pytest.mark.covers("convergence-rate-fit")
def test_noise_stays_within_the_interval():
    rng, t = np.random.default_rng(0), np.arange(1, 101)
    inside = 0
    for _ in range(200):
        fit = fit_convergence(0.9**t * np.exp(0.05 * rng.normal(size=100)))
        inside += fit.interval[0] <= 0.9 <= fit.interval[1]
    assert inside >= 0.95 * 200 - 3 * np.sqrt(0.95 * 0.05 * 200)


@pytest.mark.covers("convergence-rate-fit")
def test_newton_and_gradient_descent(x64):
    # Where the third derivative does not vanish Newton has order 2; on the even x⁴/4 + x²/2 it would have order 3.
    def f(x):
        return x**4 / 4 + (x - 1) ** 2 / 2

    best = np.roots([1, 0, 1, -1])
    best = best[np.abs(best.imag) < 1e-12].real[0]
    x, errors = 1.0, []
    for _ in range(5):
        errors.append(abs(x - best))
        x -= (x**3 + x - 1) / (3 * x**2 + 1)
    fit = fit_convergence([e for e in errors if e > 1e-15])
    assert fit.model == "quadratic"
    assert fit.parameter == pytest.approx(2, abs=0.15)
    assert float(jax.grad(f)(best)) == pytest.approx(0, abs=1e-12)

    for step in (0.05, 0.19):
        run = gd_rate_convex(quadratic, np.ones(3), np.zeros(3), 10.0, 60, step=step)
        fit = fit_convergence(run.history["distance"])
        assert fit.model == "linear"
        assert fit.parameter == pytest.approx(max(abs(1 - step), abs(1 - 10 * step)), abs=1e-3)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: fit_convergence([1.0, 0.5]), "errors: found 2"),
        (lambda: fit_convergence(np.ones((2, 2))), "errors: found an array of shape"),
        (lambda: descent_lemma(quadratic, np.ones(3), 0.0, 1.0), "step: found 0.0"),
        (lambda: gd_rate_convex(quadratic, np.ones(3), np.ones(2), 1.0, 3), "reference"),
        (lambda: gd_rate_convex(quadratic, np.ones(3), np.ones(3), -1.0, 3), "lipschitz"),
        (lambda: gd_rate_convex(quadratic, np.ones(3), np.ones(3), 1.0, 0), "steps: found 0"),
        (lambda: fista_energy(Composite(quadratic), np.ones(3), np.zeros(3), 3), "step_size: found None"),
    ],
)
def test_bad_input(call, says):
    with pytest.raises(InputError, match=says):
        call()


def test_a_run_of_fista_that_leaves_the_finite_numbers_says_so():
    problem = Composite(LeastSquares(np.eye(2), np.zeros(2)))
    assert not fista_energy(problem, [1.0, 1.0], [0.0, 0.0], 400, step_size=100.0).converged
