"""Filters, truncation, Tikhonov, GCV, the discrepancy principle and the Picard diagnostic, from their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corollary.core.errors import InputError
from corollary.linalg import discrepancy_principle, gcv, lstsq, picard, spectral_filter, tikhonov, tsvd

SHAPES = [(12, 5), (5, 12), (6, 6)]


def problem(shape, seed=0, kind=np.float64):
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape).astype(kind), rng.normal(size=shape[0]).astype(kind)


def ridge(A, b, lam):
    return np.linalg.solve(A.T @ A + lam * np.eye(A.shape[1]), A.T @ b)


@pytest.mark.covers("spectral-filter", "tsvd")
@pytest.mark.parametrize("shape", SHAPES)
def test_filters_reproduce_truncation_and_ridge(shape):
    A, b = problem(shape)
    s = np.linalg.svd(A, compute_uv=False)
    tau, lam = (s[2] + s[3]) / 2, 0.7
    cut = tsvd(A, b, tau=tau)
    same = spectral_filter(A, b, lambda s: jnp.where(s >= tau, 1 / s, 0))
    np.testing.assert_allclose(same.value, cut.value, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(cut.value, np.linalg.lstsq(A, b, rcond=tau / s[0])[0], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(cut.value, tsvd(A, b, k=3).value, atol=1e-13)
    smooth = spectral_filter(A, b, lambda s: s / (s**2 + lam))
    np.testing.assert_allclose(smooth.value, ridge(A, b, lam), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(tikhonov(A, b, lam).value, ridge(A, b, lam), rtol=1e-12, atol=1e-12)
    for solution in (cut, same, smooth):
        assert bool(solution.certificates["filter_residual"].holds)
        np.testing.assert_allclose(solution.stats["residual_norm"], np.linalg.norm(b - A @ solution.value), atol=1e-13)
    assert float(cut.stats["amplification"]) == pytest.approx(1 / s[2])
    assert float(cut.certificates["rank"].measured) == pytest.approx(s[3] / s[2])


@pytest.mark.covers("tsvd")
def test_truncation_at_both_ends():
    A, b = problem((12, 5))
    U, s, Vt = np.linalg.svd(A, full_matrices=False)
    low = (U[:, :2] * s[:2]) @ Vt[:2]  # A_k
    np.testing.assert_allclose(tsvd(A, b, k=2).value, np.linalg.pinv(low, rcond=1e-10) @ b, atol=1e-12)
    np.testing.assert_allclose(tsvd(A, b, tau=s[-1] / 2).value, np.linalg.lstsq(A, b, rcond=None)[0], atol=1e-12)
    nothing = tsvd(A, b, tau=2 * s[0])
    assert np.all(nothing.value == 0)
    assert int(nothing.stats["rank"]) == 0
    deficient = A @ np.ones((5, 5))
    np.testing.assert_allclose(tsvd(deficient, b, k=5).value, lstsq(deficient, b).value, atol=1e-12)
    assert not bool(tsvd(np.diag([3.0, 2.9, 0.1]), np.ones(3), k=1).certificates["rank"].holds)


def test_precision_scale_jit_and_gradient(dtype):
    A, b = (jnp.asarray(a.astype(dtype)) for a in problem((12, 5)))
    tol = 1e3 * float(jnp.finfo(dtype).eps)
    x = spectral_filter(A, b, lambda s: s / (s**2 + 1)).value
    assert x.dtype == dtype
    inside = jax.jit(lambda A, b: spectral_filter(A, b, lambda s: s / (s**2 + 1)).value)(A, b)
    np.testing.assert_allclose(inside, x, rtol=tol, atol=tol)
    big = jnp.asarray(2.0**100, dtype)  # its square is beyond float32
    np.testing.assert_allclose(tsvd(A * big, b, k=2).value * big, tsvd(A, b, k=2).value, rtol=tol, atol=tol)
    f = lambda lam: jnp.sum(tikhonov(A, b, lam).value ** 2)  # noqa: E731
    h = float(jnp.finfo(dtype).eps) ** (1 / 3)
    numeric = (f(1 + h) - f(1 - h)) / (2 * h)
    np.testing.assert_allclose(jax.grad(f)(jnp.ones((), dtype)), numeric, rtol=100 * h**2 + 0.0)


def test_tikhonov_in_general_form():
    A, b = problem((12, 5))
    L = np.diff(np.eye(5), axis=0)  # smoothness; its null space is the constants
    x = tikhonov(A, b, 2.0, L).value
    np.testing.assert_allclose(x, np.linalg.solve(A.T @ A + 2 * L.T @ L, A.T @ b), atol=1e-12)
    flat = tikhonov(A, b, 1e12, L).value
    assert np.ptp(flat) < 1e-8
    np.testing.assert_allclose(tikhonov(A, b, 0.0).value, np.linalg.lstsq(A, b, rcond=None)[0], atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_gcv_is_its_definition(shape):
    A, b = problem(shape)
    lams = np.geomspace(1e-3, 1e3, 7)
    curve = gcv(A, b, lams)
    n = shape[0]
    for lam, score in zip(lams, curve.scores, strict=True):
        H = A @ np.linalg.solve(A.T @ A + lam * np.eye(shape[1]), A.T)
        assert score == pytest.approx(np.sum((b - H @ b) ** 2) / n / (1 - np.trace(H) / n) ** 2, rel=1e-9)
    assert curve.best == lams[np.argmin(curve.scores)]
    inside = 0 < np.argmin(curve.scores) < 6
    assert bool(curve.certificates["interior"].holds) == inside
    assert curve.plot().get_xlabel() == "λ"
    assert gcv(A, b).lams.shape == (100,)


@pytest.mark.covers("discrepancy-principle")
def test_discrepancy_principle_finds_the_only_root(x64):
    A, _ = problem((12, 5))
    x = np.arange(5.0)
    for seed in range(5):
        noise = 0.3 * np.random.default_rng(seed).normal(size=12)
        b, delta = A @ x + noise, np.linalg.norm(noise)
        solution = discrepancy_principle(A, b, delta, safety=1.1)
        lam = float(solution.value)
        assert np.linalg.norm(b - A @ ridge(A, b, lam)) == pytest.approx(1.1 * delta, rel=1e-10)
        assert bool(solution.holds)
        assert bool(solution.converged)
        np.testing.assert_allclose(solution.stats["x"], ridge(A, b, lam), rtol=1e-9)
        grid = np.geomspace(lam / 100, lam * 100, 201)
        sizes = np.array([np.linalg.norm(b - A @ ridge(A, b, g)) for g in grid])
        assert np.all(np.diff(sizes) > 0)  # strictly increasing, so the root is the only one
        assert grid[np.argmin(np.abs(sizes - 1.1 * delta))] == pytest.approx(lam, rel=0.05)
    value = lambda d: discrepancy_principle(jnp.asarray(A), jnp.asarray(b), d).value  # noqa: E731
    h = 1e-5 * delta
    assert float(jax.grad(value)(delta)) == pytest.approx(
        float(value(delta + h) - value(delta - h)) / (2 * h), rel=1e-5
    )


def test_discrepancy_principle_at_extreme_scales_and_out_of_reach():
    A, b = problem((12, 5))
    least = np.linalg.norm(b - A @ np.linalg.lstsq(A, b, rcond=None)[0])
    target = (least + np.linalg.norm(b)) / 2
    lam = float(discrepancy_principle(A, b, target).value)
    for scale in (2.0**-200, 2.0**200):
        assert float(discrepancy_principle(A * scale, b, target).value) == pytest.approx(lam * scale**2, rel=1e-10)
        assert float(discrepancy_principle(A, b * scale, target * scale).value) == pytest.approx(lam, rel=1e-10)
    for impossible in (least / 2, 2 * np.linalg.norm(b)):
        with pytest.raises(InputError, match="delta: found"):
            discrepancy_principle(A, b, impossible)
        with jax.enable_x64(True):
            traced = jax.jit(discrepancy_principle)(jnp.asarray(A), jnp.asarray(b), impossible)
            assert not bool(traced.converged)


@pytest.mark.covers("picard-diagnostic")
def test_picard_pieces_add_up_and_noise_is_amplified(x64):
    A, x = problem((12, 5))[0] * 10.0 ** -np.arange(5), np.ones(5)
    s = np.linalg.svd(A, compute_uv=False)
    draws = 4000
    noise = 0.1 * np.random.default_rng(0).normal(size=(draws, 12))
    one = picard(A, x=x, noise=noise[0])
    assert all(bool(c.holds) for c in one.certificates.values())
    U, _, Vt = np.linalg.svd(A, full_matrices=False)
    signs = np.sign(np.sum(U * np.asarray(jnp.linalg.svd(jnp.asarray(A), full_matrices=False)[0]), 0))
    np.testing.assert_allclose(one.signal + one.noise, one.component, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(one.signal, signs * (Vt @ x), rtol=1e-9)
    np.testing.assert_allclose(one.component, signs * (U.T @ (A @ x + noise[0]) / s), rtol=1e-9)
    np.testing.assert_allclose(picard(A, A @ x + noise[0]).component, one.component, rtol=1e-9)
    many = jax.vmap(lambda e: picard(jnp.asarray(A), x=jnp.asarray(x), noise=e).noise)(jnp.asarray(noise))
    # A sample variance of N normal draws has relative standard error √(2/N); five of them.
    assert np.all(np.abs(np.var(many, axis=0) / (0.1 / s) ** 2 - 1) < 5 * np.sqrt(2 / draws))
    assert one.plot().get_yscale() == "log"
    assert picard(np.ones((3, 2)), np.ones(3)).amplification[1] == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (tsvd, "exactly one"),
        (lambda A, b: tsvd(A, b, tau=1.0, k=1), "exactly one"),
        (lambda A, b: tsvd(A, b, k=0), "k: found 0"),
        (lambda A, b: tsvd(A, b, tau=-1.0), "tau: found"),
        (lambda A, b: spectral_filter(A, b, lambda s: 1 / (0 * s)), "filter: returned NaN"),
        (lambda A, b: spectral_filter(A, b, lambda s: s[:1]), "filter: returned shape"),
        (lambda A, b: spectral_filter(A, b[:2], lambda s: s), "b: found 2 rows"),
        (lambda A, b: tikhonov(A, b, -1.0), "lam: found"),
        (lambda A, b: tikhonov(A, b, 1.0, np.eye(3)), "L: found 3 columns"),
        (lambda A, b: gcv(A, b, np.array([0.0, 1.0])), "lams: found"),
        (lambda A, b: discrepancy_principle(A, b, 0.0), "delta: found"),
        (lambda A, b: discrepancy_principle(A, b, 1.0, safety=0.5), "safety: found"),
        (lambda A, b: discrepancy_principle(A, np.ones((12, 2)), 1.0), "expected a vector"),
        (lambda A, b: picard(A), "b: expected"),
        (lambda A, b: picard(A, x=np.ones(5)), "b: expected"),
        (lambda A, b: picard(A, b[:3]), "b: found length 3"),
        (lambda A, b: picard(A * np.nan, b), "A: found NaN"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message), np.errstate(all="ignore"):
        call(*problem((12, 5)))
