"""Time spent compiling, told apart from time spent computing."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import jax.monitoring

_spans: list[tuple[float, float]] | None = None


@contextlib.contextmanager
def stopwatch() -> Iterator[dict[str, float]]:
    """Fill in ``wall`` and ``compile`` seconds when the block ends; tracing, lowering and compiling all count."""
    global _spans  # noqa: PLW0603
    _listen()
    seconds = {"wall": 0.0, "compile": 0.0}
    outer, _spans = _spans, []
    start = time.perf_counter()
    try:
        yield seconds
    finally:
        seconds["wall"] = time.perf_counter() - start
        seconds["compile"] = min(_union(_spans), seconds["wall"])
        _spans = outer


def _listen(installed: list[bool] = []) -> None:  # noqa: B006
    if not installed:
        jax.monitoring.register_event_duration_secs_listener(_heard)
        installed.append(True)


def _heard(event: str, duration_secs: float, **_: Any) -> None:
    if _spans is not None and event.startswith("/jax/core/compile/"):
        now = time.perf_counter()
        _spans.append((now - duration_secs, now))


def _union(spans: list[tuple[float, float]]) -> float:
    """Length of the union: the tracing of an inner function lies within its caller's."""
    total, end = 0.0, 0.0
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total
