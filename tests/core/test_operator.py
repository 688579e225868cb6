"""The operators: products from both sides, adjoints, memory, and life inside lineax, jit, vmap and grad."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.sparse
from jax.experimental import sparse as jsparse

from corollary.core import Centred, Function, InputError, Sparse, as_operator, matmat, rmatmat
from corollary.core.operator import dtype as dtype_of
from corollary.core.operator import frobenius_squared
from corollary.core.operator import shape as shape_of
from corollary.core.precision import eps

M, N = 30, 20


def _scipy(dtype, seed=0):
    matrix = scipy.sparse.random_array((M, N), density=0.2, rng=np.random.default_rng(seed), dtype=np.float64)
    return scipy.sparse.csr_array(matrix).astype(dtype)


def _vectors(dtype, *shapes, seed=1):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.standard_normal(s), dtype) for s in shapes]


def _every_kind(dtype):
    """(name, operator, its dense matrix) for every kind of operator."""
    csr = _scipy(dtype)
    dense = jnp.asarray(csr.toarray())
    (mean, x0) = _vectors(dtype, (N,), (N,), seed=5)

    def curve(x, _):
        return jnp.sin(dense @ x)

    jacobian = jnp.cos(dense @ x0)[:, None] * dense
    return {
        "dense": (as_operator(dense), dense),
        "sparse": (as_operator(csr), dense),
        "function": (Function(lambda x: dense @ x, N, dtype=dtype), dense),
        "both functions": (Function(lambda x: dense @ x, N, lambda y: dense.T @ y, dtype), dense),
        "centred": (Centred(as_operator(csr), mean), dense - mean[None, :]),
        "jacobian": (lx.JacobianLinearOperator(curve, x0), jacobian),
    }


@pytest.mark.covers("sparse-operator")
@pytest.mark.parametrize("kind", ["dense", "sparse", "function", "both functions", "centred", "jacobian"])
def test_products_from_both_sides(kind, dtype):
    operator, dense = _every_kind(dtype)[kind]
    x, y, X, Y = _vectors(dtype, (N,), (M,), (N, 3), (M, 9))
    tol = {"rtol": 0, "atol": 64 * eps(dtype) * float(jnp.linalg.norm(dense)) * 10}
    assert shape_of(operator) == (M, N)
    assert dtype_of(operator) == dtype
    np.testing.assert_allclose(operator.mv(x), dense @ x, **tol)
    np.testing.assert_allclose(operator.transpose().mv(y), dense.T @ y, **tol)
    np.testing.assert_allclose(matmat(operator, X), dense @ X, **tol)
    np.testing.assert_allclose(rmatmat(operator, Y), dense.T @ Y, **tol)
    np.testing.assert_allclose(operator.transpose().transpose().mv(x), dense @ x, **tol)
    np.testing.assert_allclose(lx.materialise(operator).as_matrix(), dense, **tol)
    # The adjoint identity: |<Ax, y> − <x, Aᵀy>| is rounding of |A||x||y|.
    defect = operator.mv(x) @ y - x @ operator.transpose().mv(y)
    assert abs(float(defect)) <= tol["atol"] * float(jnp.linalg.norm(y))
    if (squared := frobenius_squared(operator)) is not None:
        np.testing.assert_allclose(squared, jnp.sum(dense**2), rtol=1e3 * eps(dtype))


@pytest.mark.covers("sparse-operator")
@pytest.mark.parametrize("format", ["csr", "csc", "coo", "lil", "dok", "dia", "bsr", "BCOO", "BCSR"])
def test_sparse_takes_every_format(format, dtype):
    csr = _scipy(dtype)
    match format:
        case "BCOO":
            given = jsparse.BCOO.from_scipy_sparse(csr)
        case "BCSR":
            given = jsparse.BCSR.from_scipy_sparse(csr)
        case _:
            given = csr.asformat(format)
    operator = as_operator(given)
    (x,) = _vectors(dtype, (N,))
    assert operator.nnz == csr.nnz or format in ("dia", "bsr")  # those store explicit zeros
    np.testing.assert_allclose(operator.mv(x), csr @ np.asarray(x), rtol=0, atol=64 * eps(dtype))
    np.testing.assert_allclose(operator.mv(x), jsparse.BCOO.from_scipy_sparse(csr) @ x, rtol=0, atol=64 * eps(dtype))


def test_sparse_corner_cases(dtype):
    duplicated = scipy.sparse.coo_array((np.ones(3, dtype), ([0, 0, 2], [1, 1, 0])), shape=(4, 2))
    operator = Sparse(duplicated)
    assert operator.nnz == 2
    assert operator.mv(jnp.ones(2, dtype)).tolist() == [2.0, 0.0, 1.0, 0.0]
    nothing = Sparse(scipy.sparse.csr_array((3, 2), dtype=dtype))
    assert nothing.mv(jnp.ones(2, dtype)).tolist() == [0.0] * 3
    assert matmat(nothing, jnp.ones((2, 2), dtype)).tolist() == [[0.0] * 2] * 3
    whole = Sparse(scipy.sparse.eye_array(3, dtype=np.int64, format="csr"))
    assert whole.mv(jnp.ones(3)).tolist() == [1.0] * 3


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (scipy.sparse.csr_array(np.array([[1.0, np.nan]])), "matrix: found NaN"),
        (scipy.sparse.csr_array(np.array([[1.0, np.inf]])), "matrix: found NaN or infinity"),
        (scipy.sparse.csr_array(np.array([[1j]])), "matrix: found dtype complex128, expected real"),
        (np.eye(2), "matrix: found ndarray"),
        ([[1.0]], "matrix: found list"),
    ],
)
def test_sparse_refuses(given, words):
    with pytest.raises(InputError, match=words):
        Sparse(given)


def test_other_refusals():
    with pytest.raises(InputError, match=r"A: found an array of shape \(3,\), expected a matrix"):
        as_operator(np.ones(3, np.float32))
    with pytest.raises(InputError, match="mv_fn: returned shape"):
        Function(lambda x: x[:, None], 3)
    with pytest.raises(InputError, match="rmv_fn: returned shape"):
        Function(lambda x: x[:2], 3, lambda y: y)


@pytest.mark.covers("sparse-operator")
def test_memory_stays_proportional_to_the_entries(dtype):
    m, n, nnz = 3000, 2000, 4000  # the dense matrix has 1500 times as many entries
    rng = np.random.default_rng(0)
    coo = scipy.sparse.coo_array((rng.random(nnz), (rng.integers(0, m, nnz), rng.integers(0, n, nnz))), shape=(m, n))
    operator = Sparse(coo.astype(dtype))
    x, X = jnp.ones(n, dtype), jnp.ones((n, 8), dtype)
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(operator))
    assert held <= 2 * (nnz * (dtype.itemsize + 8)) + 4 * (m + n + 2)
    for product, argument in ((lambda a, v: a.mv(v), x), (matmat, X), (lambda a, v: jax.vmap(a.mv, 1, 1)(v), X)):
        compiled = jax.jit(product).lower(operator, argument).compile()
        scratch = compiled.memory_analysis().temp_size_in_bytes
        columns = 1 if argument.ndim == 1 else argument.shape[1]
        assert scratch <= 4 * columns * (nnz + m + n) * (dtype.itemsize + 4)


@pytest.mark.covers("sparse-operator")
def test_transformations(dtype):
    csr = _scipy(dtype)
    operator, dense = Sparse(csr), jnp.asarray(csr.toarray())
    x, X = _vectors(dtype, (N,), (4, N))
    atol = 640 * eps(dtype)
    np.testing.assert_array_equal(jax.jit(lambda a, v: a.mv(v))(operator, x), operator.mv(x))
    np.testing.assert_allclose(jax.vmap(operator.mv)(X), X @ dense.T, rtol=0, atol=atol)
    gradient = jax.grad(lambda v: 0.5 * jnp.sum(operator.mv(v) ** 2))(x)
    np.testing.assert_allclose(gradient, dense.T @ (dense @ x), rtol=0, atol=atol)
    np.testing.assert_allclose(jax.jvp(operator.mv, (x,), (X[0],))[1], dense @ X[0], rtol=0, atol=atol)
    (pulled,) = jax.linear_transpose(operator.mv, x)(dense @ x)
    np.testing.assert_allclose(pulled, dense.T @ (dense @ x), rtol=0, atol=atol)
    # The entries themselves are differentiable: d(yᵀAx)/d a_ij = y_i x_j.
    by_entry = jax.grad(lambda a: jnp.sum(a.mv(x)), allow_int=True)(operator).matrix.data
    np.testing.assert_allclose(by_entry, x[operator.matrix.indices], rtol=8 * eps(dtype))


def test_a_function_operator_closes_over_traced_arrays(dtype):
    A, x, y = _vectors(dtype, (M, N), (N,), (M,))

    def build(a):
        return Function(lambda v: a @ v, N, dtype=dtype)

    made = jax.jit(build)(A)  # crosses the border of jit: the closed-over matrix is a leaf, not a leak
    np.testing.assert_allclose(made.mv(x), A @ x, rtol=0, atol=640 * eps(dtype))
    np.testing.assert_allclose(made.transpose().mv(y), A.T @ y, rtol=0, atol=640 * eps(dtype))
    assert shape_of(made.transpose()) == (N, M)
    batch = jax.vmap(build)(jnp.stack([A, 2 * A]))
    np.testing.assert_allclose(jax.vmap(lambda a: a.mv(x))(batch)[1], 2 * A @ x, rtol=0, atol=640 * eps(dtype))
    slope = jax.grad(lambda a: jnp.sum(build(a).mv(x)))(A)
    np.testing.assert_allclose(slope, jnp.ones((M, 1), dtype) * x, rtol=8 * eps(dtype))


def test_a_function_operator_keeps_both_precisions(x64):
    def widen(v):
        return jnp.concatenate([v, v]).astype(jnp.float64)

    operator = Function(widen, 3, lambda y: (y[:3] + y[3:]).astype(jnp.float32), jnp.float32)
    assert operator.out_structure().dtype == jnp.float64
    back = operator.transpose()
    assert (back.in_structure().dtype, back.out_structure().dtype) == (jnp.float64, jnp.float32)
    assert back.as_matrix().shape == (3, 6)


@pytest.mark.covers("sparse-operator")
@pytest.mark.parametrize("kind", ["sparse", "function"])
def test_inside_lineax_least_squares(kind, dtype):
    if kind == "function" and dtype == "float64":
        return  # each case compiles LSMR anew; float64 is proved by the sparse one
    csr = scipy.sparse.vstack([_scipy(dtype), 3 * scipy.sparse.eye_array(N, dtype=dtype)]).tocsr()
    dense = jnp.asarray(csr.toarray())
    operator = Sparse(csr) if kind == "sparse" else Function(lambda x: dense @ x, N, dtype=dtype)
    (b,) = _vectors(dtype, (M + N,))
    tol = 100 * eps(dtype)
    solver = lx.LSMR(rtol=tol, atol=tol)
    solve = eqx.filter_jit(lambda a, b: lx.linear_solve(a, b, solver).value)
    expected = jnp.linalg.lstsq(dense, b)[0]
    condition = float(jnp.linalg.cond(dense))
    close = {"rtol": 0, "atol": 20 * condition**2 * tol * float(jnp.linalg.norm(b))}
    np.testing.assert_allclose(solve(operator, b), expected, **close)
    if dtype == "float64":
        return
    several = jax.vmap(lambda s: lx.linear_solve(operator, s * b, solver).value)(jnp.asarray([1.0, 2.0], dtype))
    np.testing.assert_allclose(several[1], 2 * expected, **close)


@pytest.mark.covers("sparse-operator")
def test_inside_lineax_conjugate_gradient(dtype):
    laplacian = scipy.sparse.diags_array([-1.0, 2.5, -1.0], offsets=[-1, 0, 1], shape=(N, N)).tocsr().astype(dtype)
    operator = lx.TaggedLinearOperator(Sparse(laplacian), lx.positive_semidefinite_tag)
    (b,) = _vectors(dtype, (N,))
    tol = 100 * eps(dtype)
    x = lx.linear_solve(operator, b, lx.CG(rtol=tol, atol=tol)).value
    np.testing.assert_allclose(x, jnp.linalg.solve(operator.as_matrix(), b), rtol=0, atol=100 * tol)


@pytest.mark.covers("sparse-operator")
@pytest.mark.slow
def test_a_vector_product_is_far_from_the_dense_one(x64):
    """A single vector costs O(nnz): within an order of magnitude of SciPy's product, in CPU time."""
    import time

    coo = scipy.sparse.random_array((4000, 4000), density=0.01, rng=np.random.default_rng(0))
    csr = scipy.sparse.csr_array(coo)
    operator, x = Sparse(csr), np.ones(4000)
    product = jax.jit(lambda a, v: a.mv(v))

    def seconds(f):
        f()
        return min(_timed(f, time.process_time) for _ in range(20))

    assert seconds(lambda: product(operator, x).block_until_ready()) <= 15 * seconds(lambda: csr @ x)


def _timed(f, clock):
    start = clock()
    f()
    return clock() - start
