"""One sweep of two-site DMRG as one compiled loop: arrays are padded, so that every bond has the same shapes.

Cores lie in (N, χ, d, χ), environments in (N + 1, χ, D, χ), N and χ rounded up; what lies beyond the true sizes is zero
and stays zero: a Krylov space never leaves the span that its start and the operator have. The chain's length, the rank
and the tolerances are traced, so that chains of many lengths share a program. A product with the effective Hamiltonian
is two GEMMs with nothing transposed in between, the operator's cores having been multiplied into the environments once
for each bond. Source: Schollwöck, Annals of Physics 326 (2011), §6.3-6.4; White, PRL 69 (1992).
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class SweepState(NamedTuple):
    """What a sweep hands on: cores right-canonical with the centre at the first site, and what it saw on the way."""

    cores: Any  # (N, χ, d, χ)
    envs: Any  # (N + 1, χ, D, χ) as (bra, operator, ket): left of the centre from the left, right of it from the right
    schmidt: Any  # (N + 1, χ): by bond; zero where discarded
    energy: Any  # of the last local problem, before its truncation
    discarded: Any  # largest discarded weight of a bond
    rise: Any  # Σ of what truncations added to the energy
    products: Any  # with effective Hamiltonians


@functools.partial(jax.jit, static_argnames="steps")
def sweep(
    cores: Any, envs: Any, W: Any, n: Any, rank: Any, tol: Any, weight: Any, *, steps: int
) -> tuple[SweepState, Any]:
    """From the first bond to the last and back; also the energy ⟨ψ|H|ψ⟩ of the state that comes out."""
    chi, real = cores.shape[1], cores.real.dtype
    state = SweepState(
        cores,
        envs,
        jnp.zeros((envs.shape[0], chi), real),
        jnp.asarray(jnp.nan, real),
        jnp.zeros((), real),
        jnp.zeros((), real),
        jnp.zeros((), jnp.int32),
    )

    def body(t: Any, state: SweepState) -> SweepState:
        rightwards = t < n - 1
        return _update(state, W, jnp.where(rightwards, t, 2 * n - 3 - t), rightwards, rank, tol, weight, steps)

    state = lax.fori_loop(0, 2 * (n - 1), body, state)
    left, right = _halves(state.envs, W, 0)
    theta = _pair(state.cores, 0)
    energy = jnp.vdot(theta, _product(left, right, theta)).real
    rise = state.rise + jnp.maximum(energy - state.energy, 0)
    return state._replace(rise=rise), energy


def _update(
    state: SweepState, W: Any, k: Any, rightwards: Any, rank: Any, tol: Any, weight: Any, steps: int
) -> SweepState:
    """Solve at sites k and k + 1, split, and move the centre one site on; a tail below `weight` is dropped."""
    _, chi, d, _ = state.cores.shape
    left, right = _halves(state.envs, W, k)
    energy, first, theta, products = lanczos(lambda x: _product(left, right, x), _pair(state.cores, k), steps, tol)
    U, s, Vt = jnp.linalg.svd(theta, full_matrices=False)
    eps = jnp.finfo(s.dtype).eps
    tails = jnp.cumsum((s * s)[::-1])[::-1]
    keep = (
        (jnp.arange(s.size, dtype=jnp.int32) < jnp.minimum(rank, chi)) & (s > eps * s[0]) & (tails > weight * tails[0])
    )
    discarded = jnp.sum(jnp.where(keep, 0, s * s)) / tails[0]
    s = jnp.where(keep, s, 0)[:chi]
    s = s / jnp.linalg.norm(s)
    kept = keep[:chi].astype(U.dtype)
    U, Vt = U[:, :chi] * kept, kept[:, None] * Vt[:chi]
    weights = s.astype(U.dtype)
    first_core = (U * jnp.where(rightwards, jnp.ones_like(weights), weights)).reshape(chi, d, chi)
    second_core = (jnp.where(rightwards, weights, jnp.ones_like(weights))[:, None] * Vt).reshape(chi, d, chi)
    env = lax.cond(rightwards, lambda: _from_left(left, U, W.shape[1]), lambda: _from_right(right, Vt, W.shape[1]))
    rise = jnp.where(jnp.isnan(state.energy), 0, jnp.maximum(first - state.energy, 0))
    return SweepState(
        state.cores.at[k].set(first_core).at[k + 1].set(second_core),
        state.envs.at[k + 1].set(env),
        state.schmidt.at[k + 1].set(s),
        energy,
        jnp.maximum(state.discarded, discarded),
        state.rise + rise,
        state.products + products,
    )


def _pair(cores: Any, k: Any) -> Any:
    """Two neighbouring cores as one matrix (χ d, d χ)."""
    _, chi, d, _ = cores.shape
    return cores[k].reshape(chi * d, chi) @ cores[k + 1].reshape(chi, d * chi)


def _halves(envs: Any, W: Any, k: Any) -> tuple[Any, Any]:
    """Environments times the operator's cores: ((a' i' x), (a i)) and ((x j b), (j' b'))."""
    _, chi, D, _ = envs.shape
    d = W.shape[2]
    left = jnp.einsum("awb,wijx->aixbj", envs[k], W[k]).reshape(chi * d * D, chi * d)
    right = jnp.einsum("vjix,bxc->vicjb", W[k + 1], envs[k + 2]).reshape(D * d * chi, d * chi)
    return left, right


def _product(left: Any, right: Any, theta: Any) -> Any:
    """H_eff θ for θ (χ d, d χ)."""
    return (left @ theta).reshape(theta.shape[0], -1) @ right


def _from_left(left: Any, U: Any, D: int) -> Any:
    """The environment with site k taken in from the left: (χ, D, χ)."""
    chi = U.shape[1]
    moved = (left @ U).reshape(U.shape[0], D * chi)
    return (U.conj().T @ moved).reshape(chi, D, chi)


def _from_right(right: Any, Vt: Any, D: int) -> Any:
    """The environment with site k + 1 taken in from the right: (χ, D, χ)."""
    moved = (right @ Vt.conj().T).reshape(D, Vt.shape[1], -1)
    return jnp.einsum("am,wmb->bwa", Vt, moved)


def _unit(vector: Any, length: Any) -> Any:
    return vector / jnp.where(length > 0, length, 1).astype(vector.dtype)


def lanczos(product: Any, start: Any, steps: int, tol: Any) -> tuple[Any, Any, Any, Any]:
    """The lowest eigenpair near `start`: (value, the start's Rayleigh quotient, unit vector, products).

    At most `steps` steps, fully reorthogonalised; it ends as soon as the residual is within `tol`, so that a converged
    start costs one product. Source: Parlett, The Symmetric Eigenvalue Problem (1980), §13.
    """
    shape, real = start.shape, start.real.dtype
    flat = start.ravel()
    basis = jnp.zeros((steps + 1, flat.size), flat.dtype).at[0].set(_unit(flat, jnp.linalg.norm(flat)))
    zeros = jnp.zeros(steps, real)
    indices = jnp.arange(steps, dtype=jnp.int32)

    def body(carry: Any) -> Any:
        j, basis, alpha, beta, *_ = carry
        w = product(basis[j].reshape(shape)).ravel()
        alpha = alpha.at[j].set(jnp.vdot(basis[j], w).real)
        for _ in range(2):
            w = w - (basis.conj() @ w) @ basis
        length = jnp.linalg.norm(w)
        # Steps not yet taken lie above everything else, unconnected.
        beyond = 1 + jnp.sum(jnp.abs(alpha)) + 2 * jnp.sum(beta)
        inner = jnp.where(indices < j, beta, 0)[:-1]
        T = jnp.diag(jnp.where(indices <= j, alpha, beyond)) + jnp.diag(inner, 1) + jnp.diag(inner, -1)
        values, vectors = jnp.linalg.eigh(T)
        y = vectors[:, 0]
        basis = basis.at[j + 1].set(_unit(w, length))
        return j + 1, basis, alpha, beta.at[j].set(length), y, values[0], length * jnp.abs(y[j])

    def unfinished(carry: Any) -> Any:
        return (carry[0] < steps) & (carry[-1] > tol)

    inf = jnp.asarray(jnp.inf, real)
    carry = (jnp.zeros((), jnp.int32), basis, zeros, zeros, zeros, inf, inf)
    j, basis, alpha, _, y, value, _ = lax.while_loop(unfinished, body, carry)
    vector = y.astype(flat.dtype) @ basis[:-1]
    return value, alpha[0], _unit(vector, jnp.linalg.norm(vector)).reshape(shape), j
