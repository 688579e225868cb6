"""Least squares by products alone: LSMR, or conjugate gradients on the normal equations, for sparse A and operators.

Cost: one product with A and one with Aᵀ a step. Source: Fong & Saunders, SISC 33 (2011); Björck (1996), ch. 7.
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array

from corollary.core.errors import InputError
from corollary.core.operator import Operator, Sparse, as_operator, frobenius_squared, matmat, rmatmat
from corollary.core.operator import dtype as dtype_of
from corollary.core.solution import Solution, Status
from corollary.linalg.least_squares import _claims as claims
from corollary.linalg.least_squares._factors import exponent, shift


def iterative(A: Any, b: Any, solver: str, tol: Any, max_steps: int | None) -> Solution:
    """`lineax`'s LSMR, or CG on the normal equations, with its certificates."""
    operator = as_operator(A)
    n, p = operator.out_size(), operator.in_size()
    if b.shape[0] != n:
        raise InputError(f"b: found {b.shape[0]} rows, expected {n} as in A")
    dtype = operator.out_structure().dtype
    b = jnp.asarray(b).astype(dtype)
    tol = jnp.asarray(float(jnp.finfo(dtype).eps) ** (2 / 3) if tol is None else tol).astype(dtype)
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((operator, b, tol)))
    # Under 64-bit types `lineax.LSMR` mixes its constants into float32 as float64, and stops.
    narrow = jax.enable_x64(False) if dtype == jnp.float32 and not traced else contextlib.nullcontext()
    with narrow:
        return _iterate(solver, max_steps or max(10 * min(n, p), 100), operator, b, tol)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _iterate(solver: str, max_steps: int, A: Operator, b: Array, tol: Any) -> Solution:
    eb = jax.lax.stop_gradient(exponent(b))
    B = shift(b, -eb).reshape(b.shape[0], -1)
    ea = jax.lax.stop_gradient(exponent(rmatmat(A, B)))  # the scale of A as far as b sees it
    A = _scaled(A, ea)
    lsmr = lx.LSMR(tol, 0 * tol, max_steps=max_steps, conlim=jnp.inf)

    def run(rule: Any) -> tuple[Array, Array]:
        answer = jax.vmap(lambda column: lx.linear_solve(A, column, rule, throw=False), in_axes=1)(B)
        return answer.value.T, jnp.max(answer.stats["num_steps"])

    if solver == "lsmr":
        x, steps = run(lsmr)
    else:
        x, steps = run(lx.Normal(lx.CG(tol, 0 * tol, max_steps=max_steps)))
        # On the squared condition number the steps may break down: then LSMR answers instead.
        x, steps = jax.lax.cond(jnp.all(jnp.isfinite(x)), lambda: (x, steps), lambda: run(lsmr))
    finite = jnp.all(jnp.isfinite(x))
    held_A, held_x = jax.lax.stop_gradient((A, x))
    r = jax.lax.stop_gradient(B) - matmat(held_A, held_x)
    g = rmatmat(held_A, r)
    squared = frobenius_squared(held_A)
    certificates, residual = claims.iterative(held_x, r, g, squared, tol)
    done = jnp.all(certificates["backward_error"].holds)
    value, residual = shift(x, eb - ea), shift(residual, eb)
    if b.ndim == 1:
        value, residual = value[:, 0], residual[0]
    return Solution(value, certificates, Status.of(done, finite), steps, {"residual_norm": residual})


def _scaled(A: Operator, e: Array) -> Operator:
    """A · 2^(−e), in whatever form it has."""
    if isinstance(A, lx.MatrixLinearOperator):
        return lx.MatrixLinearOperator(shift(A.matrix, -e), A.tags)
    if isinstance(A, Sparse):
        parts = lambda s: (s.matrix.data, s.adjoint.data)  # noqa: E731
        return eqx.tree_at(parts, A, tuple(shift(data, -e) for data in parts(A)))
    return A * jnp.ldexp(jnp.ones((), dtype_of(A)), -e)
