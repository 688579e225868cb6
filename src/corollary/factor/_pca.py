"""Principal component analysis of dense and sparse data, by the route that keeps the precision at the least cost.

Use `pca` for the leading directions of variance. Routes: the covariance's eigenvectors (O(n p² + p³)), where squaring
the condition number does no harm to the components asked for; the SVD of the centred data (O(n p min(n, p))) elsewhere;
a block Krylov SVD (O(n p k)) for a few components of a large or sparse matrix, which is centred implicitly and never
made dense. Source: Jolliffe, Principal Component Analysis (2002), §1.1, §3.5.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jax.core import Tracer
from jaxtyping import Array, Key

from corollary.core import Centred, Sparse, validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Note, Solution
from corollary.factor._explained_variance import log_evidence, share_of_variance
from corollary.linalg import gram, randomized_svd, svd

BLOCK_ROWS = 2048


class PrincipalComponents(eqx.Module):
    """What `pca` finds.

    ``components`` (k, p) are orthonormal rows, their largest entries positive; ``singular_values`` (k,) are those of
    the centred data; ``explained_variance`` = σ²/(n − 1); ``noise_variance`` is the mean of what is left over.
    """

    mean: Any
    components: Any
    singular_values: Any
    explained_variance: Any
    explained_variance_ratio: Any
    noise_variance: Any


@follows_input
def pca(
    X: Any,
    n_components: Any = None,
    *,
    solver: Any = "auto",
    power_iterations: Any = "auto",
    key: Key[Array, ""] | None = None,
) -> Solution:
    """Principal components of the rows of `X`.

    Use it to reduce or decorrelate data, or to look at them. Cost: see the solvers.

    Parameters
    ----------
    X
        (n, p) data, n ≥ 2, dense or ``scipy.sparse``; columns are centred at their means.
    n_components
        k; a share in (0, 1) of the variance; "mle" (Minka; n ≥ p); or None for min(n, p).
    solver
        "covariance" (O(n p² + p³)), "full" (O(n p min(n, p))), "randomized" (O(n p k)), or "auto": randomized for
        sparse data; covariance where n ≥ 5p and p ≤ 1000, unless a component's variance is below eps^{1/4} of the
        largest, which squaring would blur; else randomized where k is under a tenth of a large matrix, or full.
    power_iterations
        For "randomized": "auto" (until the values have settled to 1e-5), or q.
    key
        For "randomized": `jax.random.key(0)` by default.

    Returns
    -------
    Solution
        ``value``: `PrincipalComponents`. Certificates: ``"eigen_residual"`` (exact: ‖XᵀXv − σ²v‖ at rounding level, by
        Weyl an eigenvalue is that close) and ``"orthogonality"``; for "randomized" those of
        `corollary.linalg.randomized_svd`. ``stats``: ``solver`` with the reason, ``n_components``.

    Raises
    ------
    InputError
        For fewer than two rows, or settings that do not fit each other.

    Notes
    -----
    Under `jit` give an integer (or None) and a solver's name ("auto" means "full" there). Source: Jolliffe (2002).

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[0.0, 0.0], [2.0, 2.0], [4.0, 4.0]])
    >>> found = pca(X, 1).value
    >>> found.explained_variance.round(6).tolist(), found.components.round(4).tolist()
    ([8.0], [[0.7071, 0.7071]])
    """
    validation.one_of("auto", "covariance", "full", "randomized")("solver", solver)
    sparse = scipy.sparse.issparse(X)
    X = _sparse_data(X) if sparse else _dense_data(X)
    n, p = X.shape
    if n < 2:
        raise InputError(f"X: found {n} sample, expected at least 2: the variance of one sample is not defined")
    _check_components(n_components, n, p, solver)
    if sparse:
        if solver in ("covariance", "full"):
            raise InputError(f"solver: found {solver!r} with sparse data, expected 'randomized'")
        if not isinstance(n_components, int | np.integer) or n_components >= min(n, p):
            raise InputError(f"n_components: found {n_components!r}, expected an integer below {min(n, p)}")
        return _randomized_sparse(X, int(n_components), power_iterations, key)
    xp = np if isinstance(X, np.ndarray) else jnp
    whole = not isinstance(n_components, int | np.integer)
    k = min(n, p) if whole else int(n_components)
    reason = f"{solver}: as asked"
    direct: Any = None
    if solver == "covariance" or (solver == "auto" and n >= 5 * p and p <= 1000 and not isinstance(X, Tracer)):
        direct, resolved = _by_covariance(X, k, xp)
        if solver == "auto":
            direct = direct if resolved else None
            reason = "the covariance would blur the small components"
            reason = "covariance: tall data, and the components are well above rounding" if resolved else reason
    if direct is None:
        mean, centred = _centred(X, xp)
        if solver == "auto":
            large = max(n, p) > 500 and 10 * k <= min(n, p) and not whole and not isinstance(X, Tracer)
            why = "few components of a large matrix" if large else "the data are small, or most components are wanted"
            reason = f"{'randomized' if large else 'full'}: {why if reason.startswith('auto') else reason}"
        if reason.startswith("randomized"):
            found = randomized_svd(centred, k, accuracy=1e-5, power_iterations=power_iterations, key=_key(key))
            total = xp.sum(xp.var(centred, axis=0)) * (n / (n - 1))
            _, values, Vt = found.value
            return _result(found, mean, values, Vt, total, k, (n, p), reason, xp, found.certificates)
        _, values, Vt = svd(centred).value
        residual = _residual_of_data(centred, values[:k], Vt[:k], xp)
    else:
        mean, values, Vt, residual = direct
    if whole:
        k = _how_many(n_components, values, n, p)
    top = xp.where(values[0] > 0, values[0], 1)
    total = xp.sum(xp.square(values / top)) / (n - 1) * top**2
    certificates = {
        "eigen_residual": _eigen_residual(residual, xp.sum(xp.square(values / top)), (n, p), Vt.dtype),
        "orthogonality": _orthogonality(Vt[:k], xp),
    }
    return _result(None, mean, values, Vt, total, k, (n, p), reason, xp, certificates)


def _centred(X: Any, xp: Any) -> tuple[Any, Any]:
    """The mean, and the data less it; once more for the first mean's rounding, which matters at large offsets."""
    mean = X.mean(axis=0)
    centred = X - mean
    shift = centred.mean(axis=0)
    if xp is np:
        centred -= shift
    else:
        centred = centred - shift
    return mean + shift, centred


def _by_covariance(X: Any, k: int, xp: Any) -> tuple[tuple[Any, Any, Any, Any], bool]:
    """(mean, σ, V, eigen residuals) from the scatter matrix; and whether σ_k² is above eps^{1/4} σ_1²: then at most a
    quarter of its digits is lost.
    """
    n, p = X.shape
    eps = float(np.finfo(X.dtype).eps)
    mean, scatter, scale = _scatter(X, xp)
    theta, V = xp.linalg.eigh(scatter)
    theta, V = theta[::-1], V[:, ::-1]
    top = xp.where(theta[0] > 0, theta[0], 1)
    residual = xp.max(xp.sqrt(xp.sum(xp.square(scatter @ V[:, :k] - V[:, :k] * theta[:k]), axis=0))) / top
    residual = residual + n * eps * xp.sum(xp.maximum(theta, 0)) / top  # the scatter's own rounding, at worst
    resolved = not isinstance(X, Tracer) and bool(theta[k - 1] > theta[0] * eps**0.25)
    theta = xp.where(theta > p * eps * theta[0], theta, 0)[: min(n, p)]  # less is rounding
    return (mean, xp.sqrt(theta) * scale, _sign(V.T[: min(n, p)], xp), residual), resolved


def _scatter(X: Any, xp: Any) -> tuple[Any, Any, Any]:
    """Mean and Σ(x − mean)(x − mean)ᵀ/scale²; on the host by blocks of rows that stay in the cache."""
    n = X.shape[0]
    if xp is np:
        mean = X.mean(axis=0)
        with np.errstate(over="ignore", under="ignore"):
            total, shift = np.zeros((X.shape[1],) * 2, X.dtype), np.zeros_like(mean)
            for start in range(0, n, BLOCK_ROWS):
                block = X[start : start + BLOCK_ROWS] - mean
                total += block.T @ block
                shift += block.sum(axis=0)
        shift /= n  # the first mean's rounding, which matters at large offsets
        trace, info = np.trace(total), np.finfo(X.dtype)
        if float(info.tiny) ** 0.5 < trace < float(info.max) ** 0.5:
            return mean + shift, total - n * np.outer(shift, shift), 1.0
    mean, centred = _centred(X, xp)
    top = xp.max(xp.abs(centred))
    scale = xp.ldexp(xp.ones((), X.dtype), xp.frexp(top)[1])  # a power of two: squares neither overflow nor vanish
    return mean, gram(centred / scale), scale


def _result(
    found: Solution | None,
    mean: Any,
    values: Any,
    Vt: Any,
    total: Any,
    k: int,
    shape: tuple[int, int],
    reason: str,
    xp: Any,
    certificates: dict[str, Certificate],
) -> Solution:
    n, p = shape
    variance = xp.square(values[:k]) / (n - 1)
    ratio = variance / xp.where(total > 0, total, 1)
    rest = min(n, p) - k
    noise = xp.maximum(total - xp.sum(variance), 0) / rest if rest > 0 else xp.zeros((), Vt.dtype)
    if found is None and rest > 0:  # every value is known: no subtraction is needed
        noise = xp.mean(xp.square(values[k:])) / (n - 1)
    value = PrincipalComponents(mean, Vt[:k], values[:k], variance, ratio, noise)
    stats = {"solver": Note(reason), "n_components": k}
    if found is None:
        return Solution(value, certificates, stats=stats)
    return Solution(value, certificates, found.status, found.steps, {**found.stats, **stats})


def _randomized_sparse(X: Any, k: int, power_iterations: Any, key: Any) -> Solution:
    """Centred implicitly: A − 1μᵀ is only ever multiplied."""
    n, p = X.shape
    mean = np.asarray(X.mean(axis=0), dtype=X.dtype).ravel()
    operator = Centred(Sparse(X), jnp.asarray(mean))
    found = randomized_svd(operator, k, accuracy=1e-5, power_iterations=power_iterations, key=_key(key))
    found = jax.tree.map(lambda x: np.asarray(x) if isinstance(x, jax.Array) else x, found)
    deviations = X.copy()
    deviations.data = np.square(deviations.data - mean[deviations.indices])
    present = np.bincount(deviations.indices, minlength=p)
    total = deviations.data.sum() + np.sum((n - present) * mean**2)  # Σ(x − μ)² without subtraction
    total = np.asarray(total / (n - 1), X.dtype)
    reason = "randomized: the data are sparse, and centred without being made dense"
    _, values, Vt = found.value
    return _result(found, mean, values, Vt, total, k, (n, p), reason, np, found.certificates)


def _check_components(k: Any, n: int, p: int, solver: str) -> None:
    if k is None or (isinstance(k, str) and k == "mle"):
        if k == "mle" and n < p:
            raise InputError(f"n_components: found 'mle' with {n} samples of {p} features, expected as many samples")
        if solver == "randomized":
            raise InputError(f"n_components: found {k!r} with solver 'randomized', expected an integer")
    elif isinstance(k, float | np.floating) and 0 < k < 1:
        if solver == "randomized":
            raise InputError(f"n_components: found {k!r} with solver 'randomized', expected an integer")
    elif isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= min(n, p):
        raise InputError(
            f"n_components: found {k!r}, expected an integer from 1 to {min(n, p)} (= min(n_samples, n_features)), "
            "a share in (0, 1), 'mle' or None"
        )


def _how_many(k: Any, values: Any, n: int, p: int) -> int:
    if k is None:
        return min(n, p)
    top = float(values[0]) if float(values[0]) > 0 else 1.0
    variance = (np.asarray(values, float) / top) ** 2
    if isinstance(k, str):
        return int(np.argmax(log_evidence(variance, n)))
    return share_of_variance(variance / max(variance.sum(), np.finfo(float).tiny), float(k))


def _residual_of_data(X: Any, values: Any, Vt: Any, xp: Any) -> Any:
    """Largest ‖XᵀXv − σ²v‖ / σ_1²."""
    top = xp.where(values[0] > 0, values[0], 1)
    residual = X.T @ (X @ (Vt.T / top)) / top - Vt.T * xp.square(values / top)
    return xp.max(xp.sqrt(xp.sum(xp.square(residual), axis=0)))


def _eigen_residual(residual: Any, stable_rank: Any, shape: tuple[int, int], dtype: Any) -> Certificate:
    n, p = shape
    return Certificate(
        "each σ² is an eigenvalue of XᵀX up to ‖XᵀXv − σ²v‖ (and the rounding of XᵀX), relative to σ_1²",
        measured=residual,
        bound=8 * float(np.finfo(dtype).eps) * (n * stable_rank + p),
        kind="exact",
        source="Weyl; Golub & Van Loan, Matrix Computations, 4th ed., Theorem 8.1.13; Higham (2002), §3.5",
    )


def _orthogonality(Vt: Any, xp: Any) -> Certificate:
    defect = Vt @ Vt.T - xp.eye(Vt.shape[0], dtype=Vt.dtype)
    return Certificate(
        "orthonormal components: ‖VᵀV − I‖_F at rounding level",
        measured=xp.sqrt(xp.sum(xp.square(defect))),
        bound=8 * float(np.finfo(Vt.dtype).eps) * Vt.shape[1] * float(np.sqrt(Vt.shape[0])),
        kind="exact",
        source="computed",
    )


def _sign(Vt: Any, xp: Any) -> Any:
    """The largest entry of each component is positive."""
    top = xp.take_along_axis(Vt, xp.argmax(xp.abs(Vt), axis=1)[:, None], axis=1)
    return xp.where(top < 0, -Vt, Vt)


def _dense_data(X: Any) -> Any:
    """A finite real matrix; where it is a NumPy one already, its column sums show NaN at half the price of a search."""
    plain = isinstance(X, np.ndarray) and X.ndim == 2 and X.size and X.dtype in (np.float32, np.float64)
    if plain:
        with np.errstate(over="ignore", invalid="ignore"):
            plain = np.isfinite(np.ones(X.shape[0], X.dtype) @ X).all()
    return X if plain else validation.matrix("X", X, host=True)


def _sparse_data(X: Any) -> Any:
    X = scipy.sparse.csr_array(X)
    X = as_numpy_float(X)
    if 0 in X.shape:
        raise InputError(f"X: found an empty matrix of shape {X.shape}, expected at least one entry")
    if not np.isfinite(X.data).all():
        raise InputError("X: found NaN or infinity, expected finite numbers")
    X.sum_duplicates()
    return X


def as_numpy_float(X: Any) -> Any:
    """Sparse data in float32 or float64."""
    return X if X.dtype in (np.float32, np.float64) else X.astype(np.float64)


def _key(key: Any) -> Any:
    return jax.random.key(0) if key is None else key
