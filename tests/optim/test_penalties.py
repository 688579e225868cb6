"""The laws of proximal operators, each one test over the table of penalties."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from corollary.core import InputError
from corollary.optim import penalties as P
from corollary.optim import prox
from corollary.optim.penalties import _sorted
from tests.optim.table import BY_ITERATION, CONVEX, FINITE, PENALTIES, VECTOR, points

STEP = 0.8
WITHOUT_DISTANCE = (
    "projection",
    "spectral_ball",
    "nuclear_ball",
    "capped_simplex",
    "conjugate",
    "entropy",  # near the boundary the limit needs steps far below any that is not lost to rounding
    "kullback_leibler",
    "log_det",
    *BY_ITERATION,
)
SINGLE = ("l1", "elastic_net", "sup", "group", "nuclear", "total_variation", "simplex", "l1_ball", "l0")
SINGLE += ("sorted_l1", "sparse_group", "entropy", "log_det", "image", "scad")
TOUCHING = ("total_variation", "sup", "scaled", "l2", "group", "rows", "nuclear", "conjugate", "affine", "halfspace")


def flat_norm(x):
    return jnp.linalg.norm(x.reshape(x.shape[0], -1), axis=1)


@functools.cache
def compiled(name, dtype):
    """The prox of a batch of points, compiled once for all the laws."""
    # A copy per precision: JAX keeps a closure's NumPy constants as it first met them, even where they were rounded.
    h = jax.tree.map(lambda leaf: leaf.copy() if isinstance(leaf, np.ndarray) else leaf, PENALTIES[name][0])
    return jax.jit(lambda v, step: jax.vmap(lambda v: h.prox(v, step))(v))


def batched(name, v, step=STEP):
    return compiled(name, v.dtype)(v, jnp.asarray(step, v.dtype))


@pytest.mark.covers("prox-operators")
@pytest.mark.parametrize("name", FINITE)
def test_no_minimiser_finds_a_lower_proximal_objective(name, x64):
    h, shape, _ = PENALTIES[name]
    v = points(name, "float64")[3]
    objective = jax.jit(lambda x: h.value(x.reshape(shape)) + jnp.sum((x.reshape(shape) - v) ** 2) / (2 * STEP))
    p = np.asarray(h.prox(v, STEP)).ravel()
    best = float(objective(p))
    for start in (p, np.asarray(v).ravel()):
        run = scipy.optimize.minimize(
            lambda x: float(objective(x)),
            start,
            method="Powell",
            options={"xtol": 1e-10, "ftol": 1e-15, "maxfev": 3000},
        )
        # The objective is 1/γ-strongly convex: nothing lower by 5e-13/γ means that p is right to 1e-6.
        assert run.fun >= best - 5e-13 / STEP


@pytest.mark.covers("prox-operators")
@pytest.mark.parametrize("name", [n for n in PENALTIES if n not in SINGLE])
def test_optimality_inclusion(name, x64):
    inclusion(name, "float64")


@pytest.mark.covers("prox-operators")
@pytest.mark.parametrize("name", SINGLE)
def test_optimality_inclusion_in_both_precisions(name, dtype):
    inclusion(name, dtype)


def inclusion(name, dtype):
    h = PENALTIES[name][0]
    v = points(name, dtype)
    if name in BY_ITERATION or jax.eval_shape(h.subdifferential_distance, v[0], v[0]) is None:
        # h(z) ≥ h(p) + ⟨(v − p)/γ, z − p⟩ for every z, p among them.
        p = batched(name, v)
        z = jnp.concatenate([p, v])
        dual = (v - p) / STEP
        inner = jnp.einsum("i...,j...->ij", dual, z) - jnp.einsum("i...,i...->i", dual, p)[:, None]
        values = jax.jit(jax.vmap(h.value))(z)
        assert bool(jnp.all(jnp.isfinite(values[: len(p)])))
        assert float(jnp.max(values[: len(p), None] + inner - values)) <= 1000 * jnp.finfo(dtype).eps * 30**2 * 12
        return
    solutions = jax.jit(jax.vmap(lambda v: prox(h, v, STEP)))(v)
    assert bool(jnp.all(solutions.certificates["inclusion"].holds))


@pytest.mark.covers("prox-operators")
def test_inclusion_fails_for_a_wrong_answer(x64):
    v = points("l1", "float64")[3]
    for name in ("l1", "elastic_net", "sup", "total_variation", "simplex", "l2_ball", "l1_ball"):
        h = PENALTIES[name][0]
        p = h.prox(v, STEP) * 0.999
        assert float(h.subdifferential_distance(p, (p - v) / STEP)) > 1e-5, name


@pytest.mark.covers("prox-operators")
@pytest.mark.parametrize("name", CONVEX)
def test_firmly_nonexpansive(name, dtype):
    u, v = points(name, dtype, seed=1), points(name, dtype, seed=2)
    dp, dv = batched(name, u) - batched(name, v), u - v
    inner = jnp.einsum("i...,i...->i", dp, dv)
    # Twice the points' size stands for the shift of sets that lie away from the origin.
    slack = 200 * jnp.finfo(dtype).eps * flat_norm(dv) * (1 + flat_norm(dv) + flat_norm(u))
    assert bool(jnp.all(inner >= flat_norm(dp) ** 2 - slack))


@pytest.mark.covers("prox-operators")
@pytest.mark.parametrize("name", [n for n, (_, _, homogeneous) in PENALTIES.items() if homogeneous])
@pytest.mark.parametrize("c", [1e-12, 1e12])
def test_scaling(name, c, x64):
    v = points(name, "float64")
    scaled = batched(name, c * v, STEP * c) / c
    np.testing.assert_allclose(scaled, batched(name, v), atol=1e-12, rtol=1e-10)


@pytest.mark.covers("prox-operators")
@pytest.mark.parametrize("name", [n for n in PENALTIES if n not in BY_ITERATION])
def test_gradient_through_prox(name, x64):
    h = PENALTIES[name][0]
    v, direction = points(name, "float64", seed=3)[3], points(name, "float64", seed=4)[3]
    weight = points(name, "float64", seed=5)[3]
    by_v, by_step = jax.jit(jax.grad(lambda v, t: jnp.sum(weight * h.prox(v, t)), (0, 1)))(v, STEP)
    d = 1e-6
    moved = batched(name, jnp.stack([v + d * direction, v - d * direction, v, v, v, v]))
    numeric = jnp.sum(weight * (moved[0] - moved[1])) / (2 * d)
    np.testing.assert_allclose(jnp.sum(by_v * direction), numeric, rtol=1e-6, atol=1e-8)
    v = jnp.broadcast_to(v, moved.shape)
    longer, shorter = batched(name, v, STEP + d)[0], batched(name, v, STEP - d)[0]
    np.testing.assert_allclose(by_step, jnp.sum(weight * (longer - shorter)) / (2 * d), rtol=1e-6, atol=1e-8)


@pytest.mark.covers("prox-operators")
@pytest.mark.parametrize("name", ["l1", "group", "nuclear", "total_variation", "simplex", "entropy", "tilted"])
def test_numpy_in_numpy_out_and_vmap_is_loop(name, x64):
    # The decorator's work, one for all: the penalties differ in what it wraps, not in how.
    h = PENALTIES[name][0]
    v = points(name, "float64")
    one = h.prox(np.asarray(v[3]), STEP)
    assert isinstance(one, np.ndarray)
    np.testing.assert_allclose(batched(name, v)[3], one, atol=1e-13)
    single = h.prox(np.asarray(v[3], np.float32), STEP)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, one, atol=1e-5)


@pytest.mark.covers("prox-operators")
@pytest.mark.parametrize("name", PENALTIES)
def test_float32_agrees_with_float64(name, x64):
    v = points(name, "float32")
    single, double = batched(name, v), batched(name, v.astype("float64"))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single[2:4], double[2:4], atol=1e-5)


@pytest.mark.covers("prox-operators")
@pytest.mark.parametrize("name", [n for n in CONVEX if n not in WITHOUT_DISTANCE])
def test_subdifferential_distance_is_the_limit_of_the_prox_residual(name, x64):
    # (x + t w − prox_{t h}(x + t w))/t tends to the projection of w onto ∂h(x).
    h = PENALTIES[name][0]
    t = 1e-7
    x = batched(name, points(name, "float64")).at[1].set(0)
    w = 0.7 * points(name, "float64", seed=9)[3]
    nearest = (x + t * w - batched(name, x + t * w, t)) / t
    distances = jax.jit(jax.vmap(lambda x: h.subdifferential_distance(x, -w)))(x)
    for i in range(len(x)):
        if np.isfinite(h.value(x[i])):
            expected = jnp.linalg.norm((w - nearest[i]).ravel())
            np.testing.assert_allclose(distances[i], expected, rtol=1e-4, atol=2e-6 * (1 + jnp.abs(x[i]).max()))


@pytest.mark.covers("prox-operators")
@pytest.mark.parametrize("name", [n for n in CONVEX if n not in ("zero", "projection", *BY_ITERATION)])
def test_conjugate_is_the_supremum(name, x64):
    h = PENALTIES[name][0]
    u = points(name, "float64")[3]
    s = h.dual_scaling(u)
    s = 1.0 if s is None else s
    bound = h.conjugate(s * u)
    if bound is None:
        assert name == "total_variation"
        return
    x = points(name, "float64", seed=8)
    x = jnp.concatenate([x, batched(name, x)])
    values = jax.jit(jax.vmap(h.value))(x)
    assert bool(jnp.all(jnp.sum((s * u * x).reshape(len(x), -1), 1) - values <= bound + 1e-11))
    # Equality at a proximal point (Fenchel-Young): d = (v − p)/γ lies in ∂h(p).
    if name in TOUCHING:
        return
    v = points(name, "float64")
    p = batched(name, v)[3]
    d = (v[3] - p) / STEP
    scale = 1 + float(jnp.sum(jnp.abs(v[3] * d)))
    np.testing.assert_allclose(h.value(p) + h.conjugate(d), jnp.sum(p * d), atol=1e-11 * scale)
    if name in ("l1", "l2", "sup", "group", "rows", "nuclear"):  # just outside the dual ball it is infinite
        assert bound == 0
        outside = u * (1.001 * s if s < 1 else 1e3)
        assert np.isinf(h.conjugate(outside))


@pytest.mark.covers("prox-operators")
def test_textbook_formulas(dtype):
    v = jnp.asarray([3.0, -0.5, -2.0, 1.4], dtype)
    np.testing.assert_allclose(P.L1(1.0).prox(v), jnp.sign(v) * jnp.maximum(jnp.abs(v) - 1, 0), rtol=1e-6)
    np.testing.assert_array_equal(v - P.L1(1.0).prox(v), jnp.clip(v, -1, 1))
    np.testing.assert_allclose(P.SquaredL2(3.0).prox(v, 0.5), v / (1 + 0.5 * 3.0), rtol=1e-6)
    np.testing.assert_array_equal(P.L0(1.0).prox(v), jnp.where(jnp.abs(v) > 2**0.5, v, 0))
    np.testing.assert_array_equal(P.Zero().prox(v), v)


@pytest.mark.covers("prox-operators")
def test_l0_beats_every_support(x64):
    h, v = P.L0(0.4), np.array([0.1, -1.2, 0.85, 0.9, 2.0])
    best = min(
        0.4 * sum(support) + np.sum(np.where(support, 0, v) ** 2) / (2 * STEP)
        for support in itertools.product([0, 1], repeat=5)
    )
    p = h.prox(v, STEP)
    assert h.value(p) + np.sum((p - v) ** 2) / (2 * STEP) == pytest.approx(best, rel=1e-12)


@pytest.mark.covers("prox-operators")
@pytest.mark.parametrize("n", [1, 2, 3, 60])
def test_total_variation_against_its_dual(n, dtype):
    # The dual is a box-constrained least-squares problem: min ‖v − Dᵀz‖, |z| ≤ λ.
    v = np.cumsum(np.random.default_rng(n).normal(size=n))
    weights = np.random.default_rng(1).uniform(0, 2, size=max(n - 1, 0))
    p = P.TotalVariation(jnp.asarray(weights, dtype)).prox(jnp.asarray(v, dtype), 1.0)
    if n == 1:
        np.testing.assert_allclose(p, v, rtol=1e-6)
        return
    D = np.diff(np.eye(n), axis=0)
    z = scipy.optimize.lsq_linear(D.T, v, (-weights - 1e-300, weights + 1e-300), tol=1e-15, method="bvls").x
    np.testing.assert_allclose(p, v - D.T @ z, atol=400 * jnp.finfo(dtype).eps * np.abs(v).max() * n)


@pytest.mark.covers("prox-operators")
def test_an_inner_iteration_bounds_its_error(x64):
    v = jax.random.normal(jax.random.key(0), PENALTIES["image"][1])
    exact = PENALTIES["image"][0].prox(v, STEP)
    rough = prox(P.TotalVariation2D(0.6, tol=1e-3), v, STEP)
    gap = rough.certificates["gap"]
    assert bool(gap.holds)
    assert 0 < jnp.sum((rough.value - exact) ** 2) / 2 <= gap.measured
    short = prox(P.TotalVariation2D(0.6, tol=1e-9, max_steps=2), v, STEP)
    assert not bool(short.converged)
    # A path graph is the one-dimensional case, which has an exact sweep.
    x = v.ravel()
    path = P.GraphTotalVariation(np.stack([np.arange(11), np.arange(1, 12)], 1), 0.3, tol=0.0)
    np.testing.assert_allclose(path.prox(x), P.TotalVariation(0.3).prox(x), atol=1e-7)


@pytest.mark.covers("prox-operators")
def test_a_callable_by_minimisation(x64):
    v = jnp.asarray([3.0, -1.0, 0.2])

    def huber(x):
        return jnp.sum(jnp.where(jnp.abs(x) < 1, x**2 / 2, jnp.abs(x) - 0.5))

    for c in (1e-12, 1.0, 1e12):
        # h(x) = c² huber(x/c) scales the answer by c.
        solution = prox(lambda x, c=c: c**2 * huber(x / c), c * v, 0.5)
        assert bool(solution.converged)
        np.testing.assert_allclose(solution.value / c, [2.5, -1 / 1.5, 0.2 / 1.5], atol=1e-6)


@pytest.mark.covers("prox-operators")
def test_pytrees_and_blocks(x64):
    v = {"w": jnp.asarray([[3.0, -0.2]]), "b": jnp.asarray(2.0)}
    p = P.L1(1.0).prox(v)
    np.testing.assert_array_equal(p["w"], [[2.0, 0.0]])
    assert p["b"] == 1.0
    np.testing.assert_allclose(P.L2Norm(1.0).value(v), np.sqrt(9 + 0.04 + 4))
    h = P.Blocks({"w": P.L1(1.0), "b": P.Zero()})
    p = h.prox(v)
    np.testing.assert_array_equal(p["w"], [[2.0, 0.0]])
    assert p["b"] == 2.0
    assert h.value(v) == pytest.approx(3.2)
    assert h.is_convex
    assert h.dual_scaling(v) is None
    assert not P.Blocks({"w": P.L0(), "b": P.Zero()}).is_convex
    assert P.Blocks({"w": P.L1(), "b": P.SquaredL2()}).conjugate(v) == np.inf


@pytest.mark.covers("prox-operators")
@pytest.mark.parametrize("name", CONVEX)
@pytest.mark.parametrize("c", [1e-150, 1e150])
def test_extreme_scales_stay_finite(name, c, x64):
    shape = PENALTIES[name][1]
    if shape != VECTOR and name != "rows":  # LAPACK's own range
        return
    v = c * points(name, "float64")
    assert np.all(np.isfinite(batched(name, v)))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: P.L1(-1.0), "alpha: found -1.0"),
        (lambda: P.L1(np.array([1.0, np.nan])), "alpha"),
        (lambda: P.L1("much"), "alpha"),
        (lambda: P.ElasticNet(1.0, 1.5), "l1_ratio"),
        (lambda: P.Simplex(0.0), "radius"),
        (lambda: P.GroupLasso(1.0, [0.5, 1.0]), "groups"),
        (lambda: P.GroupLasso(1.0, [0, 1]).prox(np.ones(3)), "groups: found 2 labels, expected 3"),
        (lambda: P.Nuclear(1.0).prox(np.ones(3)), "expected a matrix"),
        (lambda: P.TotalVariation(1.0).prox(np.ones((3, 2))), "expected a vector"),
        (lambda: prox(P.L1(), [1.0, np.nan]), "v: found NaN"),
        (lambda: prox(P.L1(), np.array([1j])), "v: found dtype"),
        (lambda: prox(P.L1(), "text"), "v: found"),
        (lambda: prox(P.L1(), {}), "v: found no array"),
        (lambda: prox(P.L1(), [1.0], 0.0), "step: found 0.0"),
    ],
)
def test_bad_input(make, says):
    with pytest.raises(InputError, match=says):
        make()


def test_integers_become_floats():
    assert P.L1(0.5).prox(np.array([1, 2])).tolist() == [0.5, 1.5]
    assert VECTOR == (7,)


def test_a_tilted_conjugate_is_never_below_the_supremum(x64):
    """It comes from a computed prox, which for an indicator may lie a rounding outside of the set."""
    l = jnp.asarray(np.random.default_rng(0).normal(size=(20, 3, 3)))
    h, inside = P.Tilted(P.NuclearBall(1.0), ridge=1e-3), P.NuclearBall(1.0).prox(1e3 * l[0])
    found = jax.jit(jax.vmap(h.conjugate))(l)
    assert jnp.all(jnp.isfinite(found))
    assert jnp.all(found >= jnp.sum(l * inside, (1, 2)) - 5e-4 * jnp.sum(inside**2) - 1e-12)
    assert P.Tilted(P.TotalVariation2D(1.0, max_steps=3), ridge=0.01).conjugate(l[0]) is None  # it rests on a prox
    # A ridge of 0 is none.
    assert P.Tilted(P.L1(1.0), ridge=0.0).conjugate(0.9 * jnp.sign(l[0])) == 0


def test_an_inexact_prox_tells_by_how_much_it_misses(x64):
    v = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)))
    h = P.TotalVariation2D(0.6, max_steps=1)
    p = h.prox(v, STEP)
    excess = h._fenchel_excess(p, (v - p) / STEP)
    best = PENALTIES["image"][0].prox(v, STEP)
    # γε is the duality gap of the proximal problem.
    assert 0 < jnp.sum((p - best) ** 2) / 2 <= STEP * excess * (1 + 1e-9)
    for same, x, u in (
        (P.Scaled(P.TotalVariation2D(0.3, max_steps=1), 2.0), p, (v - p) / STEP),
        (P.Tilted(h, shift=1.0, tilt=0.5, ridge=2.0), p + 1, (v - p) / STEP + 0.5 + 2 * (p + 1)),
        (P.Blocks([h, P.Zero()]), [p, p], [(v - p) / STEP, 0 * p]),
    ):
        assert jnp.allclose(same._fenchel_excess(x, u), excess, rtol=1e-9)
    assert P.L1()._fenchel_excess(p, p) is None
    # The certificate of `prox` sees through the wrapping, and a large mean does not widen its bound.
    solution = prox(P.Scaled(P.TotalVariation2D(0.3, max_steps=1), 2.0), 1000 + v, STEP)
    assert not solution.certificates["gap"].holds
    assert not solution.converged


def test_a_long_way_to_a_set_ends_inside_it(x64):
    rng = np.random.default_rng(0)
    a, A, M = rng.normal(size=3), rng.normal(size=(3, 3)), rng.normal(size=(6, 5))
    cases = [
        (P.AffineSet(A, np.zeros(3)), rng.normal(size=(5, 3))),
        (P.Halfspace(a, 0.0), np.stack([5 * a, 1e8 * a + 1, 1e4 * a])),
        (P.NuclearBall(1.0), np.stack([1e3 * M, 1e6 * M])),
        (P.Conjugate(P.L1(1.0)), np.array([[1e3, -3e5, 0.3]])),
    ]
    for h, far in cases:
        for v in far:
            assert h.value(h.prox(v)) == 0


def test_sorted_l1_knows_its_dual_ball_in_float32():
    b = np.random.default_rng(0).normal(size=40_000).astype("float32")
    h = P.SortedL1(np.float32(1.0))
    u = h.dual_scaling(b) * b
    assert h.conjugate(u) == 0
    assert h.conjugate(u * np.float32(1.0001)) == np.inf


def test_finite_at_the_ends_of_float32():
    tiny, huge = np.float32([1e-30]), np.float32([1e20, 1.0])
    assert P.LHalf(0.0).prox(tiny) == tiny
    assert np.allclose(P.NegativeEntropy().prox(huge), np.float32([1e20, 0.567143]))
    assert P.L0(0.0).subdifferential_distance(np.zeros(2), np.array([3.0, 4.0])) == 5


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: P.Box(1.0, 0.0), "lower: found a bound above"),
        (lambda: P.Box(np.nan, 1.0), "lower: found NaN"),
        (lambda: P.Halfspace([np.nan, 0.0]), "normal: found NaN"),
        (lambda: P.SCAD(gamma=np.array(1.0)), "gamma"),
        (lambda: P.Hinge([0.0, 0.5]), "y: found"),
        (lambda: P.L1().prox([3.0], -1.0), "step: found"),
        (lambda: P.NegativeEntropy().prox([3.0], 0.0), "step: found"),
    ],
)
def test_what_is_no_penalty_is_refused(call, says):
    with pytest.raises(InputError, match=says):
        call()


def test_an_eager_prox_compiles_once(x64):
    h = P.SortedL1(np.array([0.3, 0.2, 0.1]))
    first = h.prox([3.0, 2.0, 1.0])
    count = _sorted._compiled._cache_size()
    assert np.all(P.SortedL1(np.array([0.3, 0.2, 0.1])).prox([3.0, 2.0, 1.0]) == first)
    assert _sorted._compiled._cache_size() == count


def test_a_callable_near_the_origin_and_what_is_assumed_of_it():
    solution = prox(lambda x: ((x - 1e-12) ** 2).sum() / 2, [0.0, 0.0], max_steps=50)
    assert np.allclose(solution.value, 5e-13, rtol=1e-6)
    assert [a.text for a in solution.certificates["distance"].assumptions] == ["h convex"]
