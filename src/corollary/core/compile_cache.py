"""The persistent compile cache: removes most of the first call's cost from the second process on."""

from __future__ import annotations

import os
import pathlib

import jax


def enable(directory: str | os.PathLike[str] | None = None) -> pathlib.Path:
    """Keep compiled programs in `directory` (default: ``$COROLLARY_CACHE`` or ``~/.cache/corollary/xla``).

    On in the command line and in the tests; a library does not switch it on by itself, since it is a global setting.
    """
    default = os.environ.get("COROLLARY_CACHE") or pathlib.Path.home() / ".cache" / "corollary" / "xla"
    path = pathlib.Path(directory or default)
    path.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return path
