"""The two-block problem, minimise f(x) + g(z) subject to A x + B z = c, and its augmented Lagrangian.

The two terms are known by argmin oracles: for a target v and ρ > 0, argmin_x f(x) + ρ/2‖A x − v‖² and
argmin_z g(z) + ρ/2‖B z − v‖². Cost: that of the oracles.
Source: Boyd, Parikh, Chu, Peleato & Eckstein, "Distributed optimization and statistical learning via the alternating
direction method of multipliers" (2011), sections 2.3 and 3.1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.optim._problem import Problem, Solver
from corollary.optim._tree import at_least_zero, finite, floats, like, norm, spread
from corollary.optim.penalties._base import Scalar
from corollary.optim.splitting import _linear_map as lm


@final
class TwoBlock(Problem):
    """Minimise f(x) + g(z) subject to A x + B z = c. The variable is the pair (x, z).

    Parameters
    ----------
    f, g
        Convex functions of x and of z, to scalars.
    argmin_x, argmin_z
        ``argmin_x(v, rho)``, a minimiser of f(x) + ρ/2‖A x − v‖²; ``argmin_z(v, rho)``, of g(z) + ρ/2‖B z − v‖². Plain
        functions are part of the structure; one that carries arrays is best a `jax.tree_util.Partial`.
    A, B
        Matrices, operators, numbers or linear functions; the identity if left out.
    c
        Right-hand side; zero if left out.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from corollary.optim import ADMM, minimize, soft_threshold
    >>> problem = TwoBlock(
    ...     lambda x: jnp.sum((x - 3.0) ** 2) / 2,
    ...     lambda z: jnp.sum(jnp.abs(z)),
    ...     lambda v, rho: (3.0 + rho * v) / (1 + rho),
    ...     lambda v, rho: soft_threshold(-v, 1 / rho),
    ...     B=-1.0,
    ... )
    >>> x, z = minimize(problem, (jnp.zeros(1), jnp.zeros(1)), ADMM(), tol=1e-6).value
    >>> round(float(x[0]), 4)
    2.0
    """

    f: Callable[[Any], Any]
    g: Callable[[Any], Any]
    argmin_x: Callable[[Any, Any], Any]
    argmin_z: Callable[[Any, Any], Any]
    A: Any
    B: Any
    c: Any

    def __init__(self, f: Any, g: Any, argmin_x: Any, argmin_z: Any, A: Any = None, B: Any = None, c: Any = None):
        for name, value in (("f", f), ("g", g), ("argmin_x", argmin_x), ("argmin_z", argmin_z)):
            if not callable(value):
                raise InputError(f"{name}: found {type(value).__name__}, expected a function")
        self.f, self.g, self.argmin_x, self.argmin_z = f, g, argmin_x, argmin_z
        self.A, self.B = lm.linear_map("A", A), lm.linear_map("B", B)
        self.c = None if c is None else follows_input(finite)("c", c)

    @follows_input
    def objective(self, x: Any) -> Any:
        """f(x) + g(z) of the pair (x, z)."""
        x, z = (floats(part) for part in x)
        return self.f(x) + self.g(z)

    def default_solver(self) -> tuple[Solver, str]:
        """`ADMM`."""
        from corollary.optim.splitting._admm import ADMM

        return ADMM(), "two blocks with argmin oracles"

    def claims(self) -> tuple[str, str]:
        """Of the two residuals."""
        residual = "the larger of the primal and the dual residual, each relative to its terms, is <= tol"
        return residual, super().claims()[1]

    def gap(self, x: PyTree, z: PyTree) -> PyTree:
        """A x + B z − c."""
        both = optax.tree.add(lm.forward(self.A, x), lm.forward(self.B, z))
        return both if self.c is None else optax.tree.sub(both, spread(self.c, both))


class AugmentedLagrangian(eqx.Module):
    """L_ρ at one point, and its gradients in x, z and u."""

    value: Scalar
    gradient_x: PyTree
    gradient_z: PyTree
    gradient_u: PyTree


@follows_input
def augmented_lagrangian(
    f: Callable[[Any], Any],
    g: Callable[[Any], Any],
    A: Any,
    B: Any,
    c: Any,
    x: Any,
    z: Any,
    u: Any,
    rho: Any = 1.0,
) -> AugmentedLagrangian:
    """L_ρ(x, z, u) = f(x) + g(z) + ⟨u, A x + B z − c⟩ + ρ/2‖A x + B z − c‖², with its gradients.

    The method of multipliers minimises it in (x, z) and steps u by ρ(A x + B z − c): the gradient in u is the
    constraint's residual, and at a feasible point L_ρ = f + g for every u and ρ. Cost: two products with A and B each.

    Parameters
    ----------
    f, g
        Differentiable functions of x and of z (where one is not, its gradient is that of its autodiff).
    A, B
        Matrices, operators, numbers or linear functions; None for the identity.
    c
        Right-hand side; None for zero.
    x, z, u
        The point and the multiplier, arrays or pytrees.
    rho
        ρ ≥ 0.

    Returns
    -------
    AugmentedLagrangian
        ``value``, ``gradient_x`` = ∇f(x) + Aᵀw, ``gradient_z`` = ∇g(z) + Bᵀw with w = u + ρ(A x + B z − c), and
        ``gradient_u`` = A x + B z − c.

    Raises
    ------
    InputError
        For points that are not finite, and a negative ρ.

    Notes
    -----
    Source: Boyd et al. (2011), eq. (3.2); Bertsekas, "Constrained Optimization and Lagrange Multiplier Methods" (1982).

    Examples
    --------
    >>> f, g = lambda x: (x**2).sum(), lambda z: z.sum()
    >>> found = augmented_lagrangian(f, g, None, -1.0, None, [2.0], [1.0], [0.5], 2.0)
    >>> float(found.value), found.gradient_u.tolist()
    (6.5, [1.0])
    """
    at_least_zero("rho", rho)
    problem = TwoBlock(f, g, f, g, A, B, c)
    x, z, u = finite("x", x), finite("z", z), finite("u", u)
    rho = like(rho, x)
    r = problem.gap(x, z)
    if jax.tree.map(jnp.shape, r) != jax.tree.map(jnp.shape, u):
        raise InputError("u: found other shapes than those of A x + B z − c, expected the same")
    (fx, gx), (gz_value, gz) = jax.value_and_grad(f)(x), jax.value_and_grad(g)(z)
    w = optax.tree.add_scale(u, rho, r)
    value = fx + gz_value + optax.tree.vdot(u, r) + rho / 2 * norm(r) ** 2
    return AugmentedLagrangian(
        value,
        optax.tree.add(gx, lm.adjoint(problem.A, w, x)),
        optax.tree.add(gz, lm.adjoint(problem.B, w, z)),
        r,
    )
