"""Perturbed descent whose noise avoids the half-lines already visited, as a self-repelling walk does.

Where noise is added, coordinate i goes to the right with chance w(R_i)/(w(L_i) + w(R_i)): L_i and R_i count the last
iterates to its left and right, and w(n) = (1 + n)^(−aversion) falls. Only the signs are chosen so; with aversion 0 the
noise is uniform, and the method is `perturbed_gd` or `perturbed_agd` with the same random numbers.
Cost: theirs, and a window of past iterates in memory. Source: Guo, Han, Tajrobehkar & Tang, "Escaping saddle points
efficiently with occupation-time-adapted perturbations" (2020), section 3.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Key

from corollary.core import validation
from corollary.core.precision import follows_input
from corollary.core.solution import Solution
from corollary.optim._tree import at_least_zero, like
from corollary.optim.escape._noise import Function, asked
from corollary.optim.escape._perturbed_agd import accelerate
from corollary.optim.escape._perturbed_gd import descend


@follows_input
def occupation_time_pgd(
    f: Function,
    x0: Any,
    *,
    lipschitz: Any,
    rho: Any,
    eps: Any,
    lower: Any,
    key: Key[Array, ""],
    accelerated: bool = False,
    aversion: Any = 1.0,
    window: int = 64,
    failure: Any = 0.1,
    c: Any = 1.0,
    max_steps: int = 100_000,
    history: bool = False,
) -> Solution:
    """Perturbed (accelerated) gradient descent with noise that goes where the run has not been.

    Use it like `perturbed_gd`. Its theorem asks that each side keeps a chance away from 0, which a large `aversion`
    takes from it: what counts are the certificates of the answer. Cost: O(window · d) more memory and time a push.

    Parameters
    ----------
    f, x0, lipschitz, rho, eps, lower, key, failure, c, max_steps, history
        As in `perturbed_gd`.
    accelerated
        On top of `perturbed_agd` rather than `perturbed_gd`.
    aversion
        β ≥ 0 in w(n) = (1 + n)^(−β); 0: uniform noise.
    window
        How many past iterates are counted.

    Returns
    -------
    Solution
        That of `perturbed_gd` or `perturbed_agd`.

    Raises
    ------
    InputError
        For an x0 that is not finite, and settings out of range.

    Notes
    -----
    Certificates: those of `perturbed_gd` or `perturbed_agd`. Source: Guo et al. (2020), algorithms 1 and 2.

    Examples
    --------
    >>> def f(x):
    ...     return x[0] ** 2 / 2 - x[1] ** 2 / 2 + x[1] ** 4 / 4
    >>> asked = {"lipschitz": 3.0, "rho": 8.0, "eps": 0.1, "lower": -0.25}
    >>> import jax
    >>> bool(occupation_time_pgd(f, [0.0, 0.0], key=jax.random.key(0), **asked).converged)
    True
    """
    x0, setting = asked(x0, lipschitz, rho, eps, lower, failure, c, max_steps)
    for name, value in (("accelerated", accelerated), ("history", history)):
        validation.flag(name, value)
    at_least_zero("aversion", aversion)
    validation.integer(1)("window", window)
    run = accelerate if accelerated else descend
    return run(f, x0, setting, like(aversion, x0), key, jnp.asarray(max_steps), max_steps if history else 0, window)
