"""When stochastic gradients are cheaper than full ones: n/ε against 1/ε² gradients of single examples.

For a mean of n convex losses to accuracy ε, gradient descent takes LR²/(2ε) steps of n gradients each, SGD (RG/ε)² of
one gradient each, with steps R/(G√k): below n = C/ε, C = 2G²/L, gradient descent is cheaper, above it SGD. With strong
convexity it is nκ log(LR²/(2ε)) against 2G²/(με), and the crossover moves to n ~ 1/(ε log(1/ε)). These count what the
theorems promise; `gradient_counts` counts what a run needs.
Source: Beck & Teboulle (2009), theorem 3.1; Nemirovski, Juditsky, Lan & Shapiro (2009), eq. (2.24); Lacoste-Julien,
Schmidt & Bach (2012), eq. (10), for 2G²/(μ(T + 1)).
"""

from __future__ import annotations

from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate
from corollary.core.precision import follows_input
from corollary.core.solution import Solution, Status
from corollary.optim._tree import at_least_zero

COUNTS = "Beck & Teboulle (2009), theorem 3.1; Nemirovski, Juditsky, Lan & Shapiro (2009), eq. (2.24)"


class Crossover(eqx.Module):
    """The two counts of single-example gradients, and which is smaller.

    Attributes
    ----------
    gradient_descent, sgd
        Gradients of single examples that suffice for accuracy ε.
    crossover
        The n from which SGD is the cheaper one at this ε.
    choice
        ``"gradient descent"`` or ``"sgd"``.
    """

    gradient_descent: float
    sgd: float
    crossover: float
    choice: Literal["gradient descent", "sgd"]


def sgd_gd_crossover(
    n: int,
    epsilon: float,
    *,
    lipschitz: float = 1.0,
    distance: float = 1.0,
    second_moment: float = 1.0,
    strong_convexity: float | None = None,
) -> Crossover:
    """How many single-example gradients gradient descent and SGD need at most, and which to choose.

    Parameters
    ----------
    n
        Examples.
    epsilon
        Accuracy f − f* (in the mean, for SGD's averaged iterate).
    lipschitz, distance, second_moment
        L of the full gradient, R = ‖x0 − x*‖, and G with E‖g‖² ≤ G².
    strong_convexity
        μ, for the counts with the logarithm: n(L/μ) log(LR²/(2ε)) against 2G²/(με).

    Examples
    --------
    >>> sgd_gd_crossover(100, 0.01).choice, sgd_gd_crossover(1000, 0.01).choice
    ('gradient descent', 'sgd')
    >>> sgd_gd_crossover(100, 0.01).crossover
    200.0
    """
    validation.integer(1)("n", n)
    numbers = {"epsilon": epsilon, "lipschitz": lipschitz, "distance": distance, "second_moment": second_moment}
    for name, value in numbers.items():
        validation.number(0.0, open_low=True)(name, value)
    validation.number(0.0, lipschitz, open_low=True, none=True)("strong_convexity", strong_convexity)
    L, R, G = lipschitz, distance, second_moment
    start = L * R**2 / 2
    if strong_convexity is None:
        steps, sgd = start / epsilon, (R * G / epsilon) ** 2
    else:
        # f(x_k) − f* ≤ (1 − μ/L)^k LR²/2; the mean weighted by t + 1 with steps 2/(μ(t + 1)): 2G²/(μ(T + 1)).
        steps = L / strong_convexity * max(np.log(start / epsilon), 0.0)
        sgd = 2 * G**2 / (strong_convexity * epsilon)
    crossover = float(sgd / steps) if steps > 0 else float("inf")
    choice: Literal["gradient descent", "sgd"] = "sgd" if n > crossover else "gradient descent"
    return Crossover(float(n * steps), float(sgd), crossover, choice)


@follows_input
def gradient_counts(
    A: Any, b: Any, epsilon: Any, *, max_steps: int = 20_000, runs: int = 16, key: Key[Array, ""]
) -> Solution:
    """Single-example gradients that gradient descent and SGD take on ½ mean (a_i x − b_i)², from 0 to f − f* ≤ ε.

    Gradient descent has the step 1/L; SGD samples one row a step, with steps R/(G√k) and the average of its iterates
    (G from the rows at the start and at x*).

    Parameters
    ----------
    A, b
        Matrix (n, p) of full column rank and right-hand side (n,).
    epsilon
        Accuracy > 0.
    max_steps
        Limit for each method.
    runs, key
        SGD's runs, whose mean gap decides.

    Returns
    -------
    Solution
        ``value`` is (gradients of gradient descent, gradients of SGD); ``stats`` the ``crossover`` of these two counts
        in n, the theorems' ``bounds`` and the constants. Status MAX_STEPS where a method did not get there.

    Notes
    -----
    Certificate ``gradient_descent`` (theorem): its count ≤ n⌈LR²/(2ε)⌉.

    Examples
    --------
    >>> import jax, numpy as np
    >>> A = np.random.default_rng(0).normal(size=(50, 3))
    >>> counts = gradient_counts(A, A @ np.ones(3), 0.05, key=jax.random.key(0))
    >>> bool(counts.converged), bool(counts.holds), int(counts.value[0]) % 50
    (True, True, 0)
    """
    A, b = validation.matrix("A", A), validation.vector("b", b)
    validation.same_length("A", A, "b", b)
    at_least_zero("epsilon", epsilon, positive=True)
    validation.integer(1)("max_steps", max_steps)
    validation.integer(2)("runs", runs)
    epsilon = jnp.asarray(epsilon).astype(A.dtype)
    counts, reached, constants = _counts(A, b.astype(A.dtype), epsilon, jax.random.split(key, runs), max_steps)
    n, (L, R, G) = A.shape[0], constants
    bounds = jnp.stack([n * jnp.ceil(L * R**2 / (2 * epsilon)), jnp.ceil((R * G / epsilon) ** 2)])
    value = counts * jnp.asarray([n, 1], jnp.int32)
    measured = value[0].astype(A.dtype)
    known = (Assumption("L = ‖A‖²/n", checked=True), Assumption("A has full column rank"))
    claim = "gradients of gradient descent <= n⌈LR²/(2ε)⌉"
    certificates = {
        "gradient_descent": Certificate(
            claim, measured, jnp.maximum(bounds[0], n), "theorem", COUNTS, assumptions=known
        )
    }
    crossover = counts[1].astype(A.dtype) / jnp.maximum(counts[0], 1).astype(A.dtype)
    stats = {"bounds": bounds, "crossover": crossover, "lipschitz": L, "distance": R, "second_moment": G}
    return Solution(value, certificates, Status.of(jnp.all(reached)), jnp.max(counts), stats)


@eqx.filter_jit
def _counts(
    A: Float[Array, "n p"], b: Float[Array, " n"], epsilon: Float[Array, ""], keys: Key[Array, " r"], max_steps: int
) -> tuple[Int[Array, " 2"], Any, Any]:
    n = A.shape[0]
    best = jnp.linalg.lstsq(A, b)[0]
    L, R = jnp.linalg.eigvalsh(A.T @ A / n)[-1], jnp.linalg.norm(best)

    def loss(x):
        return jnp.mean((A @ x - b) ** 2) / 2

    def second(x):
        return jnp.mean(jnp.sum((A * (A @ x - b)[:, None]) ** 2, 1))

    G = jnp.sqrt(jnp.maximum(second(jnp.zeros_like(best)), second(best)))
    least = loss(best)

    descent = optax.sgd(1 / L)
    stochastic = optax.sgd(lambda k: R / G / jnp.sqrt(jnp.asarray(k + 1).astype(A.dtype)))

    def full(carry):
        x, state, k = carry
        updates, state = descent.update(jax.grad(loss)(x), state)
        return optax.apply_updates(x, updates), state, k + 1

    def single(carry):
        x, average, state, k = carry

        def one(x, average, state, key):
            i = jax.random.randint(jax.random.fold_in(key, k), (), 0, n, jnp.int32)
            updates, state = stochastic.update(A[i] * (A[i] @ x - b[i]), state)
            return optax.apply_updates(x, updates), average + (x - average) / (k + 1).astype(x.dtype), state

        x, average, state = jax.vmap(one)(x, average, state, keys)
        return x, average, state, k + 1

    zero, origin = jnp.int32(0), jnp.zeros_like(best)
    x, _, k = jax.lax.while_loop(
        lambda c: (loss(c[0]) - least > epsilon) & (c[2] < max_steps), full, (origin, descent.init(origin), zero)
    )
    many = jnp.zeros((keys.shape[0], best.size), A.dtype)
    _, average, _, m = jax.lax.while_loop(
        lambda c: (jnp.mean(jax.vmap(loss)(c[1])) - least > epsilon) & (c[3] < max_steps),
        single,
        (many, many, jax.vmap(stochastic.init)(many), zero),
    )
    reached = jnp.stack([loss(x), jnp.mean(jax.vmap(loss)(average))]) - least <= epsilon
    return jnp.stack([k, m]), reached, (L, R, G)
