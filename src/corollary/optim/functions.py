"""Standard test functions of smooth optimisation: value, gradient, Hessian, start, known minimum and minimisers.

Use them to try a solver out: narrow valleys (Rosenbrock, Beale), a singular Hessian at the answer (Powell), many minima
(Himmelblau, Rastrigin, Styblinski-Tang), the functions that are worst for first-order methods (Nesterov), quadratics of
any condition number, and eighteen of Moré, Garbow & Hillstrom's least-squares problems, f(x) = Σ r_i(x)². Each is a
smooth term, so that `minimize` takes it as it is, and `rescaled` changes the units of the objective or the variables.
Cost: O(n) to O(n m) a value. Source: Moré, Garbow & Hillstrom, "Testing unconstrained optimization software" (1981);
Nesterov, "Lectures on Convex Optimization" (2018), section 2.1.2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jaxtyping import Array, Float, PyTree

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.optim._composite import Composite
from corollary.optim._smooth import SmoothTerm
from corollary.optim._tree import at_least_zero, finite, like
from corollary.optim.penalties._base import Scalar

Vector = Float[Array, " n"]
Residuals = Float[Array, " m"]


@final
class StandardFunction(SmoothTerm):
    """A test function with what is known of it; ``minimize(f, f.x0)`` takes it as it is.

    Attributes
    ----------
    name
        What it is called.
    x0
        The usual start, of length `dimension`.
    minimum
        The least value.
    minimisers
        Known global minimisers (k, n); some functions have local ones, or lines of them, besides.

    Examples
    --------
    >>> from corollary.optim import functions, minimize
    >>> f = functions.beale()
    >>> float(f(f.x0)), f.minimisers.tolist()
    (14.203125, [[3.0, 0.5]])
    """

    name: str
    function: Callable[..., Scalar]
    parameters: tuple[Any, ...]
    x0: Any
    minimum: Any
    minimisers: Any
    residual: Callable[..., Residuals] | None = None
    units: tuple[Any, Any] = (1.0, 1.0)  # of the objective and of the variables

    @property
    def dimension(self) -> int:
        """The number of variables."""
        return len(self.x0)

    @property
    def problem(self) -> Composite:
        """The function as a `Composite` without a penalty."""
        return Composite(self)

    def rescaled(self, objective: Any = 1.0, variables: Any = 1.0) -> StandardFunction:
        """The same function in other units: objective·f(x/variables), with its residuals, start and minimisers."""
        at_least_zero("objective", objective, positive=True)
        at_least_zero("variables", variables, positive=True)
        return StandardFunction(
            self.name,
            self.function,
            self.parameters,
            self.x0 * variables,
            self.minimum * objective,
            self.minimisers * variables,
            None
            if self.residual is None
            else jax.tree_util.Partial(_scaled_residual, self.residual, objective**0.5, variables),
            (self.units[0] * objective, self.units[1] * variables),
        )

    @follows_input
    def __call__(self, x: Any) -> Any:
        """f(x)."""
        return self.loss(finite("x", x))

    @follows_input
    def gradient(self, x: Any) -> Any:
        """∇f(x)."""
        return self.dual(finite("x", x))

    @follows_input
    def hessian(self, x: Any) -> Any:
        """∇²f(x), (n, n)."""
        return jax.jacfwd(self.dual)(finite("x", x))

    def forward(self, x: PyTree) -> PyTree:
        """x itself."""
        return x

    def adjoint(self, theta: PyTree) -> PyTree:
        """θ itself."""
        return theta

    def loss(self, z: PyTree) -> Scalar:
        """f(z)."""
        objective, variables = (like(u, z) for u in self.units)
        return objective * self.function(z / variables, *(jnp.asarray(p).astype(z.dtype) for p in self.parameters))

    def dual(self, z: PyTree) -> PyTree:
        """∇f(z)."""
        return jax.grad(self.loss)(z)

    def value_and_gradient(self, x: PyTree) -> tuple[Scalar, PyTree]:
        """Both from one pass forward and one back."""
        return jax.value_and_grad(self.loss)(x)

    def bregman(self, new: PyTree, z: PyTree) -> Scalar:
        """By its definition."""
        value, gradient = self.value_and_gradient(z)
        return self.loss(new) - value - optax.tree.vdot(gradient, new - z)


def rosenbrock(a: Any = 1.0, b: Any = 100.0, n: int = 2) -> StandardFunction:
    """Σ b(x_{i+1} − x_i²)² + (a − x_i)²: a narrow curved valley, with its only minimum at (a, a²) for n = 2.

    At (1, 1), with a = 1 and b = 100, the Hessian is [[802, −400], [−400, 200]] with condition number 2508. For n ≥ 4
    there is a second, local minimum near (−1, 1, …, 1).

    Parameters
    ----------
    a, b
        Its constants; a has to be 1 for n > 2.
    n
        Number of variables, at least 2.

    Returns
    -------
    StandardFunction
        With `gradient`, `hessian`, `minimisers`, and `problem` for a solver.

    Raises
    ------
    InputError
        For b ≤ 0, n < 2, or a ≠ 1 where n > 2.

    Notes
    -----
    Source: Rosenbrock, "An automatic method for finding the greatest or least value of a function" (1960).

    Examples
    --------
    >>> f = rosenbrock()
    >>> f.hessian([1.0, 1.0]).round(6).tolist()
    [[802.0, -400.0], [-400.0, 200.0]]
    """
    validation.integer(2)("n", n)
    for number in (a, b):
        if not isinstance(number, Tracer):
            finite("a, b", number)
    at_least_zero("b", b, positive=True)
    if n > 2 and not isinstance(a, Tracer) and a != 1:
        raise InputError(f"a: found {a!r}, expected 1 for n > 2 (else the minimiser has no closed form)")
    best = jnp.stack([jnp.asarray(a), jnp.asarray(a) ** 2]) if isinstance(a, Tracer) else np.asarray([a, a**2], float)
    best = best if n == 2 else np.ones(n)
    x0 = np.where(np.arange(n) % 2 == 0, -1.2, 1.0)
    return StandardFunction("Rosenbrock", _rosenbrock, (a, b), x0, 0.0, best[None])


def _rosenbrock(x: Vector, a: Scalar, b: Scalar) -> Scalar:
    return jnp.sum(b * jnp.square(x[1:] - jnp.square(x[:-1])) + jnp.square(a - x[:-1]))


def nesterov_worst(n: int = 20, lipschitz: Any = 1.0) -> StandardFunction:
    """L/4·(½[x_1² + Σ(x_i − x_{i+1})² + x_n²] − x_1): from 0, no first-order method does well before step n/2.

    Parameters
    ----------
    n
        Number of variables.
    lipschitz
        L > 0.

    Returns
    -------
    StandardFunction
        Minimiser 1 − i/(n + 1), minimum −L/8·(1 − 1/(n + 1)).

    Notes
    -----
    Source: Nesterov (2018), section 2.1.2, equation (2.1.9).

    Examples
    --------
    >>> float(nesterov_worst(1)([0.5]))
    -0.0625
    """
    validation.integer(1)("n", n)
    at_least_zero("lipschitz", lipschitz, positive=True)
    minimum = -lipschitz / 8 * (1 - 1 / (n + 1))
    best = 1 - np.arange(1, n + 1) / (n + 1)
    return StandardFunction("Nesterov's worst", _nesterov, (lipschitz,), np.zeros(n), minimum, best[None])


def _nesterov(x: Vector, lipschitz: Scalar) -> Scalar:
    ends = jnp.square(x[0]) + jnp.square(x[-1])
    return lipschitz / 4 * ((ends + jnp.sum(jnp.square(x[1:] - x[:-1]))) / 2 - x[0])


def quadratic(n: int = 10, condition: Any = 1e6) -> StandardFunction:
    """½(x − 1)ᵀA(x − 1) with A's eigenvalues spread evenly in logarithm over [1/κ, 1], in rotated axes.

    Parameters
    ----------
    n
        Number of variables, at least 2.
    condition
        κ ≥ 1, say up to 1e12.

    Returns
    -------
    StandardFunction
        Minimiser (1, …, 1), minimum 0, start (2, 3, 2, 3, …).

    Examples
    --------
    >>> float(quadratic(4, 1e12)([1.0, 1.0, 1.0, 1.0]))
    0.0
    """
    validation.integer(2)("n", n)
    if not isinstance(condition, Tracer):
        validation.number(1.0)("condition", condition)
    x0 = 2.0 + np.arange(n) % 2
    return StandardFunction("quadratic", _quadratic, (condition,), x0, 0.0, np.ones((1, n)))


def _quadratic(x: Vector, condition: Scalar) -> Scalar:
    n = x.shape[0]
    v = jnp.sqrt(jnp.arange(1, n + 1, dtype=x.dtype))
    v, moved = v / jnp.linalg.norm(v), x - 1
    turned = moved - 2 * v * jnp.dot(v, moved)
    return jnp.sum(condition ** -jnp.linspace(0, 1, n, dtype=x.dtype) * jnp.square(turned)) / 2


def himmelblau() -> StandardFunction:
    """(x² + y − 11)² + (x + y² − 7)²: four minima of value 0, four saddles, one maximum.

    Examples
    --------
    >>> float(himmelblau()([3.0, 2.0]))
    0.0
    """
    best = [
        [3.0, 2.0],
        [-2.805118086952745, 3.131312518250573],
        [-3.779310253377747, -3.283185991286170],
        [3.584428340330492, -1.848126526964404],
    ]
    return _squares("Himmelblau", _himmelblau, [0.0, 0.0], 0.0, best)


def _himmelblau(x: Vector) -> Residuals:
    return jnp.stack([x[0] ** 2 + x[1] - 11, x[0] + x[1] ** 2 - 7])


def rastrigin(n: int = 2) -> StandardFunction:
    """10n + Σ x_i² − 10 cos 2πx_i: a minimum near every point of integers, the least of them at 0.

    Examples
    --------
    >>> float(rastrigin(3)([0.0, 0.0, 0.0]))
    0.0
    """
    validation.integer(1)("n", n)
    return StandardFunction("Rastrigin", _rastrigin, (), np.resize([2.2, -1.3], n), 0.0, np.zeros((1, n)))


def _rastrigin(x: Vector) -> Scalar:
    return jnp.sum(jnp.square(x) + 20 * jnp.square(jnp.sin(jnp.pi * x)))  # 10(1 − cos 2t) = 20 sin² t


def styblinski_tang(n: int = 2) -> StandardFunction:
    """½Σ x⁴ − 16x² + 5x: 2ⁿ minima, the least of them at −2.9035 in each variable.

    Examples
    --------
    >>> f = styblinski_tang(2)
    >>> round(float(f.minimum), 6)
    -78.332331
    """
    validation.integer(1)("n", n)
    best = np.full((1, n), -2.903534027771177)
    minimum = -39.16616570377142 * n
    return StandardFunction("Styblinski-Tang", _styblinski_tang, (), np.zeros(n), minimum, best)


def _styblinski_tang(x: Vector) -> Scalar:
    return jnp.sum(x**4 - 16 * x**2 + 5 * x) / 2


def beale() -> StandardFunction:
    """Beale's function, with sharp peaks at the corners; minimum 0 at (3, ½).

    Examples
    --------
    >>> float(beale()([3.0, 0.5]))
    0.0
    """
    return _squares("Beale", _beale, [1.0, 1.0], 0.0, [[3.0, 0.5]])


def _beale(x: Vector) -> Residuals:
    powers = jnp.stack([x[1], x[1] ** 2, x[1] ** 3])
    return jnp.asarray([1.5, 2.25, 2.625], x.dtype) - x[0] * (1 - powers)


def powell_singular() -> StandardFunction:
    """Powell's function of four variables: the Hessian at the minimum 0 has rank 2, and Newton converges linearly.

    Examples
    --------
    >>> round(float(powell_singular()([3.0, -1.0, 0.0, 1.0])), 9)
    215.0
    """
    return _squares("Powell singular", _powell_singular, [3.0, -1.0, 0.0, 1.0], 0.0, [[0.0] * 4])


def _powell_singular(x: Vector) -> Residuals:
    return jnp.stack([x[0] + 10 * x[1], 5**0.5 * (x[2] - x[3]), (x[1] - 2 * x[2]) ** 2, 10**0.5 * (x[0] - x[3]) ** 2])


def _freudenstein_roth(x: Vector) -> Residuals:
    return jnp.stack([-13 + x[0] + ((5 - x[1]) * x[1] - 2) * x[1], -29 + x[0] + ((x[1] + 1) * x[1] - 14) * x[1]])


def _powell_badly_scaled(x: Vector) -> Residuals:
    return jnp.stack([1e4 * x[0] * x[1] - 1, jnp.exp(-x[0]) + jnp.exp(-x[1]) - 1.0001])


def _brown_badly_scaled(x: Vector) -> Residuals:
    return jnp.stack([x[0] - 1e6, x[1] - 2e-6, x[0] * x[1] - 2])


def _jennrich_sampson(x: Vector) -> Residuals:
    i = jnp.arange(1, 11, dtype=x.dtype)
    return 2 + 2 * i - (jnp.exp(i * x[0]) + jnp.exp(i * x[1]))


def _helical_valley(x: Vector) -> Residuals:
    angle = jnp.arctan2(x[1], x[0]) / (2 * jnp.pi)
    return jnp.stack([10 * (x[2] - 10 * angle), 10 * (jnp.hypot(x[0], x[1]) - 1), x[2]])


BARD = (0.14, 0.18, 0.22, 0.25, 0.29, 0.32, 0.35, 0.39, 0.37, 0.58, 0.73, 0.96, 1.34, 2.10, 4.39)


def _bard(x: Vector) -> Residuals:
    u = jnp.arange(1, 16, dtype=x.dtype)
    v = 16 - u
    return jnp.asarray(BARD, x.dtype) - (x[0] + u / (v * x[1] + jnp.minimum(u, v) * x[2]))


GAUSSIAN = (0.0009, 0.0044, 0.0175, 0.0540, 0.1295, 0.2420, 0.3521, 0.3989)


def _gaussian(x: Vector) -> Residuals:
    y = jnp.asarray(GAUSSIAN + GAUSSIAN[-2::-1], x.dtype)
    t = (8 - jnp.arange(1, 16, dtype=x.dtype)) / 2
    return x[0] * jnp.exp(-x[1] * (t - x[2]) ** 2 / 2) - y


def _box(x: Vector) -> Residuals:
    t = jnp.arange(1, 11, dtype=x.dtype) / 10
    return jnp.exp(-t * x[0]) - jnp.exp(-t * x[1]) - x[2] * (jnp.exp(-t) - jnp.exp(-10 * t))


def _wood(x: Vector) -> Residuals:
    return jnp.stack(
        [
            10 * (x[1] - x[0] ** 2),
            1 - x[0],
            90**0.5 * (x[3] - x[2] ** 2),
            1 - x[2],
            10**0.5 * (x[1] + x[3] - 2),
            10**-0.5 * (x[1] - x[3]),
        ]
    )


KOWALIK = (0.1957, 0.1947, 0.1735, 0.1600, 0.0844, 0.0627, 0.0456, 0.0342, 0.0323, 0.0235, 0.0246)
OSBORNE = (4.0, 2.0, 1.0, 0.5, 0.25, 0.167, 0.125, 0.1, 0.0833, 0.0714, 0.0625)


def _kowalik_osborne(x: Vector) -> Residuals:
    y, u = jnp.asarray(KOWALIK, x.dtype), jnp.asarray(OSBORNE, x.dtype)
    return y - x[0] * (u**2 + u * x[1]) / (u**2 + u * x[2] + x[3])


def _brown_dennis(x: Vector) -> Residuals:
    t = jnp.arange(1, 21, dtype=x.dtype) / 5
    return (x[0] + t * x[1] - jnp.exp(t)) ** 2 + (x[2] + x[3] * jnp.sin(t) - jnp.cos(t)) ** 2


def _watson(x: Vector) -> Residuals:
    t = jnp.arange(1, 30, dtype=x.dtype)[:, None] / 29
    j = jnp.arange(x.shape[0], dtype=x.dtype)
    slope = jnp.sum(j[1:] * x[1:] * t ** (j[1:] - 1), axis=1)
    value = jnp.sum(x * t**j, axis=1)
    return jnp.concatenate([slope - value**2 - 1, x[:1], (x[1] - x[0] ** 2 - 1)[None]])


def _penalty_one(x: Vector) -> Residuals:
    return jnp.concatenate([1e-5**0.5 * (x - 1), (jnp.sum(x**2) - 0.25)[None]])


def _variably_dimensioned(x: Vector) -> Residuals:
    weighted = jnp.sum(jnp.arange(1, x.shape[0] + 1, dtype=x.dtype) * (x - 1))
    return jnp.concatenate([x - 1, weighted[None], weighted[None] ** 2])


def _broyden_tridiagonal(x: Vector) -> Residuals:
    padded = jnp.pad(x, 1)
    return (3 - 2 * x) * x - padded[:-2] - 2 * padded[2:] + 1


# Where no closed form is known: from Newton's method in float64, to the last few digits.
BARD_BEST = [0.08241055974978889, 1.1330360920297213, 2.343695178642537]
KOWALIK_BEST = [0.1928069345790379, 0.1912823287343664, 0.12305650692632085, 0.13606233068379453]
BROWN_DENNIS_BEST = [-11.594439904762165, 13.203630051207202, -0.40343948817685954, 0.2367787744557363]
WATSON_BEST = [
    *[-0.01572508640145832, 1.0124348693691096, -0.23299162595673434],
    *[1.2604300877995975, -1.5137289227222661, 0.9929964324311291],
]
BROYDEN_BEST = [-0.5545767268878384, -0.6394204363373855, -0.5907007854680518, -0.41526837798595817]

MORE_GARBOW_HILLSTROM: dict[str, tuple[Callable[[Vector], Residuals], list[float], float, list[list[float]]]] = {
    "Freudenstein-Roth": (_freudenstein_roth, [0.5, -2.0], 0.0, [[5.0, 4.0]]),
    "Powell badly scaled": (
        _powell_badly_scaled,
        [0.0, 1.0],
        0.0,
        [[1.0981593296998175e-05, 9.106146739866524], [9.106146739866524, 1.0981593296998175e-05]],
    ),
    "Brown badly scaled": (_brown_badly_scaled, [1.0, 1.0], 0.0, [[1e6, 2e-6]]),
    "Jennrich-Sampson": (_jennrich_sampson, [0.3, 0.4], 124.36218235561478, [[0.2578252136703641] * 2]),
    "helical valley": (_helical_valley, [-1.0, 0.0, 0.0], 0.0, [[1.0, 0.0, 0.0]]),
    "Bard": (_bard, [1.0, 1.0, 1.0], 8.214877306578978e-3, [BARD_BEST]),
    "Gaussian": (_gaussian, [0.4, 1.0, 0.0], 1.1279327696191796e-8, [[0.3989561378387567, 1.0000190844878036, 0.0]]),
    "Box": (_box, [0.0, 10.0, 20.0], 0.0, [[1.0, 10.0, 1.0], [10.0, 1.0, -1.0]]),
    "Wood": (_wood, [-3.0, -1.0, -3.0, -1.0], 0.0, [[1.0, 1.0, 1.0, 1.0]]),
    "Kowalik-Osborne": (_kowalik_osborne, [0.25, 0.39, 0.415, 0.39], 3.075056038492382e-4, [KOWALIK_BEST]),
    "Brown-Dennis": (_brown_dennis, [25.0, 5.0, -5.0, -1.0], 85822.20162635637, [BROWN_DENNIS_BEST]),
    "Watson": (_watson, [0.0] * 6, 2.287670053552422e-3, [WATSON_BEST]),
    "penalty I": (_penalty_one, [1.0, 2.0, 3.0, 4.0], 2.2499775008999375e-05, [[0.2500074995875379] * 4]),
    "variably dimensioned": (_variably_dimensioned, [0.75, 0.5, 0.25, 0.0], 0.0, [[1.0] * 4]),
    "Broyden tridiagonal": (_broyden_tridiagonal, [-1.0] * 4, 0.0, [BROYDEN_BEST]),
}


def more_garbow_hillstrom(name: str) -> StandardFunction:
    """One of Moré, Garbow & Hillstrom's problems by name (`MORE_GARBOW_HILLSTROM` lists them), f(x) = Σ r_i(x)².

    Raises
    ------
    InputError
        For an unknown name.

    Examples
    --------
    >>> float(more_garbow_hillstrom("Wood")([-3.0, -1.0, -3.0, -1.0]))
    19192.0
    """
    validation.one_of(*MORE_GARBOW_HILLSTROM)("name", name)
    return _squares(name, *MORE_GARBOW_HILLSTROM[name])


def collection() -> dict[str, StandardFunction]:
    """Every function of this module, at its usual size, by name.

    Examples
    --------
    >>> len(collection())
    24
    """
    own = [rosenbrock(), rosenbrock(n=6), beale(), powell_singular(), himmelblau(), rastrigin(), styblinski_tang()]
    own += [nesterov_worst(6), quadratic(4, 1e12)]
    found = {f.name if f.dimension < 6 else f"{f.name} ({f.dimension})": f for f in own}
    return found | {name: more_garbow_hillstrom(name) for name in MORE_GARBOW_HILLSTROM}


def _squares(
    name: str, residual: Callable[[Vector], Residuals], x0: Any, minimum: float, best: Any
) -> StandardFunction:
    return StandardFunction(
        name, jax.tree_util.Partial(_sum_of_squares, residual), (), np.array(x0), minimum, np.array(best), residual
    )


def _scaled_residual(residual: Callable[[Vector], Residuals], root: Any, variables: Any, x: Vector) -> Residuals:
    return like(root, x) * residual(x / like(variables, x))


def _sum_of_squares(residual: Callable[[Vector], Residuals], x: Vector) -> Scalar:
    return jnp.sum(jnp.square(residual(x)))
