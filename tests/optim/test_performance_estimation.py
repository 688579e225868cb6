"""Performance estimation: closed forms, the function that attains the worst case, the proof, and schedules."""

import numpy as np
import pytest

from corollary.core import InputError
from corollary.optim import (
    anytime_stepsize,
    nesterov_steps,
    performance_estimation,
    silver_stepsize,
)
from corollary.optim.theory import _performance_estimation as module

pytest.importorskip("clarabel")


@pytest.mark.covers("performance-estimation")
@pytest.mark.parametrize("n", [1, 3, 8])
def test_gradient_descent_has_its_tight_rate_and_the_function_attains_it(n):
    L, R = 3.0, 2.0
    run = performance_estimation(np.ones(n), lipschitz=L, radius=R)
    exact = L * R**2 / (4 * n + 2)
    assert run.converged
    assert run.holds
    assert run.stats["worst"] == pytest.approx(exact, rel=1e-6)
    f, x = run.value, run.value.start
    assert np.linalg.norm(x) <= R * (1 + 1e-6)
    for _ in range(n):
        x = x - f.value_and_gradient(x)[1] / L
    assert f.value_and_gradient(x)[0] == pytest.approx(exact, rel=1e-3)  # eigenvalues below 1e-9 were dropped
    # A function of the class: values and gradients of points at random obey the interpolation inequality.
    rng = np.random.default_rng(n)
    points = rng.normal(size=(12, len(x)))
    values, gradients = zip(*(f.value_and_gradient(p) for p in points), strict=True)
    for i in range(12):
        for j in range(12):
            e = gradients[i] - gradients[j]
            below = values[j] + gradients[j] @ (points[i] - points[j]) + e @ e / (2 * L)
            assert values[i] >= below - 1e-6 * (1 + abs(below))


@pytest.mark.covers("performance-estimation")
def test_closed_forms_and_the_peers_values():
    # Taylor, Hendrickx & Glineur (2018): distance after N steps of t, max(|1 − t|, |1 − tμ|)^2N.
    run = performance_estimation(np.full(3, 2 / 1.1), strong_convexity=0.1, measure="distance")
    assert run.stats["worst"] == pytest.approx((0.9 / 1.1) ** 6, rel=1e-4)
    # ‖∇f(x_N)‖ ≤ LR/(N + 1) with step 1/L, which PEPit's gradient_descent example reports.
    run = performance_estimation(np.ones(4), measure="gradient")
    assert run.stats["worst"] == pytest.approx(1 / 25, rel=1e-5)
    # Long steps: a quadratic is the worst, (1 − h)²/2.
    assert performance_estimation([1.8]).stats["worst"] == pytest.approx(0.32, rel=1e-6)
    # The best single step is 1.5, worst case 1/8.
    assert performance_estimation([1.5]).stats["worst"] == pytest.approx(0.125, rel=1e-6)


@pytest.mark.covers("performance-estimation", "nesterov")
@pytest.mark.parametrize("law", ["(t-1)/(t+2)", "t/(t+3)"])
def test_nesterovs_bounds_are_above_the_exact_worst_case(law):
    for n in (1, 2, 4, 8):
        worst = performance_estimation(nesterov_steps(n, law)).stats["worst"]
        assert worst <= 2 / (n + 1) ** 2
        if law == "t/(t+3)":
            assert worst <= 3.5 / (n + 2) ** 2
    constant = performance_estimation(nesterov_steps(5, "constant", condition=10.0), strong_convexity=0.1)
    assert constant.stats["worst"] <= (1 - 0.1**0.5) ** 5 * 1.1 / 2


@pytest.mark.covers("performance-estimation", "nesterov")
def test_nesterov_agrees_with_pepit():
    PEPit, functions = pytest.importorskip("PEPit"), pytest.importorskip("PEPit.functions")
    problem = PEPit.PEP()
    f = problem.declare_function(functions.SmoothConvexFunction, L=1.0)
    best = f.stationary_point()
    x = y = problem.set_initial_point()
    problem.set_initial_condition((x - best) ** 2 <= 1)
    for k in range(1, 4):
        new = y - f.gradient(y)
        y = new + (k - 1) / (k + 2) * (new - x)
        x = new
    problem.set_performance_metric(f(x) - f(best))
    peer = problem.solve(wrapper="cvxpy", solver="CLARABEL", verbose=0)
    assert performance_estimation(nesterov_steps(3)).stats["worst"] == pytest.approx(peer, rel=1e-5)


@pytest.mark.covers("silver-stepsize", "anytime-stepsize")
def test_schedules_obey_their_bounds_in_the_worst_case():
    silver = silver_stepsize(3)
    for t in (1, 3, 7):
        assert performance_estimation(silver.steps[:t]).stats["worst"] <= silver.bounds[t - 1]
    anytime = anytime_stepsize(24)
    for t in range(1, 15):
        run = performance_estimation(anytime.steps[:t])
        assert run.holds
        assert run.stats["dual"] <= anytime.bounds[t - 1] * (1 + 1e-9)
        assert run.stats["worst"] >= anytime.bounds[t - 1] * (1 - 1e-5)  # what is listed is exact
        assert anytime.bounds[t - 1] < 1 / (4 * t + 2)  # gradient descent's own worst case


def test_a_wrong_proof_would_be_seen():
    """The slack matrix of the multipliers is rebuilt by hand from the inequalities."""
    run = performance_estimation([1.0])
    weights = run.stats["multipliers"]
    assert np.all(weights >= -1e-7)
    # Known proof for one step: the inequalities (x0, x1), (x*, x0), (x*, x1) with weights 1/3·(…), summing to 1 in f_1.
    assert weights[:, 1].sum() - weights[1, :].sum() == pytest.approx(1.0, abs=1e-6)
    assert weights[:, 0].sum() - weights[0, :].sum() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: performance_estimation([]), "steps: found an array of shape"),
        (lambda: performance_estimation(np.ones((2, 2))), "lower triangular"),
        (lambda: performance_estimation([np.nan]), "steps: found NaN"),
        (lambda: performance_estimation([1.0], strong_convexity=1.0), "strong_convexity"),
        (lambda: performance_estimation([1.0], radius=0.0), "radius"),
        (lambda: performance_estimation([1.0], measure="speed"), "measure"),
        (lambda: nesterov_steps(2, "constant"), "condition"),
    ],
)
def test_bad_input(call, says):
    with pytest.raises(InputError, match=says):
        call()


def test_without_the_conic_solver_the_error_names_it(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(module.importlib, "import_module", missing)
    with pytest.raises(ImportError, match=r"corollary\[pep\]"):
        performance_estimation([1.0])
