"""Every smooth solver on the standard functions, from many starts, in both precisions and any units.

What is asked: it converges with its certificate, or it says that it did not; none reports success away from a
stationary point. The gradient is computed again, in float64, at the point returned.
"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from corollary.optim import (
    LBFGS,
    BarzilaiBorwein,
    Composite,
    CubicNewton,
    GradientDescent,
    Nesterov,
    Newton,
    NewtonCG,
    NonlinearCG,
    RegularizedNewton,
    SmoothTerm,
    TrustRegion,
    functions,
    minimize,
)

N, STARTS = 4, 3
# All of at most four variables, dealt into three groups: a solver's compiled program holds one.
FUNCTIONS = [f for f in functions.collection().values() if f.dimension <= N]
GROUPS = [FUNCTIONS[g::3] for g in range(3)]
UNITS = [(1.0, 1.0), (1e12, 1.0), (1e-12, 1.0), (1.0, 1e12), (1.0, 1e-12)]


def branch(f):
    """f on its own variables, ½‖·‖² on the rest."""

    def value(x):
        inner = f.function(x[: f.dimension], *(jnp.asarray(p).astype(x.dtype) for p in f.parameters))
        return inner + jnp.sum(jnp.square(x[f.dimension :])) / 2

    return value


@functools.partial(jax.jit, static_argnums=0)  # traced once, however often a solver asks for it
def any_of(group, index, units, z):
    return units[0] * jax.lax.switch(index, [branch(f) for f in GROUPS[group]], z / units[1])


class AnyOf(SmoothTerm):
    """One of a group of functions, by a traced number and in traced units, so that they share a compiled program."""

    group: int = eqx.field(static=True)
    index: jax.Array
    units: jax.Array

    def loss(self, z):
        return any_of(self.group, self.index, self.units, z)

    def forward(self, x):
        return x

    def adjoint(self, theta):
        return theta

    def dual(self, z):
        return jax.grad(self.loss)(z)

    def value_and_gradient(self, x):
        return jax.value_and_grad(self.loss)(x)

    def bregman(self, new, z):
        return self.loss(new) - self.loss(z) - optax.tree.vdot(self.dual(z), new - z)


def starts(f):
    """The usual start, and points around it."""
    rng = np.random.default_rng(len(f.name))
    x0 = np.concatenate([f.x0, np.zeros(N - f.dimension)])
    shifts = rng.normal(size=(STARTS - 1, N)) * 0.3 * (np.abs(x0).max() + 0.1)
    return np.concatenate([x0[None], x0 + shifts])


@functools.cache
def exact_gradient(group):
    """∇f in float64, in plain units, with ‖|∇²f||x|‖, which says how far rounding of x can move it."""

    def both(index, x):
        term = AnyOf(group, index, jnp.ones(2))
        return term.dual(x), jnp.abs(jax.hessian(term.loss)(x)) @ jnp.abs(x)

    return jax.jit(jax.vmap(both, in_axes=(None, 0)))


# The solver, its limit of steps, the precision, the group, the least share of runs that have to succeed.
CASES = {
    "LBFGS": (LBFGS(), 500, "float64", 0, 0.9),
    "NonlinearCG": (NonlinearCG(), 500, "float64", 1, 0.3),
    "TrustRegion steihaug": (TrustRegion("steihaug"), 200, "float64", 2, 0.9),
    "GradientDescent": (GradientDescent(), 300, "float32", 0, 0.1),
    "BarzilaiBorwein": (BarzilaiBorwein(), 300, "float32", 2, 0.3),
    "Nesterov": (Nesterov(), 300, "float64", 2, 0.1),
    "LBFGS float32": (LBFGS(), 500, "float32", 1, 0.7),
    "Newton": (Newton(), 100, "float64", 1, 0.9),
    "RegularizedNewton": (RegularizedNewton("absolute"), 100, "float32", 0, 0.7),
    "NewtonCG": (NewtonCG(), 150, "float64", 0, 0.7),
    "TrustRegion exact": (TrustRegion(), 200, "float32", 2, 0.9),
    "TrustRegion dogleg": (TrustRegion("dogleg"), 200, "float64", 1, 0.7),
    "CubicNewton": (CubicNewton(), 200, "float64", 0, 0.9),
}
FAST = list(CASES)[:3]


def table(solver, max_steps, dtype, group, tol):
    """For each function: the points reached from every start in every unit, and what the solver says of them."""

    @jax.jit
    def run(index, xs):
        def one(x0, units):
            term = AnyOf(group, index, units)
            solution = minimize(Composite(term), x0 * units[1], solver, tol=tol, max_steps=max_steps)
            return solution.value / units[1], solution.status, solution.certificates["stationarity"]

        units = jnp.asarray(np.array(UNITS, dtype))
        return jax.vmap(lambda u: jax.vmap(lambda x: one(x, u))(xs))(units)

    found, exact = [], exact_gradient(group)
    for i, f in enumerate(GROUPS[group]):
        xs = starts(f)
        x, status, certificate = jax.tree.map(np.asarray, run(jnp.int32(i), jnp.asarray(xs.astype(dtype))))
        flat = jnp.asarray(x.reshape(-1, N).astype(float))
        gradient, blur = (np.asarray(a).reshape(*status.shape, -1) for a in exact(jnp.int32(i), flat))
        first = np.linalg.norm(exact(jnp.int32(i), jnp.asarray(xs))[0], axis=1)
        found.append(
            (f.name, x, status, certificate, np.linalg.norm(gradient, axis=-1), np.linalg.norm(blur, axis=-1), first)
        )
    return found


@pytest.mark.covers("newton", "regularized-newton", "newton-cg", "trust-region", "steihaug-cg")
@pytest.mark.parametrize("name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in CASES])
def test_success_is_stationary_and_the_rest_is_told(name, x64):
    solver, max_steps, dtype, group, share = CASES[name]
    eps, tol = np.finfo(dtype).eps, 1e-8 if dtype == "float64" else 1e-4
    solved = []
    for function, x, status, certificate, gradient, blur, first in table(solver, max_steps, dtype, group, tol):
        success = status == 0
        assert np.all(np.isfinite(x)), function
        assert np.all(certificate.holds[success]), function
        # units of f over x: the certificate's numbers, taken back to plain units
        plain = np.array([v / o for o, v in UNITS])[:, None]
        bound = certificate.bound * plain
        limit = np.maximum(tol * 1.01 * np.maximum(first, bound / tol), 0) + 64 * eps * blur
        assert np.all(gradient[success] <= limit[success]), (function, gradient, limit)
        # and that bound is a small share of the gradient at the start, up to rounding: no success by a loose scale
        assert np.all((gradient <= 100 * tol * np.maximum(first, 1e-3) + 256 * eps * blur)[success]), (
            function,
            gradient,
        )
        solved.append(success.mean())
    assert np.mean(solved) >= share, dict(zip([f.name for f in GROUPS[group]], solved, strict=True))
