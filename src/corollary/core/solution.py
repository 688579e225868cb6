"""Solutions: the answer, its certificates, how the solver ended, and what a person wants to know of the run."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree

from corollary.core.certificate import Certificate, Flags
from corollary.core.errors import ConvergenceError

Code = Int[Array | np.ndarray, "..."] | np.integer | int


class Status:
    """How a solver ended. Codes are integers, carried through compiled loops; texts tell the remedy."""

    CONVERGED = 0
    MAX_STEPS = 1
    NON_FINITE = 2
    PRECISION = 3
    UNBOUNDED = 4
    COMPLETED = 5

    TEXT = (
        "converged: the stopping certificate is within the tolerance",
        "stopped at the step limit: raise max_steps (max_iter of an estimator), loosen tol, or standardise X",
        "met a NaN or an infinity: a step too long or extreme scales; rescale the data or shorten the step",
        "no further progress at this precision: pass float64 data, or loosen tol",
        "no finite optimum: the objective falls without end (separable classes?); add a penalty",
        "took the steps that were asked for; nothing is claimed of convergence",
    )

    @classmethod
    def text(cls, code: Code) -> str:
        """The message of one code, or of the worst of a batch."""
        return cls.TEXT[int(np.max(np.asarray(code)))]

    @classmethod
    def of(cls, converged: Flags, finite: Flags = True) -> Array:
        """Code from the loop's own flags: never from a step count."""
        ok = jnp.where(jnp.asarray(converged), cls.CONVERGED, cls.MAX_STEPS)
        return jnp.where(jnp.asarray(finite), ok, cls.NON_FINITE).astype(jnp.int32)


class Note(eqx.Module):
    """A text in a solution's `stats` (the chosen solver and why): static, so that it survives `jit` and `vmap`."""

    text: str = eqx.field(static=True)

    def __str__(self) -> str:
        return self.text


class Solution(eqx.Module):
    """The answer to one problem, or to a batch of them under `vmap`.

    Parameters
    ----------
    value
        The answer: an array or any pytree.
    certificates
        By name, e.g. ``solution.certificates["duality_gap"]``.
    status
        A code of `Status`.
    steps
        How many steps were taken, in the solver's own unit; ``stats`` says which where it is not plain.
    stats
        What a person wants to know: the objective, the chosen solver and why (`Note`), counts of products.
    history
        With ``history=True``: per-step values, arrays of length ``max_steps`` (or epochs) padded with NaN.
    """

    value: PyTree
    certificates: dict[str, Certificate] = eqx.field(default_factory=dict)
    status: Code = 0
    steps: Code = 0
    stats: dict[str, Any] = eqx.field(default_factory=dict)
    history: dict[str, Any] | None = None

    @property
    def converged(self) -> Flags:
        """Whether the solver reached its tolerance."""
        return self.status == Status.CONVERGED

    @property
    def holds(self) -> Flags:
        """Whether every certificate holds."""
        verdict: Flags = np.True_
        for certificate in self.certificates.values():
            verdict = verdict & certificate.holds
        return verdict

    @property
    def message(self) -> str:
        """How the solver ended and, where it fell short, the remedy."""
        return Status.text(self.status)

    def unwrap(self) -> PyTree:
        """The value, or `ConvergenceError` with the remedy where the solver fell short."""
        if not bool(np.all(self.converged)):
            raise ConvergenceError(self.message)
        return self.value

    def plot(self, ax: Any = None, bound: str | None = None) -> Any:
        """Draw the convergence curve, beside its theorem's bound where the history has one."""
        from corollary.core.draw import convergence

        return convergence(self, ax=ax, bound=bound)
