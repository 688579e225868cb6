"""Block Lanczos with full reorthogonalisation, and what its projection T = VᵀAV says of f(A).

All probes X share one Krylov space: V spans [X, AX, …, A^{d−1}X], T is block tridiagonal, X = V E₁R₀, and
f(A) is seen as V f(T) Vᵀ. A step costs one product of A with the block of k columns and O(n k · kd) for the
orthogonalisation; the products are matrix-matrix products, and a space of k·d directions meets the outlying eigenvalues
after k times fewer passes over A than k recurrences side by side.

Bounds. Let f be of Stieltjes type on (a, ∞): f(x) = c + ∫ 1/(x + t) dμ(t) with μ ≥ 0, t ≥ −a (1/x, 1/√x, −log x,
−√x). Then f(T) ≤ Vᵀf(A)V (Hansen & Pedersen's operator Jensen inequality), and where all eigenvalues of A are at
least a, Vᵀf(A)V ≤ f(T̃) in the leading d blocks, with T̃ = [T B; Bᵀ M], B the next coupling and M = aI + Bᵀ(T − aI)⁻¹B
(Gauss-Radau: T̃ has the eigenvalue a with multiplicity k). For the Schur complement S(t) of the rest of the recurrence
in A + tI satisfies S(t) ≥ S(−a) + (t + a)I ≥ M + tI. Both hold as Loewner orders, for any vector of the space.

Sources: Golub & Meurant, Matrices, Moments and Quadrature (2010), ch. 6-8; Zimmerling, Druskin & Simoncini, Numer.
Algorithms (2025) for block Gauss-Radau; Hansen & Pedersen, Math. Ann. 258 (1982).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from corollary.core.operator import Operator, matmat


class Krylov(NamedTuple):
    """A block Krylov space of `steps` blocks so far, in arrays that are long enough for `capacity` of them."""

    V: Float[Array, "capacity n k"]  # orthonormal blocks; zero beyond `steps`
    ahead: Float[Array, "n k"]  # the next block, orthonormal to V
    alpha: Float[Array, "capacity k k"]  # diagonal blocks of T
    beta: Float[Array, "capacity k k"]  # beta[j] couples block j + 1 to block j
    start: Float[Array, "k k"]  # R₀
    steps: Int[Array, ""]
    skew: Float[Array, ""]  # largest ‖QᵀAQ − (QᵀAQ)ᵀ‖_F: rounding, unless A is not symmetric
    size: Float[Array, ""]  # largest ‖AQ‖_F

    @property
    def capacity(self) -> int:
        """Most blocks that the arrays can hold."""
        return self.V.shape[0]


def begin(X: Float[Array, "n k"], capacity: int) -> Krylov:
    """The space of the probes themselves, before the first product."""
    n, k = X.shape
    Q, R = jnp.linalg.qr(X)
    zeros = lambda *shape: jnp.zeros(shape, X.dtype)  # noqa: E731  (each its own buffer: they are donated)
    blocks = (capacity, k, k)
    return Krylov(zeros(capacity, n, k), Q, zeros(*blocks), zeros(*blocks), R, jnp.int32(0), zeros(), zeros())


def advance(A: Operator, space: Krylov, until: Any) -> Krylov:
    """Block steps until there are `until` (dynamic, at most the capacity); one product with A each."""

    def step(space: Krylov) -> Krylov:
        j, Q = space.steps, space.ahead
        V = space.V.at[j].set(Q)
        W = matmat(A, Q)
        C = Q.T @ W
        alpha = (C + C.T) / 2
        ahead, R = jnp.linalg.qr(_deflate(_deflate(W, V, j + 1), V, j + 1))
        # Where a block is numerically dependent on the basis, its new columns are rounding: cleaned once more they
        # are directions of their own, coupled to nothing.
        ahead, again = jnp.linalg.qr(_deflate(ahead, V, j + 1))
        return space._replace(
            V=V,
            ahead=ahead,
            alpha=space.alpha.at[j].set(alpha),
            beta=space.beta.at[j].set(again @ R),
            steps=j + 1,
            skew=jnp.maximum(space.skew, jnp.linalg.norm(C - C.T)),
            size=jnp.maximum(space.size, jnp.linalg.norm(W)),
        )

    return jax.lax.while_loop(lambda s: s.steps < until, step, space)


def _deflate(W: Array, V: Array, blocks: Any) -> Array:
    def body(i: Any, W: Array) -> Array:
        Q = V[i]
        return W - Q @ (Q.T @ W)

    return jax.lax.fori_loop(0, blocks, body, W)


@eqx.filter_jit
def started(A: Operator, X: Float[Array, "n k"], steps: int) -> Krylov:
    """A space of a fixed number of steps."""
    return advance(A, begin(X, steps), steps)


def grown(space: Krylov, capacity: int) -> Krylov:
    """The same space in longer arrays."""
    longer = lambda x: jnp.pad(x, ((0, capacity - x.shape[0]),) + ((0, 0),) * (x.ndim - 1))  # noqa: E731
    return space._replace(V=longer(space.V), alpha=longer(space.alpha), beta=longer(space.beta))


def projection(alpha: Any, beta: Any, xp: Any) -> Any:
    """T from its blocks: block tridiagonal, (dk, dk)."""
    d, k = alpha.shape[:2]
    T = xp.zeros((d, k, d, k), alpha.dtype)
    i = xp.arange(d)
    if xp is jnp:
        T = T.at[i, :, i, :].set(alpha)
        T = T.at[i[1:], :, i[:-1], :].set(beta[:-1])
        T = T.at[i[:-1], :, i[1:], :].set(xp.swapaxes(beta[:-1], 1, 2))
    else:
        T[i, :, i, :] = alpha
        T[i[1:], :, i[:-1], :] = beta[:-1]
        T[i[:-1], :, i[1:], :] = xp.swapaxes(beta[:-1], 1, 2)
    return T.reshape(d * k, d * k)


def radau(T: Any, beta: Any, floor: Any, xp: Any) -> Any:
    """T̃: T and one more block, such that `floor`, at most the least eigenvalue of A, is an eigenvalue k times."""
    k, size = beta.shape[0], T.shape[0]
    B = xp.concatenate([xp.zeros((size - k, k), T.dtype), beta.T], axis=0)
    M = floor * xp.eye(k, dtype=T.dtype) + B.T @ xp.linalg.solve(T - floor * xp.eye(size, dtype=T.dtype), B)
    return xp.concatenate([xp.concatenate([T, B], axis=1), xp.concatenate([B.T, (M + M.T) / 2], axis=1)], axis=0)


def ritz(T: Any, xp: Any, floor: Any = None) -> tuple[Any, Any]:
    """Eigenvalues and vectors of T; eigenvalues that only rounding took below zero (or below `floor`) are put back."""
    theta, Y = xp.linalg.eigh(T)
    noise = T.shape[0] * float(jnp.finfo(T.dtype).eps) * xp.max(xp.abs(theta))
    theta = xp.where((theta < 0) & (theta > -noise), 0, theta)
    return (theta if floor is None else xp.maximum(theta, floor)), Y


def krylov_basis(T: Any, C: Any, blocks: int, xp: Any) -> Any:
    """Orthonormal basis of span[C, TC, …, T^{blocks−1}C], in the coordinates of V."""
    Z = xp.linalg.qr(C)[0]
    W = Z
    for _ in range(blocks - 1):
        W = T @ W
        for _ in range(2):
            W = xp.linalg.qr(W - Z @ (Z.T @ W))[0]
        Z = xp.concatenate([Z, W], axis=1)
    return Z
