"""Subspace (orthogonal, simultaneous) iteration: the k eigenpairs of largest modulus of a symmetric operator.

When: a few dominant eigenpairs from blocked products, where the spectrum drops behind them; a Krylov method needs fewer
products, this one stays simple, keeps its memory at k + p vectors and can be started from an old answer.
Cost a step: one product with k + p columns and O(n (k + p)²). Source: Golub & Van Loan, Matrix Computations, 4th ed.,
§8.2.4 (with Ritz acceleration); Parlett, The Symmetric Eigenvalue Problem (1998), ch. 14.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.core.operator import Operator, dtype, matmat
from corollary.core.precision import follows_input
from corollary.core.solution import Solution
from corollary.linalg.eigen import _iteration as iteration
from corollary.linalg.eigen._iteration import Pair, Run, Stop, iterate, norm_from_below
from corollary.linalg.eigen._tangent import Known, known, rate, watcher


@follows_input
def subspace_iteration(
    A: Any,
    k: Any,
    V0: Any = None,
    *,
    oversampling: Any = 0,
    tol: Any = None,
    max_steps: Any = 1000,
    reference: Any = None,
    history: Any = False,
    key: Key[Array, ""] | None = None,
) -> Solution:
    """The k Ritz pairs of largest modulus, by V ← orth(A V) with a Rayleigh-Ritz step; k = 1 is power iteration.

    Use it for several dominant pairs at once. Pair i converges like |λ_{k+p+1}/λ_i|^t. Cost: a blocked product a step.
    It can be jitted and vmapped.

    Parameters
    ----------
    A
        (n, n) symmetric matrix, dense or sparse, or operator.
    k
        Pairs wanted.
    V0
        (n, k + oversampling) start of full rank, e.g. an old answer; Gaussian by default.
    oversampling
        p: columns that are carried along, which makes the wanted ones converge faster. At most n columns in all.
    tol
        Stop at ‖A v_i − θ_i v_i‖ ≤ tol ‖A‖ for i ≤ k; eps^(2/3) by default.
    max_steps
        Limit of steps.
    reference
        For the theorem: eigenpairs (values, vectors), at least the k + p + 1 largest in modulus; or True to compute
        them.
    history
        Record ``value`` (all k + p Ritz values), ``residual`` (k), and with a reference ``tan_angle``, ``tan_bound``.
    key
        For the default start.

    Returns
    -------
    Solution
        ``value``: (values (k,), vectors (n, k)), by falling modulus. ``stats``: ``residuals`` (k,).

    Raises
    ------
    InputError
        For a matrix that is not symmetric, more than n columns, a start of another shape.

    Notes
    -----
    Certificates: ``residual``, ``backward_error``, ``orthogonality`` and ``eigenvalue_error`` (exact, see
    `eigenpair_certificates`): k eigenvalues, each counted once, pair off with the θ_i within ‖A V − V Θ‖_F;
    with a `reference` ``rate`` (theorem): tan∠(V_t, U) ≤ |λ_{k+p+1}/λ_{k+p}|^t tan∠(V_0, U) at every t. Where these two
    have one modulus the block's span need not settle, though its leading pairs may.
    Source: Golub & Van Loan, 4th ed., Theorem 8.2.2.

    Examples
    --------
    >>> import numpy as np
    >>> found = subspace_iteration(np.diag([1.0, -4.0, 3.0, 0.5]), 2)
    >>> found.value[0].round(6).tolist(), bool(found.holds)
    ([-4.0, 3.0], True)
    """
    op = iteration.operator(A)
    n = op.in_size()
    validation.integer(1)("k", k)
    validation.integer(0)("oversampling", oversampling)
    if k > n:
        raise InputError(f"k: found {k}, expected at most {n}, the size of A")
    symmetric = iteration.is_symmetric(op)
    iteration.require_symmetric(op, symmetric)
    stop = iteration.stopping(op, tol, max_steps, history)
    V = start_block(op, V0, min(k + oversampling, n), key)
    theorem = known(op, reference, V.shape[1])
    run = _subspace(k, op, V, stop, theorem)
    certificates = iteration.certificates(run, stop, symmetric, k=k)
    if theorem is not None:
        certificates["rate"] = rate(theorem, run.seen)
    stats = {"residuals": run.pair.residual}
    values, vectors = iteration.eigenpair(run)
    value, status = (values[:k], vectors[:, :k]), iteration.status(run)
    return Solution(value, certificates, status, run.steps, stats, run.history or None)


def start_block(op: Operator, V0: Any, width: int, key: Key[Array, ""] | None) -> Float[Array, "n b"]:
    """The caller's block, or a Gaussian one; its columns are normalised when the iteration starts."""
    if V0 is None:
        return jax.random.normal(jax.random.key(0) if key is None else key, (op.in_size(), width), dtype(op))
    V0 = jnp.asarray(validation.matrix("V0", V0)).astype(dtype(op))
    if V0.shape != (op.in_size(), width):
        raise InputError(f"V0: found shape {V0.shape}, expected {(op.in_size(), width)}")
    return V0


@partial(jax.jit, static_argnums=0)
def _subspace(k: int, A: Operator, V: Array, stop: Stop, theorem: Known | None) -> Run:
    def ritz(block: Array) -> Pair:
        Q = jnp.linalg.qr(scaled(block))[0]
        Z = matmat(A, Q)
        H = Q.T @ Z
        values, W = jnp.linalg.eigh((H + H.T) / 2)
        order = jnp.argsort(-jnp.abs(values))
        values, W = values[order], W[:, order]
        Q, Z = Q @ W, Z @ W
        return Pair(Q, Z, values, iteration.length((Z - Q * values)[:, :k]))

    start = ritz(V)
    return iterate(lambda pair: ritz(pair.image), start, norm_from_below(A), stop, *watcher(theorem, start))


def scaled(block: Array) -> Array:
    """The block with entries of the order of one: its span, without overflow or underflow in the factorisation."""
    top = jnp.max(jnp.abs(block))
    return block / jnp.where(top > 0, top, 1)
