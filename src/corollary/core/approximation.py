"""Validation of an approximation against its exact form, on random small instances where the exact form is affordable.

Use it before trusting a fast method (a sketch, a truncated series, a low-precision kernel) at sizes where nothing exact
can be had. The verdict is a statistical test with a stated confidence, not an eyeballed histogram: were the error above
`tol` on more than a fraction 1 − coverage of the generator's instances, so few failures as were seen would turn up with
probability at most 1 − confidence. Cost: `n_instances` runs of both, vmapped.

Source: C. J. Clopper, E. S. Pearson, Biometrika 26 (1934); S. S. Wilks, Ann. Math. Statist. 12 (1941).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from scipy.special import bdtr, betaincinv

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Solution


class Validation(eqx.Module):
    """How far an approximation was from its exact form on random instances."""

    passed: Bool[np.ndarray, ""] | np.bool_ | bool
    errors: Float[np.ndarray, " n"]  # one per instance, sorted; ∞ where the approximation was not finite
    levels: Float[np.ndarray, " q"]
    quantiles: Float[np.ndarray, " q"]
    upper: Float[np.ndarray, " q"]  # upper confidence limits of the quantiles; ∞ where n is too small for one
    failure_rate: float  # upper confidence limit of P(error > tol)


@follows_input
def validate_approximation(
    exact: Callable[[Any], Any],
    approximate: Callable[[Any], Any],
    generate: Callable[[Any], Any],
    *,
    tol: float,
    key: Any = None,
    n_instances: int = 1000,
    levels: Any = (0.5, 0.9, 0.99),
    coverage: float = 0.99,
    confidence: float = 0.99,
    error: str = "relative",
    traceable: bool = True,
) -> Solution:
    """Error quantiles of an approximation over random instances, and whether it keeps to a tolerance.

    Parameters
    ----------
    exact, approximate
        An instance to an array or a pytree of arrays, both alike.
    generate
        A random key (`jax.random.key`) to an instance: any pytree.
    tol
        Largest error that counts as a success, at least 0; relative unless `error` says otherwise.
    key
        From `jax.random.key`; fixed where it is left out.
    n_instances
        How many instances; at least log(1 − confidence)/log(coverage), 459 by default, or nothing could pass.
    levels
        Which quantiles of the error to report, in [0, 1].
    coverage
        Fraction of instances on which the error must keep to `tol`.
    confidence
        Of the verdict and of the quantiles' upper limits, in (0, 1).
    error
        ``"relative"``: ‖approximate − exact‖₂/‖exact‖₂ over all leaves; ``"absolute"``: the numerator.
    traceable
        False for functions that JAX cannot trace: they are then called once per instance.

    Returns
    -------
    `Solution` whose value is a `Validation`.

    Certificates: ``verdict`` (probabilistic): an upper confidence limit (Clopper-Pearson) of P(error > tol), held
    against 1 − coverage.

    Raises
    ------
    InputError
        Where an option is out of range, the two results differ in shape, or the exact form is not finite.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> found = validate_approximation(
    ...     jnp.sin, lambda x: x - x**3 / 6 + x**5 / 120, lambda key: jax.random.uniform(key, (3,)), tol=1e-3
    ... )
    >>> bool(found.value.passed), bool(found.value.quantiles[1] < 2e-4)
    (True, True)
    """
    validation.number(0)("tol", tol)
    validation.number(0, 1, open_low=True)("coverage", coverage)
    validation.number(0, 1, open_low=True)("confidence", confidence)
    validation.one_of("relative", "absolute")("error", error)
    if coverage == 1 or confidence == 1:
        raise InputError(f"coverage, confidence: found {coverage!r}, {confidence!r}, expected numbers below 1")
    validation.integer(math.ceil(math.log(1 - confidence) / math.log(coverage)))("n_instances", n_instances)
    levels = np.asarray(validation.vector("levels", levels), float)
    if levels.min() < 0 or levels.max() > 1:
        raise InputError(f"levels: found {levels.min():g} to {levels.max():g}, expected numbers in [0, 1]")

    pair = jax.jit(_pair, static_argnums=2)

    def one(key: Any) -> tuple[Any, Any]:
        instance = generate(key)
        return pair(exact(instance), approximate(instance), error == "relative")

    keys = jax.random.split(jax.random.key(0) if key is None else key, n_instances)
    results = jax.jit(jax.vmap(one))(keys) if traceable else _loop(one, keys)
    errors, sound = (np.asarray(r) for r in results)
    if not sound.all():
        raise InputError(f"exact: found NaN or infinity on {int((~sound).sum())} of {n_instances} instances")
    errors = np.sort(np.where(np.isnan(errors), np.inf, errors).astype(float))
    failures = int((errors > tol).sum())
    rate = _upper_rate(failures, n_instances, confidence)
    verdict = Certificate(
        f"P(error > {tol:g}) <= {1 - coverage:.3g} on the generator's instances",
        measured=rate,
        bound=1 - coverage,
        kind="probabilistic",
        confidence=confidence,
        source="Clopper and Pearson (1934)",
    )
    quantiles = errors[np.clip(np.ceil(levels * n_instances).astype(int) - 1, 0, None)]
    # The q-quantile lies below the k-th smallest of n with probability P(Bin(n, q) < k): the least such k, or ∞.
    below = bdtr(np.arange(n_instances), n_instances, levels[:, None])
    upper = np.append(errors, np.inf)[np.sum(below < confidence, axis=1)]
    value = Validation(bool(verdict.holds), errors, levels, quantiles, upper, rate)
    return Solution(value, {"verdict": verdict}, stats={"failures": failures, "instances": n_instances})


def _pair(exact: Any, approximate: Any, relative: bool) -> tuple[Array, Array]:
    """(error, whether the exact result is finite) of one instance, safe from overflow."""
    if jax.tree.structure(exact) != jax.tree.structure(approximate):
        raise InputError("approximate: returned another structure than exact, expected the same")
    wants, gots = ([jnp.asarray(leaf) for leaf in jax.tree.leaves(t)] for t in (exact, approximate))
    for want, got in zip(wants, gots, strict=True):
        if want.shape != got.shape:
            raise InputError(f"approximate: returned shape {got.shape}, expected {want.shape} as exact does")
    dtype = jnp.zeros((), jnp.result_type(float)).dtype
    want = jnp.concatenate([jnp.ravel(w) for w in wants]).astype(dtype)
    got = jnp.concatenate([jnp.ravel(g) for g in gots]).astype(dtype)
    distance, size = _norm(got - want), _norm(want)
    if relative:
        distance = jnp.where(distance == 0, 0, distance / size)  # something against zero is infinitely wrong
    return distance, jnp.all(jnp.isfinite(want))


def _norm(x: Array) -> Array:
    top = jnp.max(jnp.abs(x), initial=0)
    scale = jnp.where((top > 0) & jnp.isfinite(top), top, 1)
    return scale * jnp.sqrt(jnp.sum(jnp.square(x / scale)))


def _loop(one: Callable[[Any], tuple[Any, Any]], keys: Any) -> tuple[np.ndarray, np.ndarray]:
    pairs = [one(key) for key in keys]
    return np.stack([np.asarray(e) for e, _ in pairs]), np.stack([np.asarray(s) for _, s in pairs])


def _upper_rate(failures: int, n: int, confidence: float) -> float:
    """Clopper-Pearson: the p for which P(Bin(n, p) <= failures) = 1 − confidence."""
    return 1.0 if failures == n else float(betaincinv(failures + 1, n - failures, confidence))
