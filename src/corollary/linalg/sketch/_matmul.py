"""Randomized matrix multiplication: A B from a few sampled columns of A and rows of B.

Use it where A B is an average over a very long inner dimension (Gram matrices, attention, gradients) and a relative
error of 1/√samples in ‖A‖_F ‖B‖_F is good enough. Cost: O((m + p) n) for the probabilities and O(samples · m p) for the
product. Source: Drineas, Kannan & Mahoney, SIAM J. Comput. 36 (2006), Lemmas 3 and 4.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jax.core import Tracer
from jaxtyping import Array, Float, Int, Key

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.precision import common_float, follows_input
from corollary.core.solution import Solution

PROBES = 10  # Gaussian vectors that look at the error
SOURCE = "Drineas, Kannan & Mahoney (2006), Lemma 4; Markov's inequality"


@follows_input
def randomized_matmul(
    A: Any, B: Any, samples: int, *, delta: Any = 0.01, certify: str = "probes", key: Key[Array, ""]
) -> Solution:
    """C = (1/s) Σ a_k b_kᵀ/p_k over s indices drawn with p_k ∝ ‖a_k‖‖b_k‖: unbiased, of the least variance.

    Parameters
    ----------
    A, B
        (m, n) and (n, p): dense arrays or `scipy.sparse` matrices (the product is dense).
    samples
        s.
    delta
        Failure probability of the certificate, in (0, 1).
    certify
        ``"probes"``: ‖C − A B‖_F is estimated from 10 Gaussian vectors, O(n (m + p)); ``"full"``: A B is formed, the
        error and the variance are exact; ``"none"``.
    key
        `jax.random.key`.

    Returns
    -------
    Solution
        ``value``: C, (m, p). Certificate ``"frobenius_error"`` (probabilistic): the measured error against
        √(E ‖C − A B‖_F²/δ). ``stats``: ``variance`` = ((Σ‖a_k‖‖b_k‖)² − ‖A B‖_F²)/s, without its second term (an upper
        bound) unless ``"full"``; ``uniform_variance``, of uniform sampling, likewise.

    Notes
    -----
    E C = A B and E ‖C − A B‖_F² is the variance exactly. The probed error has the same mean square, over draws and
    probes together, so that the bound is right for it too. Where every ‖a_k‖‖b_k‖ is zero, C = 0 = A B.

    Examples
    --------
    >>> import jax, numpy as np
    >>> a, b = np.array([[1.0, 2.0]]), np.array([[3.0], [0.0]])
    >>> found = randomized_matmul(a, b, 5, key=jax.random.key(0))  # one column matters: exact
    >>> round(float(found.value[0, 0]), 6), bool(found.holds)
    (3.0, True)
    """
    A, B = _factor("A", A), _factor("B", B)
    validation.integer(1)("samples", samples)
    validation.one_of("probes", "full", "none")("certify", certify)
    if not isinstance(delta, Tracer):
        validation.number(0, 1, open_low=True)("delta", delta)
    if A.shape[1] != B.shape[0]:
        raise InputError(f"B: found {B.shape[0]} rows, expected {A.shape[1]} as A has columns")
    on_host = not any(isinstance(M, jax.Array) for M in (A, B)) and not isinstance(key, Tracer)
    xp = np if on_host else jnp
    if not on_host:
        A, B = common_float(*(M.toarray() if scipy.sparse.issparse(M) else M for M in (A, B)))
    elif A.dtype != B.dtype:
        dtype = np.promote_types(A.dtype, B.dtype)
        A, B = A.astype(dtype), B.astype(dtype)
    found = (_sampled if on_host else _sampled_in_jax)(xp, int(samples), certify, A, B, delta, key)
    return Solution(found[0], found[1], stats=found[2])


def _sampled(xp: Any, samples: int, certify: str, A: Any, B: Any, delta: Any, key: Any) -> Any:
    """C, certificates and stats. Norms are of factors whose largest entry is 1: no square overflows or vanishes."""
    draw, probe = jax.random.split(key)
    a, b = _largest(A, xp), _largest(B, xp)
    weights = _lengths(A, a, 0, xp) * _lengths(B, b, 1, xp)
    n, total = weights.shape[0], xp.sum(weights)
    index, scale = (xp.asarray(v) for v in _draw(samples, draw, jnp.asarray(weights)))
    C = _dense(A[:, index]) * scale @ _dense(B[index])
    unit, uniform = total**2, n * xp.sum(xp.square(weights))
    error = None
    if certify == "full":
        product = _dense(A @ B)
        exact = xp.sum(xp.square(product / a / b))
        unit, uniform = xp.maximum(unit - exact, 0), xp.maximum(uniform - exact, 0)
        error = xp.sqrt(xp.sum(xp.square((C - product) / a / b)))
    elif certify == "probes":
        omega = xp.asarray(jax.random.normal(probe, (B.shape[1], PROBES), A.dtype))
        error = xp.sqrt(xp.sum(xp.square(C / a / b @ omega - A @ (B @ (omega / b)) / a)) / PROBES)
    certificates = {}
    if error is not None:
        rounding = 8 * float(np.finfo(A.dtype).eps) * (n + samples) ** 0.5 * total
        certificates["frobenius_error"] = Certificate(
            "‖C − A B‖_F <= √(E ‖C − A B‖_F²/δ)",
            measured=error * a * b,
            bound=(xp.sqrt(unit / samples / delta).astype(A.dtype) + rounding) * a * b,
            kind="probabilistic",
            confidence=1 - delta,
            source=SOURCE,
        )
    with np.errstate(over="ignore", under="ignore"):  # the variance of huge entries may leave the range
        variance, uniform = (v / samples * (a * b) ** 2 for v in (unit, uniform))
    return C, certificates, {"variance": variance, "uniform_variance": uniform}


_sampled_in_jax = jax.jit(_sampled, static_argnums=(0, 1, 2))


@functools.partial(jax.jit, static_argnums=0)
def _draw(samples: int, key: Any, weights: Float[Array, " n"]) -> tuple[Int[Array, " s"], Float[Array, " s"]]:
    """Indices with chance p_k ∝ weight, by inversion, and 1/(s p_k); the scale is 0 where all weights are."""
    steps = jnp.cumsum(weights)
    total = steps[-1]
    # 1 − u lies in (0, 1]: the first step to reach it has a positive weight.
    level = (1 - jax.random.uniform(key, (samples,), weights.dtype)) * total
    index = jnp.minimum(jnp.searchsorted(steps, level), weights.shape[0] - 1)
    chosen = weights[index]
    scale = jnp.where(chosen > 0, total / (samples * jnp.where(chosen > 0, chosen, 1)), 0)
    return index, scale


def _factor(name: str, M: Any) -> Any:
    if not scipy.sparse.issparse(M):
        return validation.matrix(name, M, host=True)
    M = scipy.sparse.csc_array(M) if name == "A" else scipy.sparse.csr_array(M)
    M = M if M.dtype in (np.float32, np.float64) else M.astype(np.float64)
    if not np.isfinite(M.data).all():
        raise InputError(f"{name}: found NaN or infinity, expected finite numbers")
    return M


def _largest(M: Any, xp: Any) -> Any:
    top = abs(M).max()
    return xp.where(top > 0, top, 1).astype(M.dtype)[()]


def _lengths(M: Any, top: Any, axis: int, xp: Any) -> Any:
    """Column (axis 0) or row (axis 1) lengths of M/top."""
    if scipy.sparse.issparse(M):
        scaled = (M / top).astype(M.dtype)
        return np.sqrt(np.asarray(scaled.multiply(scaled).sum(axis=axis)).ravel())
    return xp.sqrt(xp.sum(xp.square(M / top), axis=axis))


def _dense(M: Any) -> Any:
    return M.toarray() if scipy.sparse.issparse(M) else M
