"""The linear algebra of large matrices on an accelerator, against JAX's, PyTorch's and CuPy's own there.

Run it where JAX finds a GPU: ``python benchmarks/accelerator.py``. Peers that are not installed are left out.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from harness import Entry, main

from corollary import linalg
from corollary.core import Sparse
from corollary.linalg import tensor

jax.config.update("jax_enable_x64", True)
KEY = jax.random.key(0)


def _ready(call: Callable[[], Any]) -> Callable[[], Any]:
    """The call with its results waited for."""
    return lambda: jax.block_until_ready(call())


def _orthonormal(key: Any, m: int, n: int) -> jax.Array:
    return jnp.linalg.qr(jax.random.normal(key, (m, n)))[0]


def _graded(m: int, n: int, kappa: float) -> jax.Array:
    left, right = jax.random.split(KEY)
    return (_orthonormal(left, m, n) * kappa ** -jnp.linspace(0, 1, n)) @ _orthonormal(right, n, n).T


def _torch(*arrays: jax.Array) -> tuple[Any, ...]:
    import torch

    return tuple(torch.from_dlpack(a) for a in arrays)


def _has(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _waited(call: Callable[[], Any]) -> Callable[[], Any]:
    """A PyTorch or CuPy call with the device waited for."""
    import torch

    def run() -> Any:
        result = call()
        torch.cuda.synchronize()
        return result

    return run


def lstsq() -> Entry:
    A = _graded(200_000, 200, 1e10)
    b = A @ jnp.ones(200) + 1e-3 * jax.random.normal(KEY, (200_000,))
    runs = {
        "corollary": _ready(lambda: linalg.lstsq(A, b).value),
        "jax.numpy.linalg.lstsq": _ready(lambda: jnp.linalg.lstsq(A, b)[0]),
    }
    if _has("torch"):
        At, bt = _torch(A, b)
        runs["torch.linalg.lstsq, gels"] = _waited(lambda: _lstsq_torch(At, bt))
    scale = float(jnp.linalg.norm(A))

    def quality(x: Any) -> float:
        x = jnp.asarray(x.cpu().numpy() if hasattr(x, "cpu") else x)
        r = b - A @ x
        return float(jnp.linalg.norm(A.T @ r) / (scale * jnp.linalg.norm(r)))

    return Entry("lstsq 200000 x 200 float64, κ = 1e10", runs, quality, "‖Aᵀr‖/(‖A‖_F‖r‖)")


def _lstsq_torch(A: Any, b: Any) -> Any:
    import torch

    return torch.linalg.lstsq(A, b[:, None], driver="gels").solution[:, 0]


def randomized_svd() -> Entry:
    s = 1.0 / jnp.arange(1, 1001)
    left, right = jax.random.split(KEY)
    A = (_orthonormal(left, 50_000, 1000) * s) @ _orthonormal(right, 1000, 1000).T
    runs = {
        "corollary": _ready(lambda: linalg.randomized_svd(A, 20, accuracy=1e-3, key=KEY).value[1]),
        "jax.numpy.linalg.svd": _ready(lambda: jnp.linalg.svd(A, full_matrices=False)[1][:20]),
    }
    if _has("torch"):
        import torch

        (At,) = _torch(A)
        runs["torch.svd_lowrank, niter=3"] = _waited(lambda: torch.svd_lowrank(At, 30, niter=3)[1][:20])
    error = lambda found: float(abs(1 - float(found[19]) / float(s[19])))  # noqa: E731
    return Entry("randomized SVD 50000 x 1000 float64, k = 20", runs, error, "relative error of σ_20")


def _parts(found: Any) -> tuple[Any, ...]:
    return found.Q, found.R, found.perm


def pivoted_qr() -> Entry:
    A = _graded(200_000, 200, 1e8)
    scale = float(jnp.linalg.norm(A))

    def error(found: Any) -> float:
        Q, R, perm = found
        return float(jnp.linalg.norm(A[:, perm] - Q @ R) / scale)

    return Entry(
        "column-pivoted QR 200000 x 200 float64, with Q (the peer does not pivot)",
        {
            "corollary": _ready(lambda: _parts(linalg.pivoted_qr(A).value)),
            "jax.numpy.linalg.qr": _ready(lambda: (*jnp.linalg.qr(A), jnp.arange(200))),
        },
        error,
        "‖AP − QR‖/‖A‖_F",
    )


def trace() -> Entry:
    x = jax.random.normal(KEY, (10_000, 3))
    squares = jnp.sum(x * x, axis=1)
    A = jnp.exp(-(squares[:, None] + squares - 2 * x @ x.T) / 2) + 0.1 * jnp.eye(10_000)
    exact = float(jnp.sum(jnp.log(jnp.linalg.eigvalsh(A))))
    return Entry(
        "log-determinant of a kernel matrix, n = 10000 float64, to 1 %",
        {
            "corollary": _ready(lambda: linalg.slq(A, "log", tol=0.01, floor=0.1, key=KEY).value),
            "jax.numpy.linalg.slogdet": _ready(lambda: jnp.linalg.slogdet(A)[1]),
        },
        lambda value: abs(float(value) / exact - 1),
        "relative error",
    )


def eigsh() -> Entry:
    n = 1_000_000
    rng = np.random.default_rng(0)
    i, j = rng.integers(0, n, (2, 5 * n))
    W = scipy.sparse.coo_array((np.ones(5 * n), (i, j)), shape=(n, n)).tocsr()
    W = ((W + W.T) > 0).astype(float)
    d = np.asarray(W.sum(axis=1)).ravel()
    scale = scipy.sparse.diags_array(1 / np.sqrt(np.maximum(d, 1)))
    L = (scipy.sparse.eye_array(n) - scale @ W @ scale).tocsr()
    op = Sparse(L)
    runs = {"corollary": _ready(lambda: linalg.eigsh(op, 10, which="LA", tol=1e-8).value)}
    if _has("cupy"):
        import cupy
        from cupyx.scipy.sparse import csr_matrix
        from cupyx.scipy.sparse.linalg import eigsh as peer

        Lc = csr_matrix(scipy.sparse.csr_matrix(L))

        def by_cupy() -> Any:
            w, V = peer(Lc, k=10, which="LA", tol=1e-8)
            return cupy.asnumpy(w), cupy.asnumpy(V)

        runs["cupyx eigsh"] = by_cupy

    def residual(found: Any) -> float:
        w, V = (np.asarray(part) for part in found)
        return float(np.max(np.linalg.norm(L @ V - V * w, axis=0)))

    return Entry(
        "10 largest eigenpairs of a normalised Laplacian, 10⁶ rows", runs, residual, "largest ‖Lv − λv‖", repeats=3
    )


def _planted(n: int, r: int) -> jax.Array:
    """r random terms (n, n, n) with noise of a tenth of their norm."""
    keys = jax.random.split(KEY, 4)
    A, B, C = (jax.random.normal(k, (n, r)) for k in keys[:3])
    X = jnp.einsum("ir,jr,kr->ijk", A, B, C)
    E = jax.random.normal(keys[3], X.shape)
    return X + 0.1 * E * (jnp.linalg.norm(X.ravel()) / jnp.linalg.norm(E.ravel()))


def _dense(result: Any) -> jax.Array:
    """The full tensor of our format, or of TensorLy's on PyTorch."""
    if hasattr(result, "value"):
        return result.value.to_dense()
    return jnp.from_dlpack(result.to_tensor().contiguous())


def _tensor(name: str, X: jax.Array, ours: Callable[[], Any], peer: Callable[[Any, Any], Any]) -> Entry:
    runs = {"corollary": _ready(ours)}
    if _has("torch") and _has("tensorly"):
        import tensorly

        tensorly.set_backend("pytorch")
        (Xt,) = _torch(X)
        runs["TensorLy on PyTorch"] = _waited(lambda: peer(tensorly, Xt))
    size = jnp.linalg.norm(X.ravel())
    return Entry(
        name, runs, lambda result: float(jnp.linalg.norm((X - _dense(result)).ravel()) / size), "relative error"
    )


def cp() -> Entry:
    X = _planted(200, 20)

    def peer(tensorly: Any, Xt: Any) -> Any:
        return tensorly.decomposition.parafac(Xt, 20, n_iter_max=50, init="random", random_state=0, tol=0)

    return _tensor("CP 200³ float64, rank 20", X, lambda: tensor.cp_als(X, 20, key=KEY), peer)


def tucker() -> Entry:
    X = _planted(300, 30)

    def peer(tensorly: Any, Xt: Any) -> Any:
        return tensorly.decomposition.tucker(Xt, [30, 30, 30], init="svd")

    return _tensor("Tucker 300³ to 30³ float64", X, lambda: tensor.tucker(X, 30), peer)


def tensor_train() -> Entry:
    axes = jnp.linspace(0, 1, 40)
    X = 1 / (1 + sum(axes.reshape((-1,) + (1,) * k) for k in range(5)))  # 40⁵

    def peer(tensorly: Any, Xt: Any) -> Any:
        return tensorly.decomposition.tensor_train(Xt, [1, 4, 5, 5, 4, 1])

    return _tensor("TT-SVD 40⁵ float64", X, lambda: tensor.tt_svd(X, tol=1e-4), peer)


if __name__ == "__main__":
    main("accelerator", [lstsq, randomized_svd, pivoted_qr, trace, eigsh, cp, tucker, tensor_train])
