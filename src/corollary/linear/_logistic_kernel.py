"""Newton's method for the multinomial and the logistic loss under an elastic-net penalty, with a Fenchel duality gap.

What is solved, with logits z_i = Wᵀx_i + b and weights s_i that sum to one:

    F(W, b) = Σ s_i loss(z_i, y_i) + λ₁‖W‖₁ + λ₂/2 ‖W‖².

One logit column is the logistic loss, k ≥ 2 columns the softmax loss. A step solves the Newton model
gᵀd + ½dᵀHd + penalty(w + d): by Cholesky (smooth, few unknowns), by conjugate gradients (smooth, many unknowns or
sparse X) or by coordinate descent on the Gram-like H with a Newton polish on the support (λ₁ > 0); then it backtracks.
Cost per step: one pass for z, one for the gradient, O(n (pk)²) for H (or one pass per conjugate-gradient step).

The certificate costs nothing more. Let θ_i = ∂loss/∂z_i and move this dual point along the Newton step d:
θ'_i = θ_i + S_i Xd_i, that is q'_c = q_c (1 + u_c) with u_c = (Xd)_c − Σ q (Xd). It stays in the simplex while
max|Xd| ≤ 1, has the gradient ∇L + Hd, and costs mean KL(q'‖q) ≤ Σ q u² = dᵀHd, since (1+u)log(1+u) − u ≤ u². Hence

    F(w) − F* ≤ dᵀHd + [penalty(w) + penalty*(v) − ⟨w, v⟩],   v = −(∇L + Hd),   v_b = 0,

about twice the Newton decrement; d = 0 gives the familiar ‖∇F‖²/(2λ₂).
Source: Fenchel duality with the negative-entropy conjugate, Boyd & Vandenberghe, Convex Optimization, §5.1.6 and §9.5.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from corollary.core import operator as op
from corollary.core.certificate import rounding

Method = Literal["cholesky", "cg", "cd"]
HIGHEST = lax.Precision.HIGHEST


# --- the loss -------------------------------------------------------------------------------------------------------


def probabilities(Z: Float[Array, "n k"]) -> Float[Array, "n k"]:
    """σ(z) for one column, softmax for several."""
    return jax.nn.sigmoid(Z) if Z.shape[1] == 1 else jax.nn.softmax(Z, axis=1)


def losses(Z: Float[Array, "n k"], Y: Float[Array, "n k"]) -> Float[Array, " n"]:
    """−log p(y_i) without cancellation: log(1 + Σ_{c≠y} exp(z_c − z_y))."""
    if Z.shape[1] == 1:
        return jax.nn.softplus(jnp.where(Y > 0.5, -Z, Z))[:, 0]
    M = Z - jnp.sum(Y * Z, axis=1, keepdims=True)
    others = jnp.where(Y > 0.5, -jnp.inf, M)
    return jax.nn.softplus(jax.nn.logsumexp(others, axis=1))


def margins(Z: Float[Array, "n k"], Y: Float[Array, "n k"]) -> Float[Array, " n"]:
    """z_y − max_{c≠y} z_c: positive where the row is classified rightly."""
    if Z.shape[1] == 1:
        return jnp.where(Y > 0.5, Z, -Z)[:, 0]
    return jnp.sum(Y * Z, axis=1) - jnp.max(jnp.where(Y > 0.5, -jnp.inf, Z), axis=1)


def curvature_times(Q: Float[Array, "n k"], V: Float[Array, "n k"]) -> Float[Array, "n k"]:
    """S_i v_i for every row: the loss's second derivative in z."""
    if Q.shape[1] == 1:
        return Q * (1 - Q) * V
    return Q * (V - jnp.sum(Q * V, axis=1, keepdims=True))


def hessian(X: Float[Array, "n p"], Q: Float[Array, "n k"], s: Float[Array, " n"]) -> Float[Array, "pk pk"]:
    """Xᵀ S X in the order (feature, class), one GEMM for each pair of classes."""
    p, k = X.shape[1], Q.shape[1]
    if k == 1:
        return jnp.dot((X * (s[:, None] * Q * (1 - Q))).T, X, precision=HIGHEST)
    rows, columns = jnp.triu_indices(k)
    rest = Q @ (jnp.ones((k, k), Q.dtype) - jnp.eye(k, dtype=Q.dtype))  # 1 − q without cancellation

    def block(pair: tuple[Array, Array]) -> Array:
        i, j = pair
        weight = s * Q[:, i] * jnp.where(i == j, rest[:, i], -Q[:, j])
        return jnp.dot((X * weight[:, None]).T, X, precision=HIGHEST)

    blocks = lax.map(block, (rows, columns))
    full = jnp.zeros((k, k, p, p), X.dtype).at[rows, columns].set(blocks).at[columns, rows].set(blocks)
    return full.transpose(2, 0, 3, 1).reshape(p * k, p * k)


# --- the problem ----------------------------------------------------------------------------------------------------


class Problem(eqx.Module):
    """F with its products: X is a matrix (its last column the intercept's ones, where there is one) or an operator."""

    X: Any
    Y: Float[Array, "n k"]
    s: Float[Array, " n"]
    l1: Float[Array, " p"]
    l2: Float[Array, " p"]
    free: Bool[Array, " p"]  # no penalty above rounding: the dual point has v = λ₂w there
    intercept: bool = eqx.field(static=True)

    def forward(self, W: Float[Array, "p k"]) -> Float[Array, "n k"]:
        """The logits (intercept row last)."""
        if isinstance(self.X, jax.Array):
            return jnp.dot(self.X, W, precision=HIGHEST)
        return op.matmat(self.X, W[:-1]) + W[-1] if self.intercept else op.matmat(self.X, W)

    def backward(self, R: Float[Array, "n k"]) -> Float[Array, "p k"]:
        """Xᵀ diag(s) R."""
        R = self.s[:, None] * R
        if isinstance(self.X, jax.Array):
            return jnp.dot(self.X.T, R, precision=HIGHEST)
        G = op.rmatmat(self.X, R)
        return jnp.concatenate([G, jnp.sum(R, axis=0, keepdims=True)]) if self.intercept else G

    def penalty(self, W: Float[Array, "p k"]) -> Float[Array, ""]:
        """λ₁‖W‖₁ + λ₂/2 ‖W‖²."""
        return jnp.sum(self.l1[:, None] * jnp.abs(W) + 0.5 * self.l2[:, None] * W * W)

    def value(self, Z: Float[Array, "n k"], W: Float[Array, "p k"]) -> Float[Array, ""]:
        """F from the logits."""
        return self.s @ losses(Z, self.Y) + self.penalty(W)


def duality_gap(
    W: Float[Array, "p k"],
    v: Float[Array, "p k"],
    l1: Float[Array, " p"],
    l2: Float[Array, " p"],
    free: Bool[Array, " p"],
    F: Float[Array, ""],
    moved: Float[Array, ""],
    misfit: Float[Array, ""] | None,
) -> Float[Array, ""]:
    """F(w) − D(θ') from v = −Xᵀθ' and ``moved`` = dᵀHd; every term is non-negative, so nothing cancels.

    penalty(w) + penalty*(v) − ⟨w, v⟩ splits, with s the part of v beyond ±λ₁, into a corner term and the cost
    of s. That cost is the smallest of ‖λ₂w − s‖²/(2λ₂); of the conjugate on the ball λ₁‖w‖₁ ≤ F(w), in which every
    minimiser lies; and, s vanishing, of τθ' with τ = min λ₁/|v|, which moves q' towards y: √KL grows by at most
    (1 − τ)√misfit, misfit = mean χ²(y‖q) = mean(1/q_y − 1) (None where there is no L1 term). Infinite where v
    leaves a free coordinate.
    """
    l1, l2, free = l1[:, None], l2[:, None], free[:, None]
    clipped = jnp.clip(v, -l1, l1)
    # Standardised columns have unit root mean square and |θ| <= 1, so that a zero sum is known to a few eps.
    s = jnp.where(free & (jnp.abs(v - l2 * W) <= 64 * jnp.finfo(v.dtype).eps), l2 * W, v - clipped)
    corner = jnp.sum(l1 * jnp.abs(W) - W * clipped)
    smooth = jnp.sum(_ratio((l2 * W - s) ** 2, 2 * l2))
    if misfit is None:
        return moved + smooth
    square = jnp.sum(0.5 * l2 * W * W)
    excess = jnp.max(_ratio(jnp.abs(s), l1))
    ball = square - jnp.vdot(W, s) + _times(F, excess)
    tau = 1 / (1 + excess)
    scaled = (tau * jnp.sqrt(jnp.maximum(moved, 0)) + _times(jnp.sqrt(misfit), 1 - tau)) ** 2
    rescaled = scaled + square + jnp.sum(jnp.where(free, 0, l1 * jnp.abs(W) - tau * W * v))
    return jnp.minimum(moved + corner + jnp.minimum(smooth, jnp.maximum(ball, 0)), rescaled)


def misfit(Z: Float[Array, "n k"], Y: Float[Array, "n k"], s: Float[Array, " n"]) -> Float[Array, ""]:
    """mean χ²(y‖q) = mean(1/q_y − 1)."""
    return s @ jnp.expm1(losses(Z, Y))


def rounding_of(W: Array, Z: Array, Q: Array, Y: Array, s: Array, F: Array, l1: Array) -> Float[Array, ""]:
    """The rounding that the gap carries: a few eps of F, of mean|θ z| and, with an L1 term, of ‖w‖₁ rms(θ)."""
    theta = Q - Y
    active = jnp.sum(jnp.where(l1[:, None] > 0, jnp.abs(W), 0)) * jnp.sqrt(s @ jnp.sum(theta**2, axis=1))
    return rounding(F + s @ jnp.sum(jnp.abs(theta * Z), axis=1) + active)


def _times(a: Array, b: Array) -> Array:
    return jnp.where(b == 0, 0, a * b)  # 0 · ∞ = 0


def _ratio(a: Array, b: Array) -> Array:
    return jnp.where(a == 0, 0, jnp.where(b > 0, a / jnp.where(b > 0, b, 1), jnp.inf))


# --- the Newton direction -------------------------------------------------------------------------------------------


def _solve(A: Float[Array, "m m"], b: Float[Array, " m"]) -> Float[Array, " m"]:
    """A⁺b for a positive semidefinite A as F Fᵀb, refined once: F from Cholesky, spectral where that is unsound."""
    eps = jnp.finfo(A.dtype).eps
    L = jnp.linalg.cholesky(A)
    pivots = jnp.diagonal(L) ** 2
    sound = jnp.all(jnp.isfinite(pivots)) & (jnp.min(pivots) > 100 * A.shape[0] * eps * jnp.max(pivots))

    def triangular() -> Array:
        return lax.linalg.triangular_solve(L, jnp.eye(A.shape[0], dtype=A.dtype), left_side=True, lower=True).T

    def spectral() -> Array:
        values, V = jnp.linalg.eigh(A)
        keep = values > A.shape[0] * eps * jnp.max(jnp.abs(values))
        return V * jnp.where(keep, lax.rsqrt(jnp.where(keep, values, 1)), 0)

    F = lax.cond(sound, triangular, spectral)
    x = F @ (F.T @ b)
    return x + F @ (F.T @ (b - jnp.dot(A, x, precision=HIGHEST)))


def _solve_intercept(H: Float[Array, "k k"], b: Float[Array, " k"]) -> Float[Array, " k"]:
    """H⁺b for the intercepts' own block; its null space is the vector of ones where there are several."""
    if b.size == 1:
        return jnp.where(H[0] > 0, b / jnp.where(H[0] > 0, H[0], 1), 0)
    values, V = jnp.linalg.eigh(H)
    keep = values > b.size * jnp.finfo(H.dtype).eps * values[-1]
    return V @ (jnp.where(keep, 1 / jnp.where(keep, values, 1), 0) * (V.T @ b))


def _gauge(problem: Problem) -> Float[Array, "pk pk"] | float:
    """Adding one vector to all class weights changes nothing: fix it where no penalty does."""
    k = problem.Y.shape[1]
    if k == 1:
        return 0.0
    weight = jnp.where(problem.free, 0.25, 0.0).astype(problem.s.dtype)
    return jnp.kron(jnp.diag(weight), jnp.ones((k, k), weight.dtype))


def _cholesky_direction(problem: Problem, W: Array, g: Array, Q: Array) -> tuple[Array, Array]:
    H = hessian(problem.X, Q, problem.s)
    l2 = jnp.repeat(problem.l2, Q.shape[1])
    A = H + jnp.diag(l2) + _gauge(problem)
    diagonal = jnp.diagonal(A)
    A = A + jnp.diag(jnp.where(diagonal > 0, 0.0, 1.0).astype(A.dtype))  # a zero column asks for no step
    d = _solve(A, -(g.ravel() + l2 * W.ravel()))
    if problem.intercept:  # one more Newton step in b alone makes the dual point feasible to the last bit
        k = Q.shape[1]
        r = g.ravel()[-k:] + H[-k:] @ d
        d = d.at[-k:].add(-_solve_intercept(H[-k:, -k:], r))
    return d.reshape(W.shape), jnp.dot(H, d, precision=HIGHEST).reshape(W.shape)


def _cg_direction(problem: Problem, W: Array, g: Array, Q: Array) -> tuple[Array, Array]:
    l2 = problem.l2[:, None]

    def loss_hessian(V: Array) -> Array:
        return problem.backward(curvature_times(Q, problem.forward(V)))

    rhs = -(g + l2 * W)
    norm = jnp.sqrt(jnp.vdot(rhs, rhs))
    goal = norm * jnp.minimum(0.1, jnp.sqrt(norm))  # superlinear (Dembo, Eisenstat & Steihaug 1982)
    precondition = 1 / (0.25 + l2)

    def cond(c: tuple) -> Array:
        _, r, _, _, i, ok = c
        return ok & (jnp.vdot(r, r) > goal**2) & (i < 200)

    def body(c: tuple) -> tuple:
        x, r, q, rz, i, _ = c
        Aq = loss_hessian(q) + l2 * q
        curve = jnp.vdot(q, Aq)
        ok = curve > 0
        step = jnp.where(ok, rz / jnp.where(ok, curve, 1), 0)
        x, r = x + step * q, r - step * Aq
        z = precondition * r
        new = jnp.vdot(r, z)
        return x, r, z + new / rz * q, new, i + 1, ok

    z = precondition * rhs
    d = lax.while_loop(cond, body, (jnp.zeros_like(W), rhs, z, jnp.vdot(rhs, z), 0, jnp.bool_(norm > 0)))[0]
    Hd = loss_hessian(d)
    if problem.intercept:
        S = hessian(jnp.ones((Q.shape[0], 1), Q.dtype), Q, problem.s)
        fix = jnp.zeros_like(d).at[-1].set(-_solve_intercept(S, g[-1] + Hd[-1]))
        d, Hd = d + fix, Hd + loss_hessian(fix)
    return d, Hd


def _cd_direction(problem: Problem, W: Array, g: Array, Q: Array) -> tuple[Array, Array]:
    k = Q.shape[1]
    H = hessian(problem.X, Q, problem.s)
    l1, l2, free = (jnp.repeat(a, k) for a in (problem.l1, problem.l2, problem.free))
    w, g = W.ravel(), g.ravel()
    h = jnp.diagonal(H) + l2
    live, safe = h > 0, jnp.where(h > 0, h, 1)
    gauge = _gauge(problem)

    def update(u_j: Array, r_j: Array, j: Any) -> Array:
        t = (safe[j] - l2[j]) * u_j - r_j
        return jnp.where(live[j], jnp.sign(t) * jnp.maximum(jnp.abs(t) - l1[j], 0) / safe[j], u_j)

    def coordinate(j: Array, c: tuple[Array, Array]) -> tuple[Array, Array]:
        u, r = c
        change = update(u[j], r[j], j) - u[j]
        return u.at[j].add(change), r + change * H[j]

    def residual(u: Array, r: Array) -> Array:
        return jnp.max(safe * jnp.abs(update(u, r, slice(None)) - u))

    def polish(u: Array) -> Array:  # Newton on the support, up to the first sign change
        on = ((u != 0) | free) & live
        A = jnp.where(on[:, None] & on[None, :], H + gauge, 0) + jnp.diag(jnp.where(on, l2, 1.0))
        r = g + jnp.dot(H, u - w, precision=HIGHEST)
        step = _solve(A, jnp.where(on, -(r + l2 * u + l1 * jnp.sign(u)), 0))
        reach = jnp.where(on & ~free & (u * step < 0), -u / jnp.where(step == 0, 1, step), jnp.inf)
        t = jnp.minimum(1, jnp.min(reach))
        moved = jnp.where(reach <= t, 0, u + t * step)
        return jnp.where(jnp.all(jnp.isfinite(moved)), moved, u)

    start = residual(w, g)
    eps = jnp.finfo(w.dtype).eps
    goal = jnp.maximum(start * jnp.minimum(0.03, start), 2 * eps)  # unit columns: r is known to a few eps

    def cond(c: tuple) -> Array:
        _, _, i, now, before = c
        return (now > goal) & (i < 20) & ((now > 64 * eps) | (now < 0.5 * before))

    def body(c: tuple) -> tuple:
        u, r, i, now, _ = c
        u, r = lax.fori_loop(0, 4 * w.size, lambda j, c: coordinate(j % w.size, c), (u, r))
        u = polish(u)
        r = g + jnp.dot(H, u - w, precision=HIGHEST)
        u, r = lax.fori_loop(0, w.size, coordinate, (u, r))
        return u, r, i + 1, residual(u, r), now

    u = lax.while_loop(cond, body, (w, g, 0, start, jnp.full_like(start, jnp.inf)))[0]
    if problem.intercept:
        r = g[-k:] + jnp.dot(H[-k:], u - w, precision=HIGHEST)
        u = u.at[-k:].add(-_solve_intercept(H[-k:, -k:], r))
    d = u - w
    return d.reshape(W.shape), jnp.dot(H, d, precision=HIGHEST).reshape(W.shape)


DIRECTION = {"cholesky": _cholesky_direction, "cg": _cg_direction, "cd": _cd_direction}


# --- the loop -------------------------------------------------------------------------------------------------------


class State(NamedTuple):
    """What the next step needs."""

    W: Float[Array, "p k"]
    Z: Float[Array, "n k"]
    F: Float[Array, ""]
    dual: Float[Array, ""]  # the best lower bound on F* so far
    slack: Float[Array, ""]  # the rounding of F - dual
    step: Int[Array, ""]
    stalls: Int[Array, ""]
    converged: Bool[Array, ""]
    separated: Bool[Array, ""]


class Fit(NamedTuple):
    """The raw answer, in the problem's own units."""

    W: Float[Array, "p k"]
    F: Float[Array, ""]
    gap: Float[Array, ""]
    allowance: Float[Array, ""]  # rounding of F
    residual: Float[Array, ""]  # gradient mapping at step 1/L, and
    smoothness: Float[Array, ""]  # L, in standardised columns
    steps: Int[Array, ""]
    converged: Bool[Array, ""]
    separated: Bool[Array, ""]
    stalled: Bool[Array, ""]


def minimise(problem: Problem, W0: Float[Array, "p k"], tol: Array, max_steps: Array, method: Method) -> Fit:
    """Newton with backtracking until the duality gap is within ``tol · F``; columns are expected to be standardised."""
    Y, s = problem.Y, problem.s
    eps = jnp.finfo(s.dtype).eps
    unpenalised = jnp.all((problem.l1 == 0) & (problem.l2 == 0))

    def separates(Z: Array) -> Array:
        clear = 16 * eps * jnp.max(jnp.abs(Z))
        return unpenalised & jnp.all((margins(Z, Y) > clear) | (s == 0))

    def cond(c: State) -> Array:
        return (c.step < max_steps) & ~c.converged & ~c.separated & (c.stalls < 3) & jnp.isfinite(c.F)

    def body(c: State) -> State:
        Q = probabilities(c.Z)
        g = problem.backward(Q - Y)
        d, Hd = DIRECTION[method](problem, c.W, g, Q)
        Zd = problem.forward(d)

        spread = jnp.max(jnp.abs(Zd)) if Y.shape[1] == 1 else jnp.max(jnp.max(Zd, axis=1) - jnp.min(Zd, axis=1))
        terms = (problem.l1, problem.l2, problem.free, c.F, jnp.vdot(d, Hd))
        gap = duality_gap(c.W, -(g + Hd), *terms, misfit(c.Z, Y, s) if method == "cd" else None)
        slack = rounding_of(c.W, c.Z, Q, Y, s, c.F, problem.l1)
        sound = (spread <= 1) & (gap >= -slack)  # rounding alone may take a gap of zero below it
        dual = jnp.maximum(c.dual, jnp.where(sound, c.F - jnp.maximum(gap, 0), -jnp.inf))
        descent = jnp.vdot(g, d) + problem.penalty(c.W + d) - problem.penalty(c.W)

        def too_long(search: tuple[Array, Array]) -> Array:
            t, F = search
            return ~(c.F + 1e-4 * t * descent + slack >= F) & (t > 1e-12)

        def shorten(search: tuple[Array, Array]) -> tuple[Array, Array]:
            t = search[0] / 2
            return t, problem.value(c.Z + t * Zd, c.W + t * d)

        t, F = lax.while_loop(too_long, shorten, (2 * jnp.ones_like(c.F), jnp.inf * jnp.ones_like(c.F)))
        W, Z = c.W + t * d, c.Z + t * Zd
        better = c.F + slack >= F
        W, Z, F = (jnp.where(better, a, b) for a, b in ((W, c.W), (Z, c.Z), (F, c.F)))
        useful = (slack / 4 < c.F - F) | (dual > c.dual)
        converged = F - dual <= tol * F + slack
        return State(W, Z, F, dual, slack, c.step + 1, jnp.where(useful, 0, c.stalls + 1), converged, separates(Z))

    Z0 = problem.forward(W0)
    zero, no = jnp.zeros((), jnp.int32), jnp.bool_(False)
    F0 = problem.value(Z0, W0)
    start = State(W0, Z0, F0, -jnp.inf * jnp.ones_like(F0), rounding(F0), zero, zero, no, no)
    end = lax.while_loop(cond, body, start)

    g = problem.backward(probabilities(end.Z) - Y)
    L = (0.25 if Y.shape[1] == 1 else 0.5) * end.W.shape[0] + jnp.max(problem.l2)  # tr XᵀX/n = p in unit columns
    l1, l2 = problem.l1[:, None], problem.l2[:, None]
    ahead = end.W - (g + l2 * end.W) / L
    ahead = jnp.sign(ahead) * jnp.maximum(jnp.abs(ahead) - l1 / L, 0)
    return Fit(
        W=end.W,
        F=end.F,
        gap=jnp.maximum(end.F - end.dual, 0),
        allowance=end.slack,
        residual=L * jnp.sqrt(jnp.sum((end.W - ahead) ** 2)),
        smoothness=L,
        steps=end.step,
        converged=end.converged,
        separated=end.separated,
        stalled=end.stalls >= 3,
    )


# --- standardised columns -------------------------------------------------------------------------------------------


def _scales(X: Float[Array, "n p"], s: Float[Array, " n"], centre: bool) -> tuple[Array, Array]:
    """Column means (or zeros) and 1/root-mean-square, 0 for a column that carries nothing."""
    top = jnp.max(jnp.abs(X), axis=0)
    unit = X / jnp.where(top > 0, top, 1)
    mean = s @ unit if centre else jnp.zeros_like(top)
    rms = jnp.sqrt(s @ (unit - mean) ** 2)
    live = (rms > 16 * jnp.finfo(X.dtype).eps) & (top > 0)
    return mean * top, jnp.where(live, 1 / jnp.where(live, rms * top, 1), 0)


def _penalties(l1: Array, l2: Array, inverse: Array, intercept: bool) -> tuple[Array, Array, Array]:
    """λ₁, λ₂ per standardised column, kept within the precision's range, and which columns are free."""
    info = jnp.finfo(inverse.dtype)
    top, low = info.max**0.5, info.tiny
    a = jnp.where(l1 > 0, jnp.clip(l1 * inverse, low, top), 0)
    b = jnp.where(l2 > 0, jnp.clip(jnp.minimum(inverse, top**0.5) ** 2 * l2, low, top), 0)
    a, b = jnp.where(inverse > 0, a, 0), jnp.where(inverse > 0, b, jnp.where((l1 > 0) | (l2 > 0), 1, 0))
    if intercept:
        a, b = (jnp.concatenate([x, jnp.zeros(1, x.dtype)]) for x in (a, b))
    return a, b, jnp.maximum(a, b) <= info.eps**2


def fit_dense(
    X: Float[Array, "n p"],
    Y: Float[Array, "n k"],
    s: Float[Array, " n"],
    l1: Float[Array, ""],
    l2: Float[Array, ""],
    coef: Float[Array, "p k"],
    offset: Float[Array, " k"],
    tol: Float[Array, ""],
    max_steps: Int[Array, ""],
    intercept: bool,
    method: Method,
) -> Fit:
    """`minimise` in centred (with an intercept) and scaled columns; the answer in the caller's units, offset last."""
    X = jnp.where(s[:, None] > 0, X, 0)
    mean, inverse = _scales(X, s, intercept)
    U = (X - mean) * inverse
    a, b, free = _penalties(l1, l2, inverse, intercept)
    W = coef / jnp.where(inverse > 0, inverse, 1)[:, None]
    if intercept:
        U = jnp.concatenate([jnp.where(s[:, None] > 0, U, 0), jnp.ones((X.shape[0], 1), X.dtype)], axis=1)
        W = jnp.concatenate([W, (offset + mean @ coef)[None]])
    fit = minimise(Problem(U, Y, s, a, b, free, intercept), W, tol, max_steps, method)
    out = fit.W[: X.shape[1]] * inverse[:, None]
    last = fit.W[-1] - (mean * inverse) @ fit.W[:-1] if intercept else offset
    return fit._replace(W=jnp.concatenate([out, last[None]]))


def fit_operator(
    X: Any,
    Y: Float[Array, "n k"],
    s: Float[Array, " n"],
    l1: Float[Array, ""],
    l2: Float[Array, ""],
    inverse: Float[Array, " p"],
    coef: Float[Array, "p k"],
    offset: Float[Array, " k"],
    tol: Float[Array, ""],
    max_steps: Int[Array, ""],
    intercept: bool,
) -> Fit:
    """`minimise` by Newton-CG through products with an operator whose columns were scaled by `inverse` already."""
    a, b, free = _penalties(l1, l2, inverse, intercept)
    W = coef / jnp.where(inverse > 0, inverse, 1)[:, None]
    W = jnp.concatenate([W, offset[None]]) if intercept else W
    fit = minimise(Problem(X, Y, s, a, b, free, intercept), W, tol, max_steps, "cg")
    out = fit.W[: coef.shape[0]] * inverse[:, None]
    return fit._replace(W=jnp.concatenate([out, fit.W[-1:] if intercept else offset[None]]))


fit_dense_jit = jax.jit(fit_dense, static_argnames=("intercept", "method"))
fit_operator_jit = jax.jit(fit_operator, static_argnames=("intercept",))
