"""Signals that end a run: remembered, since one that arrives inside a callback of the runtime is swallowed there."""

from __future__ import annotations

import signal
from typing import Any

_received: list[int] = []


def install() -> None:
    """Interrupt on SIGINT and on SIGTERM, so that a half-made folder is cleared away."""
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)


def check() -> None:
    """Raise the interrupt that a callback has swallowed."""
    if _received:
        raise KeyboardInterrupt


def status() -> int:
    """The exit status of an interrupted run: 130 for SIGINT, 143 for SIGTERM."""
    return 128 + (_received[-1] if _received else signal.SIGINT)


def _interrupt(number: int, _: Any) -> None:
    _received.append(number)
    raise KeyboardInterrupt
