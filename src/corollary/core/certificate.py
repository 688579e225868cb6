"""Certificates: one checkable claim about one answer.

A certificate says what was claimed, what was measured and which bound it is held against, under which assumptions and
from which source. It is a pytree, so it survives `jit`, `vmap` and sharding; its texts are static.
"""

from __future__ import annotations

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float

Kind = Literal["exact", "probabilistic", "theorem", "estimate", "monitor"]

Numbers = Float[Array | np.ndarray, "..."] | Float[np.floating, ""] | float
Flags = Bool[Array | np.ndarray, "..."] | np.bool_ | bool

MEANING: dict[str, str] = {
    "exact": "a bound that holds for this very input, computed from quantities at hand",
    "probabilistic": "a bound that holds with at least the stated probability",
    "theorem": "a theorem's right-hand side with its constants computed, held against what was measured",
    "estimate": "a number with its standard error; it claims no bound",
    "monitor": "a property that was checked along the way",
}


class Assumption(eqx.Module):
    """One hypothesis of a theorem: checked on this input (with the verdict), or assumed."""

    text: str = eqx.field(static=True)
    checked: bool = eqx.field(static=True, default=False)
    holds: Flags = True


class Certificate(eqx.Module):
    """One claim about one answer.

    Parameters
    ----------
    claim
        The statement in words, e.g. ``"F(x) - F* <= duality gap <= tol"``.
    measured
        What was measured on this input. A batch of answers gives a batch of numbers.
    bound
        What `measured` must not exceed; it carries its own rounding. ``None`` for an ``estimate``.
    kind
        ``"exact"``, ``"probabilistic"``, ``"theorem"``, ``"estimate"`` or ``"monitor"``; see `MEANING`.
    source
        Theorem or equation number and where it stands.
    confidence
        The least probability with which the bound holds: 1 unless ``probabilistic`` or an interval.
    stderr
        Standard error of `measured`, for an ``estimate``.
    assumptions
        What the claim rests on, each checked or assumed.

    Examples
    --------
    >>> c = Certificate("|x| <= 1", measured=0.5, bound=1.0, kind="exact", source="by inspection")
    >>> bool(c.holds)
    True
    """

    claim: str = eqx.field(static=True)
    measured: Numbers
    bound: Numbers | None = None
    kind: Kind = eqx.field(static=True, default="exact")
    source: str = eqx.field(static=True, default="")
    confidence: Numbers = 1.0
    stderr: Numbers | None = None
    assumptions: tuple[Assumption, ...] = ()

    def __check_init__(self):
        """Refuse a bound without a kind that can carry one, and a claim without its bound."""
        if self.kind not in MEANING:
            raise ValueError(f"kind: found {self.kind!r}, expected one of {', '.join(MEANING)}")
        if (self.bound is None) != (self.kind == "estimate"):
            raise ValueError(f"kind {self.kind!r}: an estimate has no bound, every other kind needs one")

    @property
    def holds(self) -> Flags:
        """Whether `measured` is within `bound` and no checked assumption failed; never true of a NaN.

        An ``estimate`` claims no bound: it holds when it is a finite number.
        """
        if self.bound is None:
            return np.isfinite(self.measured) if _concrete(self.measured) else jnp.isfinite(self.measured)
        holds = self.measured <= self.bound
        for assumption in self.assumptions:
            if assumption.checked:
                holds = holds & assumption.holds
        return holds

    @property
    def applies(self) -> Flags:
        """Whether every checked assumption held; where one did not, the bound says nothing."""
        verdict: Flags = np.True_
        for assumption in self.assumptions:
            if assumption.checked:
                verdict = verdict & assumption.holds
        return verdict

    def explain(self) -> str:
        """One sentence for a person, numbers included."""
        if self.bound is None:
            error = "" if self.stderr is None else f" ± {_show(self.stderr)} (one standard error)"
            text = f"{self.claim}: estimated {_show(self.measured)}{error}, {MEANING['estimate'].split('; ')[1]}."
        else:
            verdict = "holds" if bool(np.all(self.holds)) else "DOES NOT HOLD"
            text = f"{self.claim}: measured {_show(self.measured)} against {_show(self.bound)}, so it {verdict}"
            if self.kind == "probabilistic":
                text += f" (with probability at least {_probability(self.confidence)})"
            text += f"; {self.kind}: {MEANING[self.kind]}."
        assumed = [a.text for a in self.assumptions if not a.checked]
        checked = [f"{a.text} ({'yes' if bool(np.all(a.holds)) else 'NO'})" for a in self.assumptions if a.checked]
        text += f" Checked: {'; '.join(checked)}." if checked else ""
        text += f" Assumed: {'; '.join(assumed)}." if assumed else ""
        return text + (f" Source: {self.source}." if self.source else "")


def rounding(scale: ArrayLike, factor: float = 8.0) -> Array:
    """The rounding that a bound carries: ``factor · eps · scale``, in the precision of `scale`."""
    scale = jnp.abs(jnp.asarray(scale))
    return factor * jnp.finfo(scale.dtype).eps * scale


def _concrete(x: object) -> bool:
    return not isinstance(x, jax.Array)


def _probability(p: object) -> str:
    """A probability, with the chance of failure spelt out where three digits would round it to 1."""
    risk = float(np.max(1 - np.asarray(p, dtype=float)))
    return f"1 - {risk:.1g}" if 0 < risk < 1e-3 else f"{1 - risk:.3g}"


def _show(x: object) -> str:
    x = np.asarray(x)
    if x.ndim == 0:
        return f"{float(x):.3g}"
    return f"{x.shape} values from {np.min(x):.3g} to {np.max(x):.3g}" if x.size else "no values"
