"""Derivatives of solutions by the implicit function theorem: of any root, and of `minimize`.

Where F(x, θ) = 0 defines x(θ), its derivative is dx = −(∂F/∂x)⁻¹ (∂F/∂θ) dθ, whatever found x: one linear solve, no
unrolled iterations, memory O(1) in their number. A proximal solver's F is x − prox_{th}(x − t∇f(x)), with the
derivative that automatic differentiation gives the prox (the Jacobian where it exists, as at almost every point). The
derivative is that of the exact solution, in error by O(‖x − x*‖): solve tightly. Both modes, any order; jit and vmap.
Cost: a dense solve up to 128 unknowns, beyond that GMRES, each step one Jacobian-vector product.
Source: Krantz & Parks, "The Implicit Function Theorem" (2002), theorem 3.3.1; Blondel et al., "Efficient and modular
implicit differentiation" (2022), eqs. (2) and (9); Bolte et al. (2021), theorem 2, for F that is only Lipschitz.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import optax
from jax.core import Tracer
from jax.custom_derivatives import SymbolicZero
from jax.flatten_util import ravel_pytree
from jaxtyping import PyTree

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.optim._composite import Composite
from corollary.optim._tree import dtype, finite, like, norm
from corollary.optim.penalties._base import Scalar

DENSE = 128  # up to here the Jacobian is formed
LINEAR_SOLVERS = ("auto", "dense", "gmres", "cg", "neumann")
Map = Callable[[PyTree], PyTree]


def implicit_root(optimality: Callable[..., Any], x: Any, *parameters: Any, solver: str = "auto") -> Any:
    """x itself, with the derivative that the equation F(x, θ) = 0 gives it.

    Use it to make any solver differentiable: solve as you like, then pass the answer through. Cost: nothing until it is
    differentiated; then one linear solve with ∂F/∂x.

    Parameters
    ----------
    optimality
        ``F(x, *parameters)`` of the structure and shapes of x, made of JAX operations.
    x
        A root, an array or pytree. How it came to be is not differentiated.
    *parameters
        Arrays or pytrees θ.
    solver
        ``"dense"`` (least squares of minimum norm where ∂F/∂x is singular), ``"gmres"``; ``"cg"`` where ∂F/∂x is
        symmetric positive definite (F a gradient); ``"neumann"``, Σ (I − ∂F/∂x)^k, where x − F is a contraction;
        ``"auto"``: dense up to 128 unknowns, then GMRES.

    Returns
    -------
    Array or pytree
        x.

    Notes
    -----
    Source: Blondel et al. (2022), eq. (2).

    Examples
    --------
    >>> def root_of(a):  # x² = a
    ...     return implicit_root(lambda x, a: x**2 - a, jnp.sqrt(jax.lax.stop_gradient(a)), a)
    >>> float(jax.grad(root_of)(4.0))
    0.25
    """
    validation.one_of(*LINEAR_SOLVERS)("solver", solver)
    x = jax.lax.stop_gradient(finite("x", x))
    if closes_over_tracers(optimality):
        optimality, arrays = jax.closure_convert(optimality, x, *parameters)
        parameters = (*parameters, *arrays)
    dynamic, static = split(parameters)
    return _rooted((optimality, solver, static), x, dynamic)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _rooted(how: Hashable, x: PyTree, dynamic: list[Any]) -> PyTree:
    return x


@partial(_rooted.defjvp, symbolic_zeros=True)
def _rooted_jvp(how: Any, primals: Any, tangents: Any) -> tuple[PyTree, PyTree]:
    x = _rooted(how, *primals)  # attached again, for derivatives of this derivative
    _refuse_hidden(tangents[0])
    live, along = _felt(tangents[1])
    return x, _root_tangent(how, live, x, primals[1], along)


@partial(jax.jit, static_argnums=(0, 1))
def _root_tangent(how: Any, live: tuple[bool, ...], x: PyTree, dynamic: list[Any], along: list[Any]) -> PyTree:
    optimality, solver, static = how
    return _tangent(lambda y, d: optimality(y, *join(d, static)), solver, x, dynamic, live, along)


def _tangent(
    equation: Callable[[PyTree, list[Any]], PyTree],
    solver: str,
    x: PyTree,
    dynamic: list[Any],
    live: tuple[bool, ...],
    along: list[Any],
) -> PyTree:
    """−(∂F/∂x)⁻¹ (∂F/∂θ) dθ."""
    moved = _pushforward(lambda d: equation(x, d), dynamic, live, along)

    def matvec(v: PyTree) -> PyTree:
        image = jax.jvp(lambda y: equation(y, dynamic), (x,), (v,))[1]
        # The zero keeps a second derivative alive: the linear solve's rule refuses a Jacobian that is constant in x.
        return jax.tree.map(lambda j, y, w: j + 0 * y * w, image, x, v)

    return solve_linear(matvec, jax.tree.map(jnp.negative, moved), solver)


def _refuse_hidden(tangents: PyTree) -> None:
    if not all(isinstance(t, SymbolicZero) for t in jax.tree.leaves(tangents)):
        raise InputError(
            "problem: found a function that closes over an array to differentiate by, expected a jax.tree_util.Partial"
            " or an equinox.Module that carries it"
        )


def _felt(tangents: list[Any]) -> tuple[tuple[bool, ...], list[Any]]:
    """Which entries have a tangent (floating, and perturbed), and those."""
    live = tuple(not isinstance(t, SymbolicZero) and jax.dtypes.result_type(t) != jax.dtypes.float0 for t in tangents)
    return live, [t for on, t in zip(live, tangents, strict=True) if on]


def _pushforward(
    function: Callable[[list[Any]], PyTree], dynamic: list[Any], live: tuple[bool, ...], along: list[Any]
) -> PyTree:
    """The derivative of a function of the dynamic leaves along the live ones."""

    def of_live(some: list[Any]) -> PyTree:
        given = iter(some)
        return function([next(given) if on else d for on, d in zip(live, dynamic, strict=True)])

    point = [jnp.asarray(d) for on, d in zip(live, dynamic, strict=True) if on]
    tangents = [jnp.asarray(t).astype(p.dtype) for p, t in zip(point, along, strict=True)]
    return jax.jvp(of_live, (point,), (tangents,))[1]


def solve_linear(
    matvec: Map,
    b: PyTree,
    solver: str = "auto",
    *,
    tol: float | None = None,
    max_steps: int = 0,
) -> PyTree:
    """J⁻¹b for a linear map on pytrees like b, itself differentiable in both modes; b = 0 gives 0."""
    size = sum(leaf.size for leaf in jax.tree.leaves(b))
    if solver == "auto":
        solver = "dense" if size <= DENSE else "gmres"
    tol = 64 * float(jnp.finfo(dtype(b)).eps) if tol is None else tol
    limit = max_steps or min(max(4 * size, 64), 4096)
    run = partial(solved_flat, solver=solver, tol=tol, limit=limit)
    return jax.lax.custom_linear_solve(matvec, b, run, run)


def solved_flat(matvec: Map, b: PyTree, *, solver: str, tol: Any, limit: int) -> PyTree:
    """J⁻¹b on flat vectors, for b scaled to length 1: tolerances are relative to b."""
    scale = norm(b)
    scale = jnp.where(scale > 0, scale, 1)
    unit, back = ravel_pytree(jax.tree.map(lambda leaf: leaf / scale.astype(leaf.dtype), b))

    def product(v):
        return ravel_pytree(matvec(back(v)))[0]

    if solver == "dense":
        rows = jax.vmap(product)(jnp.eye(unit.size, dtype=unit.dtype))
        found = jnp.linalg.lstsq(rows.T, unit)[0]
    elif solver == "neumann":
        found = _neumann(product, unit, tol, limit)
    else:
        tags = lx.positive_semidefinite_tag if solver == "cg" else ()
        operator = lx.FunctionLinearOperator(product, jax.eval_shape(lambda: unit), tags)
        method = lx.CG(tol, tol, max_steps=limit) if solver == "cg" else lx.GMRES(tol, tol, max_steps=limit)
        # The answer at the limit is used as it stands; it is finite, and its residual can be had.
        found = lx.linear_solve(operator, unit, method, throw=False).value
    return jax.tree.map(lambda leaf: leaf * scale.astype(leaf.dtype), back(found))


def _neumann(product: Map, b: Any, tol: Any, limit: int) -> Any:
    """Σ_{k < limit} (I − J)^k b, until a term is no longer felt."""

    def going(carry):
        _, term, k = carry
        return (k < limit) & (norm(term) > tol) & jnp.isfinite(norm(term))

    def add(carry):
        total, term, k = carry
        term = term - product(term)
        return total + term, term, k + 1

    return jax.lax.while_loop(going, add, (b, b, jnp.int32(0)))[0]


class Hoisted(eqx.Module):
    """A function with the arrays that it closed over."""

    function: Callable[..., Any]
    arrays: list[Any]

    def __call__(self, x: PyTree) -> Any:
        """The function's value."""
        return self.function(x, *self.arrays)


def has_optimality(problem: Any) -> bool:
    """Whether a problem states the equation that its solutions solve."""
    return isinstance(problem, Composite) or callable(getattr(problem, "optimality", None))


def optimality(problem: Any, x: PyTree, step: Scalar) -> PyTree:
    """x − prox_{th}(x − t∇f(x)) of a `Composite`; of another problem its own ``optimality(x, step)``."""
    if not isinstance(problem, Composite):
        return problem.optimality(x, step)
    point = optax.tree.add_scale(x, -step, problem.smooth.gradient(x))
    return optax.tree.sub(x, problem.penalty.prox(point, step))


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def attach(static: Hashable, x: PyTree, objective: Scalar, step: Scalar, dynamic: list[Any]) -> tuple[PyTree, Scalar]:
    """The solution x and its objective, with their derivatives by the arrays of ``join(dynamic, static)[0]``."""
    return x, objective


@partial(attach.defjvp, symbolic_zeros=True)
def _attach_jvp(static: Any, primals: Any, tangents: Any) -> tuple[Any, Any]:
    x, objective = attach(static, *primals)  # attached again, for derivatives of this derivative
    _refuse_hidden(tangents[0])
    live, along = _felt(tangents[3])
    return (x, objective), _solution_tangent(static, live, x, primals[2], primals[3], along)


@partial(jax.jit, static_argnums=(0, 1))
def _solution_tangent(
    static: Any, live: tuple[bool, ...], x: PyTree, step: Scalar, dynamic: list[Any], along: list[Any]
) -> tuple[PyTree, Scalar]:
    problem = join(dynamic, static)[0]
    step = _usable_step(problem, x, step)
    dx = _tangent(lambda y, d: optimality(join(d, static)[0], y, step), "auto", x, dynamic, live, along)
    through_x = jax.jvp(problem.objective, (x,), (dx,))[1]
    return dx, through_x + _pushforward(lambda d: join(d, static)[0].objective(x), dynamic, live, along)


def _usable_step(problem: Any, x: PyTree, step: Scalar) -> Scalar:
    """The run's step, or 1/L where that is shorter or there is none: it sets the conditioning, not the derivative."""
    usable = (step > 0) & jnp.isfinite(step)
    if not isinstance(problem, Composite):
        return jnp.where(usable, step, 1)
    known = problem.smooth.lipschitz()
    natural = 1 / (problem.smooth.curvature(x) if known is None else like(known, x))
    return jax.lax.stop_gradient(jnp.where(usable, jnp.minimum(step, natural), natural))


def split(tree: PyTree) -> tuple[list[Any], Hashable]:
    """Numbers and arrays, which are traced, apart from all that shapes the program."""
    leaves, structure = jax.tree.flatten(tree)
    traced = tuple(eqx.is_array_like(leaf) for leaf in leaves)
    rest = tuple(None if t else leaf for t, leaf in zip(traced, leaves, strict=True))
    return [leaf for t, leaf in zip(traced, leaves, strict=True) if t], (structure, traced, rest)


def join(dynamic: list[Any], static: Any) -> Any:
    """What `split` took apart."""
    structure, traced, rest = static
    numbers = iter(dynamic)
    return jax.tree.unflatten(structure, [next(numbers) if t else leaf for t, leaf in zip(traced, rest, strict=True)])


def closes_over_tracers(function: Any, seen: frozenset[int] = frozenset()) -> bool:
    """Whether a plain function (or partial) holds a tracer, in its closure or in that of a function in it."""
    if id(function) in seen:
        return False
    seen |= {id(function)}
    held = [getattr(function, name, None) for name in ("func", "args", "keywords")] if callable(function) else []
    for cell in getattr(function, "__closure__", None) or ():
        try:
            held.append(cell.cell_contents)
        except ValueError:  # a name that is not bound yet
            continue
    leaves = jax.tree.leaves(held)
    return any(isinstance(leaf, Tracer) or closes_over_tracers(leaf, seen) for leaf in leaves)
