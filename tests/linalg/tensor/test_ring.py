"""Tensor rings: trains at r_0 = 1, cyclic shifts, exactness at full rank, the error's certificate, and refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorly
import tensorly.decomposition

from corollary.core import InputError, Status
from corollary.linalg.tensor import TensorRing, tensor_ring

SHAPE = (6, 4, 5, 3)
DTYPES = [np.float32, np.float64, np.complex128]


def draw(shape, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        values = values + 1j * rng.standard_normal(shape)
    return values.astype(dtype)


def error(X, solution):
    return np.linalg.norm(X - solution.value.to_dense()) / np.linalg.norm(X)


def assert_holds(solution):
    assert bool(solution.holds), {n: c.explain() for n, c in solution.certificates.items() if not c.holds}


def naive_train(X, ranks):
    """TT-SVD from left to right, plainly; the train's full tensor and the discarded part of each step."""
    cores, lost, rest, r = [], [], X, 1
    for k, n in enumerate(X.shape[:-1]):
        U, s, Vh = np.linalg.svd(rest.reshape(r * n, -1), full_matrices=False)
        lost.append(np.linalg.norm(s[ranks[k] :]))
        cores.append(U[:, : ranks[k]].reshape(r, n, -1))
        r, rest = ranks[k], s[: ranks[k], None] * Vh[: ranks[k]]
    full = rest
    for core in reversed(cores):
        full = core.reshape(-1, core.shape[2]) @ full.reshape(core.shape[2], -1)
    return full.reshape(X.shape), np.array(lost)


@pytest.mark.covers("tensor-ring")
@pytest.mark.parametrize("dtype", DTYPES)
def test_r0_of_one_is_the_tensor_train(dtype):
    eps = float(200 * np.finfo(dtype).eps)
    X = draw(SHAPE, dtype)
    found = tensor_ring(X, (1, 4, 6, 2))
    full, lost = naive_train(X, (4, 6, 2))
    np.testing.assert_allclose(found.value.to_dense(), full, atol=eps * np.linalg.norm(X))
    np.testing.assert_allclose(found.stats["discarded"], lost / np.linalg.norm(X), rtol=1e-3, atol=eps)
    assert found.value.rank == (1, 4, 6, 2, 1)
    assert found.value.cores[0].dtype == dtype
    assert_holds(found)
    theirs = tensorly.decomposition.tensor_train(X, [1, 4, 6, 2, 1]).to_tensor()
    np.testing.assert_allclose(found.value.to_dense(), theirs, atol=eps * np.linalg.norm(X))


@pytest.mark.covers("tensor-ring")
def test_a_cyclic_shift_of_the_modes_shifts_the_cores():
    ring = tensor_ring(draw(SHAPE), (2, 3, 4, 3)).value
    full = ring.to_dense()
    for k in range(1, 4):
        shifted = TensorRing(ring.cores[k:] + ring.cores[:k])
        order = [*range(k, 4), *range(k)]
        np.testing.assert_allclose(shifted.to_dense(), np.transpose(full, order), atol=1e-12)
        # and the algorithm itself: opened at mode k of the shifted tensor's origin
        back = tensor_ring(np.transpose(draw(SHAPE), np.argsort(order)), (2, 3, 4, 3), start=k)
        for ours, core in zip(back.value.cores[k:] + back.value.cores[:k], ring.cores, strict=True):
            np.testing.assert_array_equal(ours, core)
        assert back.stats["relative_error"] == pytest.approx(error(draw(SHAPE), tensor_ring(draw(SHAPE), (2, 3, 4, 3))))


@pytest.mark.covers("tensor-ring")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("r0", [1, 2, 3])
def test_full_rank_is_exact(dtype, r0):
    X = draw(SHAPE, dtype)
    found = tensor_ring(X, (r0, 6 // r0, 4 * 6 // r0, 3 * r0))
    assert error(X, found) <= 200 * np.finfo(dtype).eps
    assert_holds(found)
    tight = tensor_ring(X, tol=1e-5 if dtype == np.float32 else 1e-12, r0=r0)
    assert error(X, tight) <= (1e-5 if dtype == np.float32 else 1e-12)
    assert_holds(tight)


@pytest.mark.covers("tensor-ring")
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_error_is_the_root_of_the_sum_of_squares(dtype):
    eps, ours, peers = float(200 * np.finfo(dtype).eps), [], []
    for seed in range(10):
        X = draw(SHAPE, dtype, seed)
        found = tensor_ring(X, (2, 2, 3, 4))
        lost = found.stats["discarded"]
        assert error(X, found) == pytest.approx(np.linalg.norm(lost), rel=eps)
        assert found.stats["relative_error"] == pytest.approx(error(X, found), rel=eps)
        assert error(X, found) < lost.sum()  # the plain sum is looser
        assert_holds(found)
        ours.append(error(X, found))
        theirs = TensorRing(tuple(tensorly.decomposition.tensor_ring(X.copy(), [2, 2, 3, 4, 2]).factors))
        peers.append(np.linalg.norm(X - theirs.to_dense()) / np.linalg.norm(X))
    # singular vectors of other signs split otherwise: the errors agree on average only
    assert abs(np.mean(ours) - np.mean(peers)) <= 4 * np.hypot(np.std(ours), np.std(peers)) / np.sqrt(10)


@pytest.mark.covers("tensor-ring")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("settings", [{}, {"r0": 1}, {"r0": 2}, {"start": 2}, {"r0": 4, "start": 1}])
def test_a_tolerance_is_met_always(dtype, settings):
    cores = (draw((2, 8, 2)), draw((2, 5, 3), seed=1), draw((3, 6, 2), seed=2))
    X = TensorRing(cores).to_dense()
    X = (X + 1e-3 * np.linalg.norm(X) / np.sqrt(X.size) * draw(X.shape, seed=3)).astype(dtype)
    sizes = []
    for tol in (0.5, 0.1, 1e-2, 1e-4) if dtype == np.float32 else (0.5, 0.1, 1e-2, 1e-5, 1e-9, 1e-12):
        found = tensor_ring(X, tol=tol, **settings)
        assert error(X.astype(float), found) <= tol
        assert_holds(found)
        sizes.append(found.value.size)
        if "r0" in settings:
            assert found.value.rank[settings.get("start", 0)] == settings["r0"]
    assert sizes == sorted(sizes)
    below = tensor_ring(draw(SHAPE, dtype), tol=1e-18)
    assert below.status == Status.PRECISION
    assert_holds(below)


def test_the_smallest_ring_is_not_found():
    # the counter-example in the notes: a ring of 243 numbers; the first rank is found, the later ones are not
    X = TensorRing((draw((3, 9, 3)), draw((3, 9, 3), seed=1), draw((3, 9, 3), seed=2))).to_dense()
    assert tensor_ring(X, (3, 3, 3)).stats["relative_error"] > 0.1
    assert tensor_ring(X, tol=1e-10, r0=3).value.rank == (3, 3, 27, 3)
    assert tensor_ring(X, tol=1e-10, r0=1).value.rank == (1, 9, 9, 1)


def test_jit_vmap_and_scale(x64):
    X = jnp.asarray(draw(SHAPE))
    expected = tensor_ring(np.asarray(X), (2, 2, 3, 3))

    @jax.jit
    def run(X):
        found = tensor_ring(X, (2, 2, 3, 3))
        return found.value.to_dense(), found.stats["relative_error"]

    full, size = jax.vmap(run)(jnp.stack([X, 3 * X]))
    np.testing.assert_allclose(full[1], 3 * expected.value.to_dense(), atol=1e-10)
    np.testing.assert_allclose(size, expected.stats["relative_error"], rtol=1e-10)
    for other in (X, 3 * X - 1):
        run(other)
    assert run._cache_size() == 1
    assert isinstance(tensor_ring(X, (2, 2, 3, 3)).value.cores[0], jax.Array)
    with pytest.raises(InputError, match="traced tensor"):
        jax.jit(lambda X: tensor_ring(X, tol=0.1).value)(X)
    for scale in (1e-150, 1e-12, 1e12, 1e150):
        scaled = tensor_ring(np.asarray(X) * scale, (2, 2, 3, 3))
        np.testing.assert_allclose(scaled.value.to_dense(), expected.value.to_dense() * scale, rtol=1e-7)
        assert scaled.stats["relative_error"] == pytest.approx(expected.stats["relative_error"], rel=1e-12)
        assert_holds(scaled)


def test_entries_near_the_largest_number(dtype):
    X = draw(SHAPE, dtype) / 1000
    X[0, 0, 0, 0] = 1.5  # so that no number of the ring is much larger
    top = np.finfo(dtype).maxexp - 1
    plain, large = (tensor_ring(np.ldexp(X, e), (2, 2, 3, 3)) for e in (0, top))
    np.testing.assert_array_equal(np.ldexp(large.value.cores[-1], -top), plain.value.cores[-1])
    assert_holds(large)


def test_gradients_against_differences(x64):
    X, D, step = draw(SHAPE), draw(SHAPE, seed=1), 1e-5
    value = jax.jit(lambda t: jnp.sum(tensor_ring(X + t * D, (2, 2, 3, 3)).value.to_dense() ** 3))
    expected = (value(step) - value(-step)) / (2 * step)
    assert jax.jvp(value, (0.0,), (1.0,))[1] == pytest.approx(float(expected), rel=1e-6)


def test_degenerate_tensors(dtype):
    for X, rank in (
        (np.zeros((3, 4, 5)), (1, 2, 2)),
        (np.ones((1, 4, 5)), (1, 1, 4)),
        (np.ones((4, 1, 5)), (2, 2, 2)),
        (np.ones((3, 4)), (1, 3)),
    ):
        found = tensor_ring(X.astype(dtype), rank)
        assert all(np.isfinite(core).all() for core in found.value.cores)
        assert_holds(found)
        np.testing.assert_allclose(found.value.to_dense(), X, atol=50 * np.finfo(dtype).eps)
    assert tensor_ring(np.zeros((3, 4, 5), dtype), tol=0.1).value.rank == (1, 1, 1, 1)
    assert tensor_ring(np.arange(24).reshape(2, 3, 4), tol=0.1).value.cores[0].dtype == np.float64


@pytest.mark.parametrize(
    ("X", "settings", "says"),
    [
        (np.ones((2, 2, 2)), {}, "exactly one"),
        (np.ones((2, 2, 2)), {"rank": (1, 1, 1), "tol": 0.1}, "exactly one"),
        (np.ones((2, 2, 2)), {"rank": 2}, "rank: found 2, expected a sequence"),
        (np.ones((2, 2, 2)), {"rank": (1, 0, 1)}, r"rank\[1\]: found 0"),
        (np.ones((2, 2, 2)), {"rank": (1, 1)}, r"rank: found \[1, 1\], expected 3"),
        (np.ones((2, 2, 2)), {"rank": (1, 1, 1, 2)}, "rank: found"),
        (np.ones((2, 2, 2)), {"rank": (2, 2, 1)}, "r_0 r_1 = 4, expected at most 2"),
        (np.ones((2, 2, 2)), {"rank": (1, 1, 1), "r0": 1}, "r0: found 1 beside"),
        (np.ones((2, 2, 2)), {"tol": 0.1, "r0": 3}, "r0: found 3, expected at most 2"),
        (np.ones((2, 2, 2)), {"tol": 0.0}, "tol: found 0.0"),
        (np.ones((2, 2, 2)), {"tol": 0.1, "start": 3}, "start: found 3, expected at most 2"),
        (np.ones(3), {"tol": 0.1}, "tensor: found an array of shape"),
        (np.full((2, 2), np.nan), {"tol": 0.1}, "tensor: found NaN"),
        (np.array([["a", "b"]]), {"tol": 0.1}, "tensor: found dtype"),
    ],
)
def test_refusals(X, settings, says):
    with pytest.raises(InputError, match=says):
        tensor_ring(X, **settings)


@pytest.mark.covers("tensor-ring")
@pytest.mark.parametrize("imaginary", [0.0, 1j])
def test_inner_products_without_the_full_tensor(imaginary):
    rng = np.random.default_rng(0)
    core = lambda r, n, s: rng.standard_normal((r, n, s)) + imaginary * rng.standard_normal((r, n, s))  # noqa: E731
    a, b = (TensorRing((core(r, 3, r + 1), core(r + 1, 4, 2), core(2, 5, r))) for r in (2, 3))
    np.testing.assert_allclose(a.inner(b), np.vdot(a.to_dense(), b.to_dense()), rtol=1e-12)
    np.testing.assert_allclose(a.norm(), np.linalg.norm(a.to_dense()), rtol=1e-12)
