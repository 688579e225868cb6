"""Projections, thresholding and Moreau's decomposition."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax.projections
import pytest

from corollary.core import InputError
from corollary.optim import (
    hard_threshold,
    moreau_decomposition,
    projections,
    singular_value_soft_threshold,
    soft_threshold,
)
from corollary.optim import (
    penalties as P,
)

RNG = np.random.default_rng(0)
NORMAL, A, B = RNG.normal(size=6), RNG.normal(size=(2, 6)), RNG.normal(size=2)
SETS = {
    "box": (lambda v: projections.box(v, -0.5, np.linspace(0, 1, 6)), (6,)),
    "nonnegative": (projections.nonnegative, (6,)),
    "linf": (lambda v: projections.linf_ball(v, 0.7), (6,)),
    "l2": (lambda v: projections.l2_ball(v, 0.9), (6,)),
    "l1": (lambda v: projections.l1_ball(v, 1.1), (6,)),
    "simplex": (lambda v: projections.simplex(v, 1.3), (6,)),
    "halfspace": (lambda v: projections.halfspace(v, NORMAL, -0.4), (6,)),
    "affine": (lambda v: projections.affine(v, A, B), (6,)),
    "psd": (projections.psd, (3, 3)),
    "spectral": (lambda v: projections.spectral_ball(v, 0.8), (4, 3)),
    "nuclear": (lambda v: projections.nuclear_ball(v, 1.4), (4, 3)),
    "capped": (lambda v: projections.capped_simplex(v, 2.2, 0.9), (6,)),
    "second_order": (projections.second_order_cone, (6,)),
}


@pytest.mark.covers("euclidean-projections")
@pytest.mark.parametrize("name", SETS)
def test_projection_laws(name, dtype):
    project, shape = SETS[name]
    v = [s * RNG.normal(size=shape).astype(dtype) for s in (0.1, 1.0, 1.0, 10.0)]
    p = [project(x) for x in v]
    assert all(x.dtype == dtype for x in p)
    tol = 500 * np.finfo(dtype).eps
    for (x, px), z in itertools.product(zip(v, p, strict=True), p):
        assert np.sum((x - px) * (z - px)) <= tol * (1 + np.linalg.norm(x)) ** 2  # z is in the set
        assert np.linalg.norm(px - z) <= np.linalg.norm(x - v[[q is z for q in p].index(True)]) + tol * 10
    for px in p:
        np.testing.assert_allclose(project(px), px, atol=tol * (1 + np.abs(px).max()))  # idempotent


@pytest.mark.covers("euclidean-projections")
def test_against_optax(x64):
    for _ in range(5):
        v, normal = jnp.asarray(RNG.normal(size=6) * 2), jnp.asarray(NORMAL)
        with jax.numpy_dtype_promotion("standard"):
            pairs = [
                (projections.simplex(v, 1.3), optax.projections.projection_simplex(v, 1.3)),
                (projections.l1_ball(v, 1.3), optax.projections.projection_l1_ball(v, 1.3)),
                (projections.l2_ball(v, 1.3), optax.projections.projection_l2_ball(v, 1.3)),
                (
                    projections.halfspace(v, NORMAL, 0.1),
                    optax.projections.projection_halfspace(v, normal, 0.1),
                ),
            ]
        for ours, theirs in pairs:
            np.testing.assert_allclose(ours, theirs, atol=1e-14)


@pytest.mark.covers("euclidean-projections")
def test_closed_forms_and_edges(x64):
    np.testing.assert_allclose(A @ projections.affine(np.ones(6), A, B), B, atol=1e-13)
    twice = projections.affine(np.ones(6), np.vstack([A, A]), np.r_[B, B])  # rank-deficient
    np.testing.assert_allclose(twice, projections.affine(np.ones(6), A, B), atol=1e-13)
    far = projections.simplex(np.array([1e20, 1e20, 0.0]))
    np.testing.assert_allclose(far, [0.5, 0.5, 0])
    offset = projections.simplex(np.array([1e8, 1e8 + 0.5, -1e300]))
    np.testing.assert_allclose(offset, [0.25, 0.75, 0], atol=1e-8)
    np.testing.assert_allclose(projections.l2_ball(np.full(4, 1e200)), 0.5)
    assert projections.l1_ball(np.array([3.0, -4.0]), 0.0).tolist() == [0.0, 0.0]
    tree = projections.l2_ball({"a": np.array([3.0]), "b": np.array(4.0)}, 1.0)
    np.testing.assert_allclose([tree["a"][0], tree["b"]], [0.6, 0.8])
    S = RNG.normal(size=(3, 3))
    p = projections.psd(S)
    assert np.linalg.eigvalsh(p)[0] >= -1e-15
    np.testing.assert_allclose(np.linalg.eigvalsh((S + S.T) / 2 - p).max(), 0, atol=1e-14)


@pytest.mark.covers("moreau-decomposition")
def test_moreau_against_the_dual_projection(x64):
    v, M = RNG.normal(size=6) * 2, RNG.normal(size=(4, 3))
    line = np.linalg.qr(A.T)[0]
    subspace = P.Indicator(jax.tree_util.Partial(lambda Q, x: Q @ (Q.T @ x), jnp.asarray(line)))
    pairs = [
        (P.L1(0.7), v, lambda u, g: projections.linf_ball(u, 0.7)),
        (P.L2Norm(0.7), v, lambda u, g: projections.l2_ball(u, 0.7)),
        (P.SupNorm(0.7), v, lambda u, g: projections.l1_ball(u, 0.7)),
        (P.Nuclear(0.7), M, lambda u, g: projections.spectral_ball(u, 0.7)),
        (P.Box(-0.7, 0.7), v, lambda u, g: P.L1(0.7).prox(u, 1 / g)),
        (P.L2Ball(0.7), v, lambda u, g: P.L2Norm(0.7).prox(u, 1 / g)),
        (P.L1Ball(0.7), v, lambda u, g: P.SupNorm(0.7).prox(u, 1 / g)),
        (P.Nonnegative(), v, lambda u, g: np.minimum(u, 0)),
        (subspace, v, lambda u, g: u - line @ (line.T @ u)),
    ]
    for h, point, dual_prox in pairs:
        for step in (0.3, 1.0, 4.0):
            split = moreau_decomposition(h, point, step)
            p, d = split.value
            np.testing.assert_allclose(p + step * d, point, atol=1e-12)
            np.testing.assert_allclose(d, dual_prox(point / step, step), atol=1e-12)
            assert split.holds


@pytest.mark.covers("moreau-decomposition")
@pytest.mark.parametrize("name", ["elastic_net", "squared_l2", "group", "simplex", "total_variation", "sorted_l1"])
def test_fenchel_equality_certifies(name, dtype):
    from tests.optim.table import PENALTIES, points

    for v in points(name, dtype):
        assert bool(moreau_decomposition(PENALTIES[name][0], v, 0.6).holds)


@pytest.mark.covers("moreau-decomposition")
def test_moreau_needs_convexity():
    with pytest.raises(InputError, match="penalty: found L0"):
        moreau_decomposition(P.L0(), [1.0])


@pytest.mark.covers("prox-operators")
def test_soft_threshold_is_v_less_its_clip(dtype):
    v = jnp.asarray(RNG.normal(size=50) * 2, dtype)
    np.testing.assert_array_equal(v - soft_threshold(v, 0.7), v - (v - jnp.clip(v, *jnp.asarray([-0.7, 0.7], dtype))))


@pytest.mark.covers("singular-value-soft-threshold")
def test_singular_value_soft_threshold(dtype):
    M = RNG.normal(size=(5, 3)).astype(dtype)
    singular = np.linalg.svd(M, compute_uv=False)
    ranks = []
    for tau in (0.0, 0.5 * singular[2], singular[1], 1.01 * singular[0]):
        run = singular_value_soft_threshold(M, tau)
        assert run.holds
        kept = np.linalg.svd(run.value, compute_uv=False)
        np.testing.assert_allclose(kept, np.maximum(singular - tau, 0), atol=50 * np.finfo(dtype).eps * singular[0])
        ranks.append((kept > 1e-5).sum())
    assert ranks == sorted(ranks, reverse=True)
    assert ranks[-1] == 0
    np.testing.assert_array_equal(singular_value_soft_threshold(M, 10 * singular[0]).value, 0)


@pytest.mark.covers("singular-value-soft-threshold")
def test_no_perturbation_improves(x64):
    M, tau = RNG.normal(size=(5, 3)), 0.8
    B_ = np.asarray(singular_value_soft_threshold(M, tau).value)

    def objective(B):
        return np.sum((M - B) ** 2) / 2 + tau * np.linalg.svd(B, compute_uv=False).sum()

    for scale in (1e-6, 1e-3, 1.0):
        for _ in range(20):
            D = RNG.normal(size=B_.shape)
            # 1-strongly convex: a perturbation costs at least half its squared length.
            assert objective(B_ + scale * D) >= objective(B_) + scale**2 * np.sum(D**2) / 2 * (1 - 1e-6) - 1e-13


@pytest.mark.covers("singular-value-soft-threshold")
@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4)])
def test_derivative_where_singular_values_coincide(shape, x64):
    k = min(shape)
    M = np.zeros(shape)
    M[range(k), range(k)] = [2.0, 2.0, 0.0, 0.5][:k]  # a double value, and a zero one
    D = RNG.normal(size=shape)

    @jax.jit
    def f(M):
        return P.Nuclear(1.0).prox(M, 0.8)

    tangent = jax.jvp(f, (jnp.asarray(M),), (jnp.asarray(D),))[1]
    np.testing.assert_allclose(tangent, (f(M + 1e-6 * D) - f(M - 1e-6 * D)) / 2e-6, atol=1e-8)
    assert bool(jnp.all(jnp.isfinite(jax.grad(lambda M: jnp.sum(f(M) ** 2))(jnp.asarray(M)))))


@pytest.mark.covers("hard-threshold")
def test_hard_threshold_beats_every_support(dtype):
    z = RNG.normal(size=7).astype(dtype)
    for s in range(8):
        kept = hard_threshold(z, s)
        best = min(np.sum(np.delete(z, support) ** 2) for support in itertools.combinations(range(7), s))
        assert np.sum((z - kept) ** 2) == pytest.approx(best, rel=1e-5)
        assert np.count_nonzero(kept) == s
        np.testing.assert_array_equal(hard_threshold(kept, s), kept)
    np.testing.assert_array_equal(
        hard_threshold(np.array([1.0, -1.0, 1.0, 0.5]), 2), [1, -1, 0, 0]
    )  # ties: lower index
    np.testing.assert_array_equal(hard_threshold(z, 99), z)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: hard_threshold([1.0], -1), "s: found -1"),
        (lambda: hard_threshold([np.nan], 1), "z: found NaN"),
        (lambda: singular_value_soft_threshold(np.ones(3), 1.0), "A: found an array of shape"),
        (lambda: singular_value_soft_threshold(np.eye(2), -1.0), "tau: found -1.0"),
        (lambda: projections.psd(np.ones((2, 3))), "expected a square matrix"),
        (lambda: projections.affine([1.0], [[1.0, 2.0]], [1.0]), "v: found 1 entries, expected 2"),
        (lambda: projections.halfspace(np.ones(2), np.ones(3), 1.0), "normal"),
        (lambda: projections.simplex([1.0], 0.0), "radius"),
        (lambda: projections.l2_ball([1.0], -1.0), "radius"),
    ],
)
def test_bad_input(call, says):
    with pytest.raises(InputError, match=says):
        call()


@pytest.mark.covers("moreau-decomposition")
def test_fenchel_equality_certifies_at_zero(dtype):
    """At v = 0 the rounding is that of p, which a simplex keeps away from zero."""
    from corollary.optim.penalties import Simplex

    for n in (1, 2, 5, 11):
        assert bool(moreau_decomposition(Simplex(radius=1.5), np.zeros(n, dtype), 0.6).holds)
