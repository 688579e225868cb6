"""Which activations to keep, to move to the host, or to recompute, under a memory budget.

A chain h_0 = x, h_k = f_k(h_{k−1}) needs h_0, ..., h_{L−1} backward. Those stored (kept or offloaded) cut it into
segments; backward through a segment recomputes its inside from its first activation. The device then holds the kept
activations up to there, that first one, and the inside:

    peak = max over segments [i, j) of  Σ_{kept k <= i} s_k + (s_i if offloaded) + Σ_{i<k<j} s_k.

The plan of least cost within the budget is found exactly, by dynamic programming over the last stored activation with
the Pareto front of (bytes kept, seconds). Cost: O(L²·size of the front). What a layer keeps within itself is not
counted. Source: Chen et al., "Training deep nets with sublinear memory cost" (2016); Jain et al., "Checkmate" (2020);
Beaumont et al., "Efficient combination of rematerialization and offloading" (2021).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.solution import Solution

KEEP, OFFLOAD, RECOMPUTE = "keep", "offload", "recompute"


@final
class ActivationPlan(eqx.Module):
    """A decision per activation h_0, ..., h_{L−1}, made by `plan_activations`.

    Parameters
    ----------
    decisions
        ``"keep"``, ``"offload"`` or ``"recompute"`` for each.
    sizes
        Bytes of each.
    """

    decisions: tuple[str, ...] = eqx.field(static=True)
    sizes: tuple[int, ...] = eqx.field(static=True)

    @property
    def peak(self) -> int:
        """The most bytes of activations that the device holds at once."""
        stored = [k for k, d in enumerate(self.decisions) if d != RECOMPUTE] + [len(self.sizes)]
        kept, most = 0, 0
        for i, j in itertools.pairwise(stored):
            offloaded = self.decisions[i] == OFFLOAD
            kept += 0 if offloaded else self.sizes[i]
            most = max(most, kept + offloaded * self.sizes[i] + sum(self.sizes[i + 1 : j]))
        return most

    def policy(self, names: Sequence[str]) -> Callable[..., Any]:
        """A policy for `jax.checkpoint` in compiled steps, where ``checkpoint_name(h, names[k])`` marks h_k."""
        chosen = {d: [n for n, own in zip(names, self.decisions, strict=True) if own == d] for d in (KEEP, OFFLOAD)}
        if not chosen[OFFLOAD]:
            return jax.checkpoint_policies.save_only_these_names(*chosen[KEEP])
        return jax.checkpoint_policies.save_and_offload_only_these_names(
            names_which_can_be_saved=chosen[KEEP],
            names_which_can_be_offloaded=chosen[OFFLOAD],
            offload_src="device",
            offload_dst="pinned_host",
        )

    def gradient(self, layers: Sequence[Callable[..., Any]], params: Sequence[PyTree], x: Any, loss: Any) -> Solution:
        """Loss and gradient of a chain by this plan, layer by layer, with the bytes held measured on the way.

        Parameters
        ----------
        layers
            ``layer(params, h) -> h``, one per activation; the same function object compiles once.
        params
            One pytree per layer.
        x
            h_0.
        loss
            ``loss(h_L) -> scalar``.

        Returns
        -------
        `Solution` whose value is ``(loss, gradients)``, a list of pytrees.

        Certificates: ``peak`` (exact: bytes measured <= the plan's).
        """
        n = len(self.sizes)
        if len(layers) != n or len(params) != n:
            raise InputError(f"layers: found {len(layers)} with {len(params)} parameters, expected {n} as in the plan")
        held, away = _Held(), {}
        h = x
        for k in range(n):
            held[k] = h
            h_next = _forward(layers[k], params[k], h)
            if self.decisions[k] == OFFLOAD:
                away[k] = np.asarray(held.pop(k))
            elif self.decisions[k] == RECOMPUTE:
                held.pop(k)
            h = h_next
        value, cotangent = jax.value_and_grad(loss)(h)
        grads: list[Any] = [None] * n
        stored = [k for k, d in enumerate(self.decisions) if d != RECOMPUTE] + [n]
        for i, j in reversed(list(itertools.pairwise(stored))):
            if i in away:
                held[i] = jnp.asarray(away.pop(i))
            for k in range(i, j - 1):
                held[k + 1] = _forward(layers[k], params[k], held[k])
            for k in reversed(range(i, j)):
                grads[k], cotangent = _backward(layers[k], params[k], held.pop(k), cotangent)
        certificate = Certificate(
            "bytes of activations held <= the plan's peak",
            measured=float(held.most),
            bound=float(self.peak),
            kind="exact",
            source="measured from the arrays held",
        )
        return Solution((value, grads), {"peak": certificate}, stats={"peak": held.most})


def plan_activations(
    sizes: Any, budget: float, *, compute_seconds: Any, offload_seconds: Any = None, slots: int = 4096
) -> Solution:
    """The cheapest way to stay within a memory budget: keep, offload or recompute each activation.

    Use it before training a network whose activations exceed the device. Sizes come from `jax.eval_shape`.

    Parameters
    ----------
    sizes
        Bytes of h_0, ..., h_{L−1} (L,).
    budget
        Bytes of activations that the device may hold at once.
    compute_seconds
        Seconds to recompute each activation from the one before (L,); the first one's is not used.
    offload_seconds
        Seconds to move each to the host and back (L,), the part that is not hidden; None: no offloading.
    slots
        The most Pareto points kept per activation; past it the plan is still valid but may not be the cheapest.

    Returns
    -------
    `Solution` whose value is an `ActivationPlan`; ``stats["seconds"]`` the extra time, ``stats["optimal"]`` whether no
    Pareto point was dropped.

    Certificates: ``budget`` (exact: the plan's peak <= budget).

    Raises
    ------
    InputError
        For mismatched lengths or negative numbers, or a budget below the least that any plan needs.

    Source: Beaumont et al. (2021); Jain et al. (2020).

    Examples
    --------
    >>> plan = plan_activations([4, 4, 4, 4], 12, compute_seconds=[1, 1, 1, 1]).value
    >>> plan.peak, plan.decisions.count("recompute")
    (12, 1)
    """
    s = [int(v) for v in validation.vector("sizes", np.asarray(sizes, dtype=float), host=True)]
    n = len(s)
    redo = _seconds("compute_seconds", compute_seconds, n)
    move = [np.inf] * n if offload_seconds is None else _seconds("offload_seconds", offload_seconds, n)
    validation.number(0)("budget", budget)
    validation.integer(1)("slots", slots)
    if min(s) < 0:
        raise InputError("sizes: found a negative number, expected bytes")
    # A label: (bytes kept so far, seconds, was the last stored one offloaded, label before, its index).
    fronts: list[list[tuple]] = [[] for _ in range(n + 1)]
    fronts[0] = [(s[0], 0.0, 0, None, 0)] + ([(0, move[0], 1, None, 0)] if np.isfinite(move[0]) else [])
    optimal = True
    for i in range(n):
        fronts[i], dropped = _pareto(fronts[i], slots)
        optimal &= not dropped
        for label in fronts[i]:
            held, seconds, away = label[0] + label[2] * s[i], label[1], label[2]
            for j in range(i + 1, n + 1):
                if j > i + 1:
                    held, seconds = held + s[j - 1], seconds + redo[j - 1]
                if held > budget:
                    break
                if j == n:
                    fronts[n].append((0, seconds, away, label, n))
                    break
                fronts[j].append((label[0] + s[j], seconds, 0, label, j))
                if np.isfinite(move[j]):
                    fronts[j].append((label[0], seconds + move[j], 1, label, j))
    if not fronts[n]:
        raise InputError(f"budget: found {budget:g} bytes, expected more: no plan for these sizes stays within it")
    best = min(fronts[n], key=lambda label: label[1])
    decisions, label = [RECOMPUTE] * n, best[3]
    while label is not None:
        decisions[label[4]] = OFFLOAD if label[2] else KEEP
        label = label[3]
    plan = ActivationPlan(tuple(decisions), tuple(s))
    certificate = Certificate(
        "planned peak <= budget", measured=float(plan.peak), bound=float(budget), kind="exact", source="the plan's peak"
    )
    return Solution(plan, {"budget": certificate}, stats={"seconds": float(best[1]), "optimal": optimal})


class _Held(dict):
    """Activations on the device, with the most bytes that lay there at once."""

    most = 0

    def __setitem__(self, k: int, h: Any) -> None:
        super().__setitem__(k, h)
        self.most = max(self.most, sum(a.nbytes for a in self.values()))


def _pareto(labels: list[tuple], slots: int) -> tuple[list[tuple], bool]:
    """Labels that no other one beats in bytes and seconds, kept and offloaded ones apart."""
    out = []
    for away in (0, 1):
        best = np.inf
        for label in sorted((a for a in labels if a[2] == away), key=lambda a: a[:2]):
            if label[1] < best:
                out.append(label)
                best = label[1]
    if len(out) <= slots:
        return out, False
    step = (len(out) - 1) / (slots - 1) if slots > 1 else 0
    return [out[round(k * step)] for k in range(slots)], True


def _seconds(name: str, values: Any, n: int) -> list[float]:
    values = validation.vector(name, np.asarray(values, dtype=float), host=True)
    if len(values) != n or min(values) < 0:
        raise InputError(f"{name}: found {len(values)} values from {min(values):g}, expected {n} of at least 0")
    return [float(v) for v in values]


@functools.partial(jax.jit, static_argnums=0)
def _forward(layer: Callable[..., Any], params: PyTree, h: Any) -> Any:
    return layer(params, h)


@functools.partial(jax.jit, static_argnums=0)
def _backward(layer: Callable[..., Any], params: PyTree, h: Any, cotangent: Any) -> Any:
    return jax.vjp(layer, params, h)[1](cotangent)
