"""The trust-region subproblem, exact and truncated, and the methods on top: optimality, oracles, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from corollary.core import InputError, Status
from corollary.optim import Composite, TrustRegion, functions, minimize, steihaug_cg, trust_region_subproblem

N = 5


def systems(count, dtype=float, hard=False):
    """Symmetric matrices of any signs with gradients; `hard`: without a part in the lowest eigenspace."""
    rng = np.random.default_rng(7)
    g, H = [], []
    for _ in range(count):
        Q = np.linalg.qr(rng.normal(size=(N, N)))[0]
        values = np.sort(rng.normal(size=N) * 3)
        if hard:
            values[0] = -abs(values[0]) - 1
        c = rng.normal(size=N)
        if hard:
            c[0] = 0
            c *= 0.2 * (values[1] - values[0]) / np.linalg.norm(c)
        g.append(Q @ c)
        H.append(Q @ np.diag(values) @ Q.T)
    return np.array(g, dtype), np.array(H, dtype)


@pytest.mark.covers("trust-region-subproblem")
@pytest.mark.parametrize("hard", [False, True])
def test_kkt_conditions(hard, dtype):
    g, H = systems(30, dtype, hard)
    H = (H + H.transpose(0, 2, 1)) / 2
    solution = jax.vmap(trust_region_subproblem, in_axes=(0, 0, None))(jnp.asarray(g), jnp.asarray(H), 1.0)
    eps = np.finfo(dtype).eps
    delta, lam = np.asarray(solution.value, float), np.asarray(solution.stats["multiplier"], float)
    residual = np.einsum("kij,kj->ki", H.astype(float), delta) + lam[:, None] * delta + g
    scale = np.linalg.norm(H, axis=(1, 2)) + lam
    limit = 1e-12 if dtype == "float64" else 64 * eps
    assert np.all(np.linalg.norm(residual, axis=1) <= limit * scale)
    assert np.all(lam * np.abs(1 - np.linalg.norm(delta, axis=1)) <= limit * scale)
    assert np.all(np.linalg.eigvalsh(H.astype(float))[:, 0] + lam >= -32 * eps * scale)
    assert np.all(lam >= 0)
    assert np.all(solution.holds)
    assert np.all(solution.converged)
    if hard:  # λ = −λ_min, and an eigenvector added wherever g's part in its space is below rounding
        np.testing.assert_allclose(lam, -np.linalg.eigvalsh(H.astype(float))[:, 0], rtol=64 * eps)
        assert np.mean(solution.stats["hard"]) > 0.9


@pytest.mark.covers("trust-region-subproblem")
def test_global_minimum_against_brute_force():
    angles, radii = np.meshgrid(np.linspace(0, 2 * np.pi, 721), np.linspace(0, 1, 101))
    grid = np.stack([radii * np.cos(angles), radii * np.sin(angles)]).reshape(2, -1)
    rng = np.random.default_rng(8)
    cases = [(rng.normal(size=2), rng.normal(size=(2, 2))) for _ in range(6)]
    cases += [(np.array([0.0, 0.4]), np.diag([-2.0, 1.0])), (np.zeros(2), np.diag([-1.0, 1.0]))]
    for g, M in cases:
        H = M + M.T
        solution = trust_region_subproblem(g, H, 0.7)
        values = g @ (0.7 * grid) + np.einsum("ik,ij,jk->k", 0.7 * grid, H, 0.7 * grid) / 2
        assert solution.stats["model"] <= values.min() + 1e-12
        assert solution.stats["model"] >= values.min() - 1e-2
        assert solution.holds


@pytest.mark.covers("trust-region-subproblem")
def test_next_to_the_hard_case_and_at_extreme_scales(x64):
    """A part of 1e-20 in the lowest eigenspace, or none; radius, gradient and Hessian in any units."""
    H = np.diag([-2.0, 1.0, 3.0])
    for part in (0.0, 1e-20, 1e-9, 1e-3):
        for size in (1e-12, 1.0, 1e12):
            g = np.array([part, 0.5, 0.1])
            solution = trust_region_subproblem(g * size, H * size, 1.0)
            assert solution.holds
            np.testing.assert_allclose(np.linalg.norm(solution.value), 1, rtol=1e-13)
            np.testing.assert_allclose(float(solution.stats["multiplier"]) / size, 2, rtol=0.01)
            far = trust_region_subproblem(g * size, H, 1.0 * size)
            np.testing.assert_allclose(np.abs(far.value) / size, np.abs(solution.value), rtol=1e-7, atol=1e-9)


@pytest.mark.covers("trust-region-subproblem")
def test_interior_step_is_newtons():
    g, H = np.array([0.1, -0.2]), np.array([[2.0, 0.5], [0.5, 1.0]])
    solution = trust_region_subproblem(g, H, 10.0)
    np.testing.assert_allclose(solution.value, -np.linalg.solve(H, g), rtol=1e-13)
    assert solution.stats["multiplier"] == 0
    assert not solution.stats["boundary"]
    zero = trust_region_subproblem([0.0, 0.0], H, 1.0)
    np.testing.assert_array_equal(zero.value, 0)


@pytest.mark.covers("steihaug-cg")
def test_truncated_cg_beats_cauchy_and_grows(dtype):
    g, H = systems(20, dtype)
    g, H = jnp.asarray(g), jnp.asarray((H + H.transpose(0, 2, 1)) / 2)

    def run(g, H, radius, limit):
        return steihaug_cg(H, g, radius, tol=1e-6, max_steps=limit)

    grid = jax.jit(jax.vmap(jax.vmap(run, (None, None, None, 0)), (0, 0, 0, None)))
    radius = jnp.asarray(np.tile([0.3, 50.0], 10).astype(dtype))
    solution = grid(g, H, radius, jnp.arange(1, 2 * N))
    assert np.all(solution.holds)
    size = np.linalg.norm(np.asarray(solution.value, float), axis=2)
    eps = np.finfo(dtype).eps
    assert np.all(np.diff(size, axis=1) >= -32 * eps * size[:, 1:])
    assert np.all(size <= np.asarray(radius)[:, None] * (1 + 32 * eps))
    assert np.all(-np.asarray(solution.stats["model"]) >= np.asarray(solution.stats["cauchy"]) * (1 - 64 * eps))
    exact = jax.jit(jax.vmap(trust_region_subproblem))(g, H, radius).stats["model"]
    assert np.all(np.asarray(exact) <= np.asarray(solution.stats["model"])[:, -1] + 1e3 * eps * np.abs(exact))
    endings = set(np.asarray(solution.stats["ending"])[:, -1].tolist())
    assert {1, 2} & endings


@pytest.mark.covers("steihaug-cg")
def test_inside_it_is_cg():
    rng = np.random.default_rng(9)
    M = rng.normal(size=(N, N))
    H, g = M @ M.T + np.eye(N), rng.normal(size=N)
    solution = steihaug_cg(H, g, np.inf, tol=1e-13)
    np.testing.assert_allclose(solution.value, -np.linalg.solve(H, g), rtol=1e-9)
    assert solution.stats["ending"] == 0
    # a naive twin: two steps of CG
    x, r = np.zeros(N), g.copy()
    p = -r
    for _ in range(2):
        a = r @ r / (p @ H @ p)
        x, new = x + a * p, r + a * (H @ p)
        p, r = -new + (new @ new) / (r @ r) * p, new
    short = steihaug_cg(H, g, 1e6, max_steps=2)
    np.testing.assert_allclose(short.value, x, rtol=1e-10)
    assert short.status == Status.MAX_STEPS
    # and negative curvature is followed to the boundary
    out = steihaug_cg(-H, g, 2.0)
    np.testing.assert_allclose(np.linalg.norm(out.value), 2, rtol=1e-14)
    assert out.stats["ending"] == 2


SCIPY = {"exact": "trust-exact", "dogleg": "dogleg", "steihaug": "trust-ncg"}


@pytest.mark.covers("trust-region", "steihaug-cg")
@pytest.mark.parametrize("subproblem", SCIPY)
def test_minimum_is_scipys_and_f_never_rises(subproblem, x64):
    f = functions.beale()
    solution = minimize(f, f.x0, TrustRegion(subproblem), tol=1e-10, max_steps=200, history=True)
    second = {"hess": f.hessian} if subproblem != "steihaug" else {"hessp": lambda x, p: f.hessian(x) @ p}
    start = f.x0 if subproblem != "dogleg" else np.array([2.8, 0.4])  # SciPy's dogleg wants a definite Hessian
    theirs = scipy.optimize.minimize(f, start, jac=f.gradient, method=SCIPY[subproblem], tol=1e-10, **second)
    assert solution.converged
    np.testing.assert_allclose(solution.value, theirs.x, atol=1e-6)
    steps = int(solution.steps)
    objective, length = solution.history["objective"][:steps], solution.history["step_size"][:steps]
    radius, ratio = solution.history["radius"][:steps], solution.history["ratio"][:steps]
    assert np.all(np.diff(objective) <= 8 * np.finfo(float).eps)
    assert np.all(length <= radius * (1 + 1e-12))
    grown = radius[1:] > radius[:-1]
    assert np.all(ratio[:-1][grown] > 0.75)
    assert np.all(length[:-1][grown] >= radius[:-1][grown] * (1 - 1e-12))  # only from the boundary


@pytest.mark.covers("trust-region")
def test_saddle_point_itself_is_left(dtype):
    """The gradient vanishes at the start: only curvature tells the way out."""
    start = np.array([0.0, 0.0], dtype)
    solution = minimize(lambda x: x[0] ** 2 + (x[1] ** 2 - 1) ** 2, start + dtype.type(1e-7), TrustRegion(), tol=1e-5)
    np.testing.assert_allclose(np.abs(solution.value), [0, 1], atol=1e-4)
    assert solution.converged


@pytest.mark.covers("trust-region")
@pytest.mark.parametrize("objective", [1e-12, 1e12])
def test_units_do_not_matter(objective, x64):
    f = functions.beale()
    steps = {}
    for name, scaled in (("plain", f.rescaled()), ("scaled", f.rescaled(objective, 1 / objective))):
        solution = minimize(scaled, scaled.x0, TrustRegion(), tol=1e-8)
        assert solution.converged
        np.testing.assert_allclose(solution.value, scaled.minimisers[0], rtol=1e-4)
        steps[name] = int(solution.steps)
    assert abs(steps["plain"] - steps["scaled"]) <= 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TrustRegion("cauchy"), "subproblem: found 'cauchy'"),
        (lambda: TrustRegion(radius=0.0), "radius: found 0.0"),
        (lambda: TrustRegion(accept=0.5), "accept: found 0.5"),
        (lambda: trust_region_subproblem([1.0], [[1.0]], -1.0), "radius: found -1.0"),
        (lambda: trust_region_subproblem([np.nan], [[1.0]], 1.0), "gradient: found NaN"),
        (lambda: steihaug_cg(np.eye(3), [1.0, 2.0], 1.0), "hessian: found 3 x 3, expected 2 x 2"),
        (lambda: steihaug_cg(np.eye(2), [1.0, 2.0], 0.0), "radius: found 0.0"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_a_problem_with_a_penalty_is_refused():
    from corollary.optim import penalties

    with pytest.raises(InputError, match="problem: found the penalty L1"):
        minimize(Composite(lambda x: x @ x, penalties.L1(1.0)), [1.0], TrustRegion())
