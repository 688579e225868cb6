"""Output folders appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

from corollary.cli import signals
from corollary.core.errors import InputError

OURS = {"model.safetensors", "model.json", "metrics.json", "predictions.csv", "report.html"}


def check(out: pathlib.Path) -> None:
    """Refuse a place that holds anything but a previous run, before any work."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise InputError(f"--out: {str(out)!r} is not a folder, expected a new folder or a previous run's")
    if out.is_dir():
        foreign = sorted({entry.name for entry in out.iterdir()} - OURS)
        if foreign:
            raise InputError(f"--out: {str(out)!r} holds {foreign[0]!r}, expected a new folder or a previous run's")
    above = next(parent for parent in out.absolute().parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise InputError(f"--out: {str(above)!r} is not a folder that can be written to")


@contextlib.contextmanager
def fresh(out: pathlib.Path) -> Iterator[pathlib.Path]:
    """A temporary sibling to fill; it takes the name `out` when the block ends well, and vanishes when it does not."""
    check(out)
    out = out.absolute()
    made = [parent for parent in out.parents if not parent.exists()]  # deepest first
    out.parent.mkdir(parents=True, exist_ok=True)
    work = pathlib.Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        yield work
        work.chmod(0o755)
        signals.check()
        _take_the_name(work, out)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        for parent in made:
            with contextlib.suppress(OSError):
                parent.rmdir()
        raise


def _take_the_name(work: pathlib.Path, out: pathlib.Path) -> None:
    if not out.exists():
        os.rename(work, out)
        return
    old = pathlib.Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.old."))
    try:
        os.rename(out, old / "run")
        os.rename(work, out)
    except BaseException:
        if not out.exists():
            os.rename(old / "run", out)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)
