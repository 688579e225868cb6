"""Probe vectors for trace estimation, and what a sample of independent probes says: mean, standard error, interval.

A probe ω has E ωωᵀ = I, so that E ωᵀAω = tr A. For symmetric A one probe has variance

- ``"rademacher"`` (independent signs): 2 (‖A‖_F² − Σ aᵢᵢ²): zero for a diagonal matrix;
- ``"gaussian"``: 2 ‖A‖_F²;
- ``"sphere"`` (uniform, norm √n): 2n/(n+2) (‖A‖_F² − tr(A)²/n): zero for a multiple of the identity.

For any other square A replace A by (A + Aᵀ)/2. The interval is Student's: exact for normal samples, and close to it
where the quadratic form has many terms of similar size (its terms are χ² variables). Source: Avron & Toledo, J. ACM 58
(2011), Lemmas 5 and 9; Girard (1989); Epperly (2024) for the sphere.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from jax.core import Tracer
from jaxtyping import Array, Float, Key

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate
from corollary.core.errors import InputError
from corollary.core.solution import Solution, Status
from corollary.linalg._products import Products, products

DISTRIBUTIONS = ("rademacher", "gaussian", "sphere")
NORMAL = Assumption("the samples are close to normal: A has no few dominating eigenvalues")

Samples = Float[Array | np.ndarray, "probes *entries"]


def square(A: Any, key: Any) -> Products:
    """The products of a square matrix or operator."""
    P = products(A, key)
    if P.shape[0] != P.shape[1]:
        raise InputError(f"A: found shape {P.shape}, expected a square matrix")
    return P


def settings(probes: Any, distribution: Any, tol: Any, confidence: Any) -> None:
    """The checks that all estimators share."""
    validation.integer(2)("probes", probes)
    validation.one_of(*DISTRIBUTIONS)("distribution", distribution)
    confidence_and_tolerance(tol, confidence)


def confidence_and_tolerance(tol: Any, confidence: Any) -> None:
    """A probability strictly between 0 and 1, and a relative tolerance or none."""
    validation.number(0, 1 - 1e-12, open_low=True)("confidence", confidence)
    if not isinstance(tol, Tracer):
        validation.number(0, open_low=True, none=True)("tol", tol)


def draw(key: Key[Array, ""], n: int, probes: int, distribution: str, dtype: Any) -> Float[Array, "n probes"]:
    """`probes` columns of the given distribution, each with E ωωᵀ = I."""
    if distribution == "rademacher":
        return jax.random.rademacher(key, (n, probes), dtype)
    block = jax.random.normal(key, (n, probes), dtype)
    if distribution == "sphere":
        block = block * (n**0.5 / jnp.linalg.norm(block, axis=0))
    return block


def probe_block(P: Products, probes: int, distribution: str, key: Key[Array, ""]) -> Any:
    """Probes on the side where the matrix lies."""
    block = draw(key, P.shape[1], probes, distribution, P.dtype)
    return np.asarray(block) if P.xp is np else block


def student(samples: int, confidence: float) -> float:
    """Half-width of the `confidence` interval in standard errors: Student's quantile with samples − 1 degrees."""
    return float(scipy.stats.t.ppf((1 + confidence) / 2, samples - 1))


def summarise(
    samples: Samples,
    known: Any,
    xp: Any,
    *,
    name: str,
    tol: Any,
    confidence: float,
    source: str,
    assumptions: tuple[Assumption, ...] = (NORMAL,),
    stats: dict[str, Any] | None = None,
) -> Solution:
    """`known` + the mean of independent samples, with its standard error and interval as a certificate."""
    count = samples.shape[0]
    value = known + xp.mean(samples, axis=0)
    stderr = xp.sqrt(xp.sum((samples - xp.mean(samples, axis=0)) ** 2, axis=0) / (count * (count - 1)))
    return with_interval(
        value,
        stderr,
        student(count, confidence) * stderr,
        xp,
        name=name,
        tol=tol,
        confidence=confidence,
        source=source,
        assumptions=assumptions,
        stats=stats,
    )


def with_interval(
    value: Any,
    stderr: Any,
    half_width: Any,
    xp: Any,
    *,
    name: str,
    tol: Any,
    confidence: float,
    source: str,
    assumptions: tuple[Assumption, ...] = (NORMAL,),
    stats: dict[str, Any] | None = None,
) -> Solution:
    """A value with its interval; given `tol`, the claim that the half-width is within tol·|value|."""
    stats = {"stderr": stderr, "interval": (value - half_width, value + half_width), **(stats or {})}
    certificate = Certificate(
        name, measured=value, stderr=stderr, kind="estimate", source=source, assumptions=assumptions
    )
    certificates, converged = {"estimate": certificate}, True
    if tol is not None:
        bound = tol * xp.abs(value)
        converged = xp.all(half_width <= bound)
        certificates["interval"] = Certificate(
            f"half-width of the interval of {name} <= tol·|{name}|",
            measured=half_width,
            bound=bound,
            kind="probabilistic",
            confidence=confidence,
            source=source,
            assumptions=assumptions,
        )
    finite = xp.all(xp.isfinite(value))
    return Solution(value, certificates, Status.of(converged, finite), 1, stats)
