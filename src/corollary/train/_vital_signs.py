"""Telemetry of a run within a budget: noise scale, sharpness, update ratios and effective ranks beside the training.

When: always; it changes no bit of the run. A measurement is taken where the time spent on measuring, its own included,
stays below `share` of the time since the run began, so the cost is what you said, whatever the model. Memory: two
copies of the parameters, and ten while the sharpness is measured.
"""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.train._feed import Feed
from corollary.train._layer_health import effective_ranks
from corollary.train._loop import Event
from corollary.train._noise_scale import gradient_noise_scale
from corollary.train._sharpness import sharpness
from corollary.train._state import loss_of


class VitalSigns:
    """A callback for `Trainer.fit` that measures the run's health within a share of its time.

    Parameters
    ----------
    feed
        Batches to measure on, usually the training feed: its first `batches` are kept.
    share
        The most of the run's time that goes into measuring; the first measurement of each kind also compiles, and that
        time is not counted.
    batches
        How many batches a measurement of the noise scale takes, at least 4; sharpness takes the first.
    parts
        Micro-batches per batch for the noise scale, a divisor of the batch size.
    ranks
        Measure effective ranks, too: a singular value decomposition per matrix.

    Attributes
    ----------
    history : list of dict
        One per measurement: ``step``, ``seconds``, ``noise_scale`` with ``noise_low`` and ``noise_high`` (95 %),
        ``sharpness`` with ``sharpness_residual``, ``update_ratio`` (‖Δθ‖/‖θ‖ per step, by array; from the second one
        on), ``gradient_norm``, and ``effective_rank`` by array.
    spent : float
        Seconds spent on measuring, compilation left out.

    Raises
    ------
    InputError
        For a share outside (0, 1], fewer than 4 batches, or batches that cannot be split.

    Examples
    --------
    >>> import jax.numpy as jnp, numpy as np, optax
    >>> from corollary.train import ArrayFeed, Trainer
    >>> x = np.random.default_rng(0).standard_normal((64, 3)).astype(np.float32)
    >>> feed = ArrayFeed({"x": x, "y": x.sum(1)}, 8)
    >>> def loss(w, batch, key):
    ...     return jnp.mean((batch["x"] @ w - batch["y"]) ** 2)
    >>> signs = VitalSigns(feed)
    >>> _ = Trainer(jnp.zeros(3), loss, optax.sgd(0.1)).fit(feed, steps=20, callback=signs)
    >>> signs.history[0]["sharpness"] > 0
    True
    """

    def __init__(self, feed: Any, *, share: float = 0.02, batches: int = 8, parts: int = 4, ranks: bool = True):
        if not isinstance(feed, Feed):
            raise InputError(f"feed: found a {type(feed).__name__}, expected a Feed such as ArrayFeed(...)")
        validation.number(0, 1, open_low=True)("share", share)
        validation.integer(4)("batches", batches)
        validation.integer(2)("parts", parts)
        drawn = [feed.batch(k) for k in range(batches)]
        self._batches = jax.tree.map(lambda *a: jnp.stack(a), *drawn)
        size = jax.tree.leaves(self._batches)[0].shape[1]
        if size % parts:
            raise InputError(f"parts: found {parts}, expected a divisor of the batch size {size}")
        self.share, self.parts, self.ranks = float(share), int(parts), bool(ranks)
        self.history: list[dict[str, Any]] = []
        self.spent = 0.0
        self._began: float | None = None
        self._last, self._cost = -1, 0.0
        self._loss: Any = None
        self._before: Any = None
        self._vector: Any = None

    def __call__(self, event: Event) -> None:
        """Measure if the budget allows."""
        now = time.perf_counter()
        if self._began is None or event.step < self._last:  # another run: its own time, its own share
            self._began, self.spent, self._before = now, 0.0, None
        self._last = event.step
        if self.spent + self._cost > self.share * (now - self._began):  # the last one's cost is the next one's
            return
        row = self._measure(event)
        cost = time.perf_counter() - now
        if self.history:
            self.spent, self._cost = self.spent + cost, cost
        else:
            self._began += cost  # compilation: neither the run's time nor a measurement's
        self.history.append({"step": event.step, "seconds": now - self._began, **row})

    def _measure(self, event: Event) -> dict[str, Any]:
        params = event.state.params
        if self._loss is None:
            recipe, fixed, arrays = event.trainer._recipe, event.trainer._fixed, event.state.model_state
            arrays = jax.tree.map(jnp.copy, arrays)  # running statistics: in training mode the loss does not read them
            self._loss = lambda params, batch, key: loss_of(recipe, params, fixed, arrays, batch, key)[0]
        key = jax.random.fold_in(jax.random.key(0), event.step)
        noise = gradient_noise_scale(self._loss, params, self._batches, key=key, parts=self.parts).value
        first = jax.tree.map(lambda a: a[0], self._batches)
        top = sharpness(self._loss, params, first, key=key, start=self._vector)
        self._vector = top.stats["vector"]
        row: dict[str, Any] = {
            "noise_scale": float(noise.scale),
            "noise_low": float(noise.low),
            "noise_high": float(noise.high),
            "gradient_norm": float(np.sqrt(max(float(noise.signal), 0.0))),
            "sharpness": float(top.value),
            "sharpness_residual": float(top.certificates["residual"].measured),
        }
        if self._before is not None:
            step, old = self._before
            row["update_ratio"] = _ratios(old, params, max(event.step - step, 1))
        self._before = (event.step, jax.tree.map(jnp.copy, params))
        if self.ranks:
            row["effective_rank"] = {name: float(rank) for name, rank in _ranks(params).items()}
        return row

    def plot(self, axes: Any = None) -> Any:
        """Noise scale with its interval, and sharpness, over the steps: two axes, returned as a pair."""
        from corollary.core import draw

        if not self.history:
            raise ValueError("history: found none, expected a run with this callback")
        if axes is None:
            from matplotlib.figure import Figure

            axes = Figure(figsize=(9, 3.4), layout="constrained").subplots(1, 2)
        steps = [row["step"] for row in self.history]
        left = draw.axes(axes[0], xlabel="step", ylabel="examples", title="gradient noise scale")
        top = np.asarray([row["noise_high"] for row in self.history])
        low = np.asarray([row["noise_low"] for row in self.history])
        middle = np.asarray([row["noise_scale"] for row in self.history])
        ceiling = 10 * np.max(middle[np.isfinite(middle)], initial=1.0)
        left.fill_between(
            steps, np.maximum(low, 1e-3), np.minimum(top, ceiling), alpha=0.2, color=draw.ACCENT, label="95 %"
        )
        left.plot(steps, middle, color=draw.ACCENT)
        left.set_yscale("log")
        left.legend(frameon=False)
        right = draw.axes(axes[1], xlabel="step", ylabel="λ_max", title="sharpness")
        right.plot(steps, [row["sharpness"] for row in self.history], color=draw.INK)
        return left, right


@jax.jit
def _relative(old: Any, new: Any) -> Any:
    def one(a: Any, b: Any) -> Any:
        size = jnp.linalg.norm(a.ravel())
        moved = jnp.linalg.norm((b - a).ravel())
        return jnp.where(size > 0, moved / jnp.where(size > 0, size, 1), jnp.where(moved > 0, jnp.inf, 0.0))

    return jax.tree.map(one, old, new)


def _ratios(old: Any, new: Any, steps: int) -> dict[str, float]:
    named = jax.tree_util.tree_leaves_with_path(_relative(old, new))
    return {jax.tree_util.keystr(path): float(value) / steps for path, value in named}


_ranks = jax.jit(effective_ranks)
