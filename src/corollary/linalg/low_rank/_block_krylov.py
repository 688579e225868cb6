"""Leading singular triplets by Rayleigh-Ritz on a block Krylov space, a product at a time until they have settled.

With V_1 a random orthonormal block and V_{j+1} = orth(AᵀA V_j), every product with A or Aᵀ makes the space half a step
larger: after Y_t = A V_t the right space span(V_1..V_t) gives the triplets, after W_t = AᵀY_t the left space
span(Y_1..Y_t). All orthogonalisation is done in the shorter dimension; the long blocks Y_j are only multiplied.
Cost: one product with A per half step, O(m k² t) beside them at the end. Source: Musco & Musco (2015), Algorithm 2;
Saad (1980) for the rate.
"""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import scipy.linalg
from jaxtyping import Array, Key

from corollary.core.certificate import Assumption, Certificate
from corollary.core.errors import InputError
from corollary.core.solution import Note, Solution, Status
from corollary.linalg._products import Block, Products, Values, orthonormal
from corollary.linalg.low_rank._range_finder import ALPHA, PROBES, draw
from corollary.linalg.low_rank._rsvd_bounds import orthogonality, probe_certificates

FIXED_STEPS = 4  # where the matrix is traced and nothing can be looked at
LANES = 8  # BLAS multiplies by 32 columns in the time of 25


def block_krylov(
    P: Products, k: int, oversampling: int, accuracy: Any, max_steps: int, key: Key[Array, ""]
) -> Solution:
    """k triplets of a matrix that is at least as tall as wide, with an error estimate from probes it has not seen."""
    xp, n = P.xp, P.shape[1]
    width = min(-(-(k + oversampling) // LANES) * LANES, n)
    omega, test = draw(P, n, width, key)
    V = orthonormal(omega, [], xp)
    Y = P.apply(xp.concatenate([V, test], axis=1))
    if not P.traced and not bool(xp.isfinite(xp.sum(Y))):
        raise InputError("A: found NaN, infinity, or entries whose sums overflow, expected finite numbers")
    # A power of two brings A to the order of one: squares then neither overflow nor vanish, and no bit is lost.
    scale = xp.ldexp(xp.ones((), P.dtype), xp.frexp(xp.max(xp.abs(Y)))[1])
    if P.traced or not 2.0**-30 < scale < 2.0**30:
        P, Y = P.scaled(scale), Y / scale
    else:
        scale = 1.0
    image = Y[:, width:]
    space = _Space(P, k, V, Y[:, :width])
    _grow(space, accuracy, min(FIXED_STEPS, max_steps) if P.traced else max_steps)
    unit, s, V, turn = space.triplets()
    U, s, Vt = _orthonormalised(space, unit, s, V, turn)
    residual = image - U @ (s[:, None] * (Vt @ test))
    certificates = probe_certificates(residual * scale, test, image * scale, ALPHA, "A − UΣVᵀ", xp, space.next * scale)
    certificates["orthogonality"] = orthogonality(xp, U=U, V=Vt.T)
    certificates["singular_values"] = Certificate(
        "the leading singular values have settled: relative error, extrapolated from their last rises",
        measured=space.error,
        bound=accuracy,
        kind="monitor",
        source="Ritz values rise to σ_i at a geometric rate or faster (Saad, SIAM J. Numer. Anal. 17 (1980))",
        assumptions=(Assumption("the last rises show the rate"),),
    )
    done, finite = space.error <= accuracy, xp.isfinite(xp.sum(s))
    status = xp.where(finite, xp.where(done, Status.CONVERGED, Status.MAX_STEPS), Status.NON_FINITE).astype(jnp.int32)
    products = len(space.images) + len(space.pulled)
    method = Note(f"block Krylov, {products} products with {width} columns")
    stats = {"rank": k, "products": products * width + PROBES, "method": method}
    return Solution((U, s * scale, Vt), certificates, status=status, steps=len(space.images), stats=stats)


def _grow(space: _Space, accuracy: Any, max_steps: int) -> None:
    """Half steps until the values have settled, the space is full, or the steps are used up."""
    while space.filled < space.n and len(space.images) < max_steps:
        space.pull()
        if space.can_look_left() and space.settled(space.left_values(), accuracy):
            space.left = True
            return
        space.push()
        if space.settled(space.theta[: space.k], accuracy):
            return
    if space.filled == space.n:  # everything is spanned: exact
        space.error = space.P.xp.asarray(space.P.eps, space.P.dtype)


class _Space:
    """The blocks V_j, Y_j = A V_j and W_j = AᵀY_j, the Gram matrix YᵀY, and how far the values are from settled."""

    def __init__(self, P: Products, k: int, V: Block, Y: Block):
        self.P, self.k, self.n = P, k, P.shape[1]
        self.basis, self.images, self.pulled = [V], [Y], []
        self.gram = Y.T @ Y
        self.filled = V.shape[1]
        self.left = False
        self.error: Any = P.xp.ones((), P.dtype)
        self._rises: list[tuple[bool, Any]] = []  # (seen from the left, relative rise)
        self._eigen()
        self._values = self.theta[:k]

    def _eigen(self) -> None:
        theta, W = self.P.xp.linalg.eigh(self.gram)
        self.theta, self.vectors = theta[::-1], W[:, ::-1]

    def pull(self) -> None:
        """W = AᵀY for the last Y."""
        self.pulled.append(self.P.adjoint(self.images[-1]))

    def push(self) -> None:
        """The next V and Y; YᵢᵀY = WᵢᵀV costs no long product."""
        xp = self.P.xp
        V = orthonormal(self.pulled[-1][:, : self.n - self.filled], self.basis, xp)
        Y = self.P.apply(V)
        cross = xp.concatenate([*(W.T @ V for W in self.pulled), Y.T @ Y])
        self.gram = xp.concatenate([xp.concatenate([self.gram, cross[: self.filled].T]), cross], axis=1)
        self.basis.append(V)
        self.images.append(Y)
        self.filled += V.shape[1]
        self._eigen()

    def can_look_left(self) -> bool:
        """Whether the Gram matrix resolves the k leading images: its rounding, eps (σ_1/σ_k)², is small."""
        return not self.P.traced and bool(self.theta[self.k - 1] > self.theta[0] * math.sqrt(self.P.eps))

    def left_factor(self) -> tuple[Block, Block]:
        """T with Y T orthonormal (but for what the Gram matrix cannot resolve), and C = AᵀYT = WT."""
        keep = self.theta > self.theta[0] * math.sqrt(self.P.eps)
        T = self.vectors[:, keep] / self.P.xp.sqrt(self.theta[keep])
        return T, _combine(self.pulled, T)

    def left_values(self) -> Values:
        """Squares of the k leading singular values of the projection on span(Y)."""
        C = self.left_factor()[1]
        return self.P.xp.linalg.eigvalsh(C.T @ C)[::-1][: self.k]

    def settled(self, values: Values, accuracy: Any) -> bool:
        """Extrapolate the error from the rises of the (squared) values, as a geometric series.

        A look from the left and one from the right gain unlike amounts, so a rise is held against the last of its kind;
        what rose since then is what the next such round will gain again, times the rate.
        """
        xp, eps = self.P.xp, self.P.eps
        noise = 8 * eps * self.theta[0]
        rise = xp.max(xp.maximum(values - self._values - noise, 0) / xp.maximum(2 * values, eps * eps))
        self._values = xp.maximum(values, self._values)
        left = len(self.pulled) == len(self.images)
        since: list[Any] = [rise]
        last = None
        for kind, other in reversed(self._rises):
            if kind == left:
                last = other
                break
            since.append(other)
        rate = 0.9 if last is None else xp.minimum(rise / xp.maximum(last, eps), 0.9)
        self.error = sum(since) * rate / (1 - rate)
        self._rises.append((left, rise))
        return not self.P.traced and bool(self.error <= accuracy)

    @property
    def next(self) -> Any:
        """A value that σ_{k+1} is not below."""
        xp, k = self.P.xp, self.k
        if self.filled <= k:
            return 0.0
        return xp.sqrt(xp.maximum(self.theta[k] - 8 * self.P.eps * self.theta[0], 0))

    def triplets(self) -> tuple[Block | None, Values, Block, Block | None]:
        """(coordinates of U in the images, s, V, the upper triangle that made V orthonormal); None: see below."""
        xp, k = self.P.xp, self.k
        if self.left:
            T, C = self.left_factor()
            mu, Z = xp.linalg.eigh(C.T @ C)
            s, Z = xp.sqrt(mu[::-1][:k]), Z[:, ::-1][:, :k]
            V, turn = xp.linalg.qr(C @ (Z / s))
            return T @ Z, s, V, turn
        if self.can_look_left():
            W, s = self.vectors[:, :k], xp.sqrt(self.theta[:k])
            return W / s, s, _combine(self.basis, W), None
        return None, self.theta[:k], self.basis[0], None


def _orthonormalised(
    space: _Space, unit: Block | None, s: Values, V: Block, turn: Block | None
) -> tuple[Block, Values, Block]:
    """U, s and Vᵀ, orthonormal and with values good to eps σ_1.

    The Gram matrix squares the condition, so it only picks the k-dimensional subspace, and only where it resolves it:
    the images of the k picked vectors are nearly orthonormal, one step of Cholesky QR makes them so, and the SVD of
    the small core gives the values. Elsewhere all images are factorised by Householder QR.
    """
    xp, k = space.P.xp, space.k
    if unit is None:
        Q, R = xp.linalg.qr(xp.concatenate(space.images, axis=1))
        left, s, Wt = xp.linalg.svd(R, full_matrices=False)
        U, Vt = sign_fixed(Q @ left[:, :k], _combine(space.basis, Wt[:k].T).T, xp)
        return U, s[:k], Vt
    Y = _combine(space.images, unit)
    R = xp.linalg.cholesky(Y.T @ Y).T
    left, s, right = xp.linalg.svd(R * s if turn is None else (R * s) @ turn.T)
    U, Vt = sign_fixed(Y @ xp.asarray(scipy.linalg.solve_triangular(R, left)), right @ V.T, xp)
    return U, s, Vt


def sign_fixed(U: Block, Vt: Block, xp: Any) -> tuple[Block, Block]:
    """The convention of the house: the largest entry of each right singular vector is positive."""
    top = xp.take_along_axis(Vt, xp.argmax(xp.abs(Vt), axis=1)[:, None], axis=1)
    sign = xp.where(top < 0, -1.0, 1.0).astype(Vt.dtype)
    return U * sign[:, 0], Vt * sign


def _combine(blocks: list[Any], W: Block) -> Block:
    """[B_1 B_2 ...] W without joining the blocks."""
    total, start = 0, 0
    for B in blocks:
        total = total + B @ W[start : start + B.shape[1]]
        start += B.shape[1]
    return total  # type: ignore[return-value]
