"""Checkpoints that survive kill −9: written to a new name, synced, renamed, the directory synced; the last few kept.

A checkpoint is a folder ``step-000000001000`` with the arrays in ``state.safetensors`` and all else, with a schema
version and SHA-256 checksums of both, in ``state.json``. Reading runs no code. A torn, foreign or newer one is refused,
and the one before it used, with a warning that says so. Cost: one copy of the run to the host and the disk's speed.
Arrays over several processes are gathered; process 0 writes, and all read the same folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import time
import warnings
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from jaxtyping import PyTree

from corollary.core.errors import InputError, ModelFileError
from corollary.core.validation import integer, number

FORMAT, SCHEMA = "corollary-checkpoint", 1
PREFIX = "step-"


class CheckpointWarning(UserWarning):
    """A checkpoint was refused, and an older one is used."""


@final
class Checkpoints:
    """Where a run's checkpoints go, how often, and how many are kept.

    Parameters
    ----------
    folder
        Of one run; made where missing.
    every
        In steps; None: by the clock alone.
    seconds
        At the end of a compiled call, where the last checkpoint is older than this; None: by steps alone.
    keep
        How many of the last ones stay.

    Raises
    ------
    InputError
        Where a number is refused.

    Examples
    --------
    >>> import tempfile, jax.numpy as jnp
    >>> checkpoints = Checkpoints(tempfile.mkdtemp())
    >>> checkpoints.save(3, {"state": {"w": jnp.ones(2)}})
    >>> checkpoints.load({"state": {"w": jnp.zeros(2)}}).trees["state"]["w"].tolist()
    [1.0, 1.0]
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        every: int | None = None,
        seconds: float | None = 60.0,
        keep: int = 3,
    ):
        integer(1, none=True)("every", every)
        number(0, none=True)("seconds", seconds)
        integer(1)("keep", keep)
        self.folder, self.every, self.seconds, self.keep = pathlib.Path(folder), every, seconds, int(keep)
        self._last, self._when = -1, time.monotonic()

    def due(self, step: int) -> bool:
        """Whether a checkpoint is to be written after `step` steps."""
        by_step = self.every is not None and step % self.every == 0
        by_clock = self.seconds is not None and time.monotonic() - self._when >= self.seconds
        if jax.process_count() > 1 and self.seconds is not None:  # their clocks differ, and all must save or none
            from jax.experimental import multihost_utils

            by_clock = bool(multihost_utils.broadcast_one_to_all(np.asarray(by_clock)))
        return step != self._last and (by_step or by_clock)

    def save(
        self,
        step: int,
        trees: dict[str, PyTree],
        arrays: dict[str, np.ndarray] | None = None,
        record: dict[str, Any] | None = None,
        run: dict[str, Any] | None = None,
    ) -> None:
        """Write the trees (of arrays), further arrays and plain data; on return they are on the disk.

        `run` says which run this is: `load` refuses a checkpoint of another one.
        """
        if step == self._last:
            return
        tensors: dict[str, np.ndarray] = {}
        leaves: dict[str, list[dict[str, Any]]] = {}
        for group, tree in trees.items():
            leaves[group] = []
            for i, (path, leaf) in enumerate(jax.tree_util.tree_flatten_with_path(tree)[0]):
                raw = _to_host(leaf)
                leaves[group].append({"path": jax.tree_util.keystr(path), **_kind(leaf)})
                tensors[f"{group}/{i:06d}"] = _storable(raw)
        for name, array in (arrays or {}).items():
            tensors[f"array/{name}"] = np.ascontiguousarray(array)
        if jax.process_index() == 0:
            blob = safetensors.numpy.save(tensors)
            head = {"format": FORMAT, "schema": SCHEMA, "step": step, "sha256": hashlib.sha256(blob).hexdigest()}
            head |= {"leaves": leaves, "record": record or {}, "run": run or {}}
            text = json.dumps({**head, "checksum": _checksum(head)}, indent=1)
            self._write(step, {"state.safetensors": blob, "state.json": text.encode()})
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            multihost_utils.sync_global_devices(f"checkpoint-{step}")
        self._last, self._when = step, time.monotonic()

    def load(self, like: dict[str, PyTree], run: dict[str, Any] | None = None) -> Loaded | None:
        """The newest checkpoint that can be read, as trees like those given; None where the folder has none.

        Raises
        ------
        ModelFileError
            Where there are checkpoints and none can be read.
        InputError
            Where the checkpoint is sound but belongs to another model, optimizer or feed.
        """
        found = sorted(self.folder.glob(f"{PREFIX}*"), reverse=True) if self.folder.is_dir() else []
        refused: list[str] = []
        for path in found:
            try:
                head, tensors = _read(path)
            except ModelFileError as error:
                refused.append(str(error))
                continue
            if refused:
                message = f"{'; '.join(refused)}. Going on from {path.name}, the last good checkpoint."
                warnings.warn(message, CheckpointWarning, stacklevel=3)
            loaded = _restore(path, head, tensors, like, run or {})
            self._last, self._when = loaded.step, time.monotonic()
            return loaded
        self._last = -1  # of a run before, where this object has seen one
        if refused:
            raise ModelFileError(
                f"{'; '.join(refused)}. No good checkpoint is left in {self.folder}; remove it to start anew"
            )
        return None

    def _write(self, step: int, files: dict[str, bytes]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for kind in ("new", "old"):  # left by a run that was killed while it wrote or removed
            for stale in self.folder.glob(f".{kind}-{PREFIX}*"):
                shutil.rmtree(stale, ignore_errors=True)
        target = self.folder / f"{PREFIX}{step:012d}"
        new = self.folder / f".new-{target.name}"
        new.mkdir()
        for name, data in files.items():
            with (new / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        _sync(new)
        if target.exists():  # a refused one
            _remove(target)
        new.rename(target)
        _sync(self.folder)
        # Later ones were refused: they count for nothing here, or they would push the good ones out.
        until = (path for path in self.folder.glob(f"{PREFIX}*") if path.name <= target.name)
        for old in sorted(until, reverse=True)[self.keep :]:
            _remove(old)


class Loaded:
    """A checkpoint as it was read."""

    def __init__(self, step: int, trees: dict[str, PyTree], arrays: dict[str, np.ndarray], record: dict[str, Any]):
        self.step, self.trees, self.arrays, self.record = step, trees, arrays, record


def _read(path: pathlib.Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The JSON and the arrays of one checkpoint, or `ModelFileError`."""
    try:
        text, blob = (path / "state.json").read_bytes(), (path / "state.safetensors").read_bytes()
    except OSError as error:
        raise ModelFileError(f"{error.filename}: cannot be read ({error.strerror})") from error
    try:
        head = json.loads(text)
    except ValueError as error:
        raise ModelFileError(f"{path / 'state.json'}: truncated or not JSON ({error})") from error
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise ModelFileError(f"{path / 'state.json'}: not a {FORMAT} file")
    schema = head.get("schema")
    if type(schema) is not int or not 1 <= schema <= SCHEMA:
        raise ModelFileError(
            f"{path / 'state.json'}: found schema {schema!r}, at most {SCHEMA} is known; upgrade corollary"
        )
    if hashlib.sha256(blob).hexdigest() != head.get("sha256"):
        raise ModelFileError(f"{path / 'state.safetensors'}: truncated or not the one that state.json was written with")
    try:
        if head.pop("checksum", None) != _checksum(head):
            raise ModelFileError(f"{path / 'state.json'}: damaged, its checksum does not fit")
        return head, safetensors.numpy.load(blob)
    except ModelFileError:
        raise
    except Exception as error:
        raise ModelFileError(f"{path}: malformed ({type(error).__name__}: {error})") from error


def _checksum(head: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(head, sort_keys=True).encode()).hexdigest()


def _restore(path: pathlib.Path, head: Any, tensors: Any, like: dict[str, PyTree], run: dict[str, Any]) -> Loaded:
    for name, expected in run.items():
        if head["run"].get(name) != expected:
            raise InputError(
                f"checkpoint: found {path} of a run with {name} = {head['run'].get(name)!r}, expected {expected!r}; "
                "give another folder, or the same settings"
            )
    trees = {}
    for group, tree in like.items():
        if group not in head["leaves"]:
            continue
        leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
        expected = [{"path": jax.tree_util.keystr(p), **_kind(leaf)} for p, leaf in leaves]
        found = head["leaves"][group]
        if found != expected:
            odd = next((f, e) for f, e in zip([*found, None], [*expected, None], strict=False) if f != e)
            raise InputError(
                f"checkpoint: found {path} of another run: {odd[0]} where this one has {odd[1]}; give another folder"
            )
        values = [_from_host(tensors[f"{group}/{i:06d}"], leaf) for i, (_, leaf) in enumerate(leaves)]
        trees[group] = jax.tree.unflatten(structure, values)
    arrays = {name.removeprefix("array/"): a for name, a in tensors.items() if name.startswith("array/")}
    return Loaded(head["step"], trees, arrays, head["record"])


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _kind(leaf: Any) -> dict[str, Any]:
    return {"dtype": str(leaf.dtype), "shape": list(leaf.shape)}


def _to_host(leaf: Any) -> np.ndarray:
    leaf = jax.random.key_data(leaf) if _is_key(leaf) else leaf
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
    return np.asarray(leaf)


def _storable(array: np.ndarray) -> np.ndarray:
    """Bits of a dtype that NumPy lacks travel as unsigned integers of the same width."""
    array = np.ascontiguousarray(array).reshape(array.shape)
    return (
        array if array.dtype.kind in "biuf" and array.dtype.isbuiltin == 1 else array.view(f"u{array.dtype.itemsize}")
    )


def _from_host(array: np.ndarray, like: Any) -> Any:
    if _is_key(like):
        return jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(like))
    if array.dtype != like.dtype:
        array = array.view(like.dtype)
    if isinstance(like, jax.Array) and isinstance(like.sharding, jax.sharding.NamedSharding):
        return jax.make_array_from_callback(array.shape, like.sharding, lambda index: array[index])
    return jnp.array(array)


def _sync(folder: pathlib.Path) -> None:
    with contextlib.suppress(OSError):  # some systems cannot sync a directory
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _remove(folder: pathlib.Path) -> None:
    """Out of sight at once, then away: a kill in between leaves no torn checkpoint behind."""
    hidden = folder.with_name(f".old-{folder.name}")
    shutil.rmtree(hidden, ignore_errors=True)
    folder.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)
