"""Progress: a tqdm bar fed from inside compiled loops by a callback, and a stop that keeps the best answer so far."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from jax.experimental import io_callback
from jaxtyping import Array
from tqdm.auto import tqdm


class _Bars:
    """The bar that is open now: a compiled loop knows no Python object, only that something listens."""

    current: tqdm | None = None


@contextlib.contextmanager
def bar(description: str, total: int | None = None, enabled: bool = True) -> Iterator[None]:
    """Open a bar for the compiled loops run inside the block; they feed it through `report`."""
    if not enabled:
        yield
        return
    outer, _Bars.current = _Bars.current, tqdm(total=total, desc=description, leave=False)
    try:
        yield
        jax.effects_barrier()
    finally:
        _Bars.current.close()
        _Bars.current = outer


def report(step: Any, **values: Any) -> None:
    """Show `step` and named scalars on the open bar; call it inside a loop only where ``verbose`` asked for it."""
    io_callback(_update, None, step, values, ordered=False)


def show(step: int, **values: float) -> None:
    """`report` for a loop that runs in Python."""
    _update(step, values)


def _update(step: Array | int, values: Mapping[str, Array | float]) -> None:
    if _Bars.current is not None:
        _Bars.current.n = int(step)
        _Bars.current.set_postfix({k: f"{float(v):.2e}" for k, v in values.items()}, refresh=True)
