"""Proximal gradient on nonconvex objectives: the three conditions of the theory at every step, and the rate class."""

import numpy as np
import pytest

from corollary.core import InputError
from corollary.optim import Composite, LeastSquares, kl_proximal_rate
from corollary.optim import penalties as P

N, D, STEPS = 20, 8, 300
PENALTIES = {"l0": P.L0(0.5), "l_half": P.LHalf(0.3), "l1": P.L1(0.5)}


def problem(h, seed=0, dtype="float64"):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(N, D)).astype(dtype)
    return Composite(LeastSquares(A, (A[:, :2].sum(1) + 0.1 * rng.normal(size=N)).astype(dtype)), h)


@pytest.mark.covers("kl-proximal-rate")
@pytest.mark.parametrize(("name", "dtype"), [*[(n, "float64") for n in PENALTIES], ("l0", "float32")])
def test_decrease_subgradient_and_path(name, dtype):
    p = problem(PENALTIES[name], 0, dtype)
    run = kl_proximal_rate(p, np.ones(D, dtype), STEPS)
    assert np.all(run.certificates["sufficient_decrease"].holds)
    assert np.all(run.certificates["subgradient_bound"].holds)
    assert not run.certificates["sufficient_decrease"].assumptions[0].checked  # L is the smooth term's word
    assert run.stats["decrease"] >= run.stats["decrease_bound"] * (1 - 1 / 32)
    assert run.stats["subgradient"] <= run.stats["subgradient_constant"] * (1.2 if dtype == "float32" else 1.01)
    # Finite length: what the tail adds is nothing beside the whole.
    path = run.history["path"]
    assert path[-1] - path[STEPS // 2] <= 1e-4 * path[-1]
    assert run.certificates["class"].holds
    assert str(run.stats["rate_class"]) == "linear"
    assert str(run.stats["observed"]) in ("linear", "finite")


@pytest.mark.covers("kl-proximal-rate")
def test_hard_thresholding_against_a_naive_twin_and_the_theory_of_its_support(x64):
    p = problem(P.L0(0.5))
    run = kl_proximal_rate(p, np.ones(D), STEPS)
    A, b = p.smooth.A.matrix, p.smooth.b
    t = 0.9 / np.linalg.norm(A, 2) ** 2
    x = np.ones(D)
    for _ in range(STEPS):
        x = x - t * A.T @ (A @ x - b)
        x = np.where(np.abs(x) > np.sqrt(2 * 0.5 * t), x, 0)
    np.testing.assert_allclose(run.value, x, atol=1e-10)
    # Once the support rests, the steps are gradient descent on it: the factor is max |1 − t λ(A_SᵀA_S)|.
    S = x != 0
    slowest = 1 - t * np.linalg.eigvalsh(A[:, S].T @ A[:, S])[0]
    np.testing.assert_allclose(run.stats["factor"], slowest, rtol=1e-2)
    np.testing.assert_allclose(run.value[S], np.linalg.lstsq(A[:, S], b, rcond=None)[0], atol=1e-8)


@pytest.mark.covers("kl-proximal-rate")
def test_a_flat_minimum_is_sublinear_and_a_wrong_exponent_is_told():
    # f(x) = x⁴/4 has the exponent 3/4: x_k ~ k^{−1/2}, moves ~ k^{−3/2}. On [−1, 1] L = 3.
    from corollary.optim import Differentiable

    quartic = Composite(Differentiable(lambda x: (x**4).sum() / 4, lipschitz=3.0))
    right = kl_proximal_rate(quartic, np.ones(1), 2000, exponent=0.75)
    assert str(right.stats["rate_class"]) == str(right.stats["observed"]) == "sublinear"
    assert right.certificates["class"].holds
    assert not kl_proximal_rate(quartic, np.ones(1), 2000, exponent=0.5).certificates["class"].holds


@pytest.mark.parametrize("c", [1e-12, 1e12])
def test_scale(c):
    plain = kl_proximal_rate(problem(P.L0(0.5)), np.ones(D), 100)
    p = problem(P.L0(0.5 * c))
    scaled = Composite(LeastSquares(c**0.5 * p.smooth.A.matrix, c**0.5 * p.smooth.b), P.L0(0.5 * c))
    run = kl_proximal_rate(scaled, np.ones(D), 100)
    np.testing.assert_allclose(run.value, plain.value, atol=1e-9)
    np.testing.assert_allclose(run.stats["factor"], plain.stats["factor"], rtol=1e-3)
    assert np.all(run.certificates["sufficient_decrease"].holds)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (
            lambda: kl_proximal_rate(problem(P.L0()), np.ones(D), 10, step_size=1.0),
            "step_size: found 1.0, expected less",
        ),
        (lambda: kl_proximal_rate(problem(P.L0()), np.ones(D), 10, exponent=1.0), "exponent: found 1.0"),
        (lambda: kl_proximal_rate(problem(P.L0()), np.ones(D), 2), "steps: found 2"),
        (lambda: kl_proximal_rate(Composite(lambda x: (x**2).sum()), np.ones(D), 9), "Lipschitz constant"),
    ],
)
def test_bad_input(make, says):
    with pytest.raises(InputError, match=says):
        make()
