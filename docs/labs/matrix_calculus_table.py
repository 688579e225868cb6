"""A table of matrix-calculus identities, each one checked against automatic differentiation.

Layout: numerator layout throughout. The Jacobian of f: R^n -> R^m is m × n, output index first: d(Ax)/dx = A; the
gradient of a scalar in a matrix X has the shape of X. In denominator layout every Jacobian is the transpose, and stands
for the same linear map (`jvp` does not depend on the layout). The wrong rows are errors that are often printed; they
must fail. Source: J. R. Magnus, H. Neudecker, "Matrix Differential Calculus" (3rd ed. 2019); K. B. Petersen, M. S.
Pedersen, "The Matrix Cookbook" (2012).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

N = 4


class Row(NamedTuple):
    """d `function`(x) / dx should be `derivative`(x); `at` draws x."""

    text: str
    function: Callable
    derivative: Callable
    at: str


def draws(seed: int) -> dict[str, jax.Array]:
    """Random arguments: vectors, square matrices, a symmetric positive definite one, an invertible one."""
    keys = jax.random.split(jax.random.key(seed), 12)
    square = {name: jax.random.normal(k, (N, N)) for name, k in zip("ABCDX", keys, strict=False)}
    vectors = {name: jax.random.normal(k, (N,)) for name, k in zip("abex", keys[5:], strict=False)}
    spd = square["X"] @ square["X"].T + jnp.eye(N)
    wide, g = jax.random.normal(keys[10], (3, N)), jax.random.normal(keys[11], (3,))
    return {**square, **vectors, "S": spd, "W": wide, "g": g}


def table(p: dict[str, jax.Array]) -> list[Row]:
    """Identities that hold, for constants drawn in `p`."""
    A, B, C, D, a, b, e, x0, g = (p[k] for k in ("A", "B", "C", "D", "a", "b", "e", "x", "g"))
    inv, tr, T = jnp.linalg.inv, jnp.trace, jnp.transpose
    eye = jnp.eye(N)
    return [
        Row("d(aᵀx)/dx = aᵀ", lambda x: a @ x, lambda x: a, "x"),
        Row("d(Ax)/dx = A", lambda x: A @ x, lambda x: A, "x"),
        Row("d(xᵀAx)/dx = (A + Aᵀ)x", lambda x: x @ A @ x, lambda x: (A + A.T) @ x, "x"),
        Row("Hessian of xᵀAx = A + Aᵀ", jax.grad(lambda x: x @ A @ x), lambda x: A + A.T, "x"),
        Row("d‖x‖²/dx = 2x", lambda x: x @ x, lambda x: 2 * x, "x"),
        Row("d‖x‖/dx = x/‖x‖", jnp.linalg.norm, lambda x: x / jnp.linalg.norm(x), "x"),
        Row(
            "d((Ax+b)ᵀC(Dx+e))/dx = DᵀCᵀ(Ax+b) + AᵀC(Dx+e)",
            lambda x: (A @ x + b) @ C @ (D @ x + e),
            lambda x: D.T @ C.T @ (A @ x + b) + A.T @ C @ (D @ x + e),
            "x",
        ),
        Row(
            "product: d((aᵀx) Bx)/dx = Bx aᵀ + (aᵀx) B",
            lambda x: (a @ x) * (B @ x),
            lambda x: jnp.outer(B @ x, a) + (a @ x) * B,
            "x",
        ),
        Row("chain: d f(Ax)/dx = f'(Ax) A", lambda x: jnp.sin(A @ x), lambda x: jnp.diag(jnp.cos(A @ x)) @ A, "x"),
        Row(
            "chain over a matrix: dL/dW = dL/dy xᵀ, y = Wx",
            lambda W: g @ jnp.tanh(W @ x0),
            lambda W: jnp.outer(g * (1 - jnp.tanh(W @ x0) ** 2), x0),
            "W",
        ),
        Row("softmax: diag(s) − s sᵀ", jax.nn.softmax, _softmax_jacobian, "x"),
        Row("d(aᵀXb)/dX = abᵀ", lambda X: a @ X @ b, lambda X: jnp.outer(a, b), "X"),
        Row("d(aᵀXᵀb)/dX = baᵀ", lambda X: a @ X.T @ b, lambda X: jnp.outer(b, a), "X"),
        Row("d(Xa)/dX = I ⊗ aᵀ", lambda X: X @ a, lambda X: jnp.einsum("ij,k->ijk", eye, a), "X"),
        Row(
            "d(aᵀXᵀXb)/dX = X(abᵀ + baᵀ)",
            lambda X: a @ X.T @ X @ b,
            lambda X: X @ _both(a, b),
            "X",
        ),
        Row("d tr(X)/dX = I", tr, lambda X: eye, "X"),
        Row("d tr(AX)/dX = Aᵀ", lambda X: tr(A @ X), lambda X: A.T, "X"),
        Row("d tr(XᵀX)/dX = 2X (squared Frobenius norm)", lambda X: tr(X.T @ X), lambda X: 2 * X, "X"),
        Row("d tr(XBXᵀC)/dX = CᵀXBᵀ + CXB", lambda X: tr(X @ B @ X.T @ C), lambda X: C.T @ X @ B.T + C @ X @ B, "X"),
        Row("d tr(X³)/dX = 3(X²)ᵀ", lambda X: tr(X @ X @ X), lambda X: 3 * T(X @ X), "X"),
        Row(
            "d⟨X, f(X)⟩/dX = f(X) + (Df(X))*[X], f(X) = X²",
            lambda X: jnp.vdot(X, X @ X),
            lambda X: X @ X + X @ X.T + X.T @ X,
            "X",
        ),
        Row("d log|det X|/dX = X⁻ᵀ", lambda X: jnp.linalg.slogdet(X)[1], lambda X: inv(X).T, "X"),
        Row("Jacobi: d det X/dX = det(X) X⁻ᵀ", jnp.linalg.det, lambda X: jnp.linalg.det(X) * inv(X).T, "X"),
        Row("d tr(AX⁻¹)/dX = −(X⁻¹AX⁻¹)ᵀ", lambda X: tr(A @ inv(X)), lambda X: -T(inv(X) @ A @ inv(X)), "S"),
        Row("d(X⁻¹) = −X⁻¹ dX X⁻¹", inv, lambda X: -jnp.einsum("ik,lj->ijkl", inv(X), inv(X)), "S"),
        Row(
            "d log det S/dS in S's free parameters = 2S⁻¹ − diag(S⁻¹)",
            lambda S: jnp.linalg.slogdet(_from_lower(S))[1],
            lambda S: jnp.tril(2 * inv(S) - jnp.diag(jnp.diag(inv(S)))),
            "S",
        ),
        Row("d‖X‖₂/dX = u₁v₁ᵀ (spectral norm)", lambda X: jnp.linalg.norm(X, 2), _top_pair, "X"),
    ]


def wrong_rows(p: dict[str, jax.Array]) -> list[Row]:
    """What is printed by mistake."""
    A, B, C, a, b = (p[k] for k in ("A", "B", "C", "a", "b"))
    inv, tr = jnp.linalg.inv, jnp.trace
    return [
        Row("d(Ax)/dx = Aᵀ in numerator layout", lambda x: A @ x, lambda x: A.T, "x"),
        Row("d(xᵀAx)/dx = 2Ax for any A", lambda x: x @ A @ x, lambda x: 2 * A @ x, "x"),
        Row("d(aᵀXᵀb)/dX = abᵀ", lambda X: a @ X.T @ b, lambda X: jnp.outer(a, b), "X"),
        Row("d tr(XBXᵀC)/dX = 2CXB", lambda X: tr(X @ B @ X.T @ C), lambda X: 2 * C @ X @ B, "X"),
        Row("d log|det X|/dX = X⁻¹", lambda X: jnp.linalg.slogdet(X)[1], inv, "X"),
        Row("d log det S in free parameters = S⁻¹", lambda S: jnp.linalg.slogdet(_from_lower(S))[1], inv, "S"),
        Row("d⟨X, X²⟩/dX = X²", lambda X: jnp.vdot(X, X @ X), lambda X: X @ X, "X"),
        Row("d‖X‖₂²/dX = 2X for the spectral norm", lambda X: jnp.linalg.norm(X, 2) ** 2, lambda X: 2 * X, "X"),
    ]


def residual(row: Row, p: dict[str, jax.Array]) -> jax.Array:
    """Largest difference to AD, relative to the derivative's largest entry."""
    x = p[row.at]
    truth, claimed = jax.jacrev(row.function)(x), row.derivative(x)
    return jnp.max(jnp.abs(truth - claimed)) / jnp.max(jnp.abs(truth))


def layouts(p: dict[str, jax.Array]) -> jax.Array:
    """Residuals of: the denominator-layout Jacobian is the transpose; both give the same directional derivative."""
    A, x, v = p["W"], p["x"], p["a"]

    def f(x):
        return jnp.tanh(A @ x)

    numerator = jax.jacfwd(f)(x)  # (3, N): output first
    denominator = jax.vmap(lambda u: jax.vjp(f, x)[1](u)[0], out_axes=1)(jnp.eye(3))  # (N, 3): a gradient per column
    pushed = jax.jvp(f, (x,), (v,))[1]
    transposed = jnp.max(jnp.abs(denominator - numerator.T))
    same_map = jnp.max(jnp.abs(numerator @ v - pushed)) + jnp.max(jnp.abs(v @ denominator - pushed))
    return jnp.stack([transposed, same_map])


@jax.jit
def residuals(seed) -> dict:
    """Every residual at one random draw."""
    p = draws(seed)
    return {
        "right": {row.text: residual(row, p) for row in table(p)},
        "wrong": {row.text: residual(row, p) for row in wrong_rows(p)},
        "layouts": layouts(p),
    }


def main(seeds: int = 3) -> dict:
    """Over a few random draws in float64: the worst residual of each right row, the best of each wrong one."""
    with jax.enable_x64(True):
        runs = [jax.tree.map(float, {k: v for k, v in residuals(s).items() if k != "layouts"}) for s in range(seeds)]
        layout = [float(v) for s in range(seeds) for v in residuals(s)["layouts"]]
    return {
        "right": {text: max(run["right"][text] for run in runs) for text in runs[0]["right"]},
        "wrong": {text: min(run["wrong"][text] for run in runs) for text in runs[0]["wrong"]},
        "layouts": layout,
    }


def _softmax_jacobian(x):
    s = jax.nn.softmax(x)
    return jnp.diag(s) - jnp.outer(s, s)


def _both(a, b):
    return jnp.outer(a, b) + jnp.outer(b, a)


def _from_lower(S):
    """The symmetric matrix whose free parameters are the lower triangle."""
    return jnp.tril(S) + jnp.tril(S, -1).T


def _top_pair(X):
    U, _, Vt = jnp.linalg.svd(X)
    return jnp.outer(U[:, 0], Vt[0])


if __name__ == "__main__":
    numbers = main()
    for kind in ("right", "wrong"):
        for text, value in numbers[kind].items():
            print(f"{kind:6s} {value:.1e}  {text}")
    print("layouts", numbers["layouts"])
