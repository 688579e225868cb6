"""Feeding: batch number k is a pure function of (seed, k), so a run resumes in the middle of an epoch.

A feed tells the trainer three things: what may live on the device (`resident`), the small rows that change from step to
step (`rows`), and how a batch comes out of the two inside the compiled loop (`taker`, a hashable function, so that
another feed of the same kind compiles nothing). In-memory data lie on the device once and are gathered there by
index; memory-mapped data are read in a thread while the device computes.

The order of epoch e sorts the raw words of the Philox generator with key (seed, e), a stream that NumPy promises not to
change: O(n log n) an epoch, O(n) memory, no memory of earlier epochs.
Source: Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy as 1, 2, 3" (2011).
"""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from corollary.core import validation
from corollary.core.errors import InputError

RESIDENT_BYTES = 2**32
STREAM_BYTES, STREAM_ROWS, INDEX_ROWS = 2**25, 32, 512
PADDED_ROWS = 2**11
STREAM = 0x66656564  # "feed": sets the keys of data apart from those of the loss
Taker = Callable[[PyTree, PyTree], PyTree]


class Feed(abc.ABC):
    """What a trainer asks of its data. Leaves: `ArrayFeed`, `StreamFeed`, `GeneratedFeed`."""

    steps_per_epoch: int | None = None

    @property
    @abc.abstractmethod
    def taker(self) -> Taker:
        """A hashable traceable function of (resident, row): the batch."""

    @abc.abstractmethod
    def rows(self, first: int, count: int) -> PyTree:
        """Host arrays with leading axis `count`: what steps first, ..., first + count − 1 need."""

    @abc.abstractmethod
    def describe(self) -> dict[str, Any]:
        """Plain data that a resumed run must find unchanged."""

    def resident(self) -> PyTree:
        """Arrays that lie on the device throughout; None where there are none."""
        return None

    def capacity(self) -> int:
        """How many rows one compiled call may carry."""
        bytes_each = max(1, sum(np.asarray(a).nbytes for a in jax.tree.leaves(self.rows(0, 1))))
        return int(np.clip(STREAM_BYTES // bytes_each, 1, STREAM_ROWS))

    def batch(self, k: int) -> PyTree:
        """Batch number k, for a look at it or a step by hand."""
        validation.integer(0)("k", k)
        row = jax.tree.map(lambda a: jnp.asarray(a[0]), self.rows(k, 1))
        return self.taker(self.resident(), row)

    def indices(self, k: int) -> np.ndarray | None:
        """Which examples batch k holds, where that is known."""
        return None

    def tail(self) -> PyTree:
        """The examples that fill no whole batch, for an evaluation over all of them; None where there are none."""
        return None


@final
class ArrayFeed(Feed):
    """Batches of arrays in memory or memory-mapped, shuffled anew each epoch.

    In-memory data up to 4 GiB are copied to the device once and gathered there inside the compiled loop; a
    `numpy.memmap` (or ``resident=False``) is read by a thread beside the running steps.

    Parameters
    ----------
    arrays
        A pytree of arrays (NumPy, memory-mapped or JAX) with equal leading axis: the examples.
    batch_size
        Examples a batch.
    shuffle
        A new order each epoch, from `seed`; False: the order given.
    seed
        Of the order and of `transform`.
    remainder
        The last, uneven batch: ``"drop"`` (those examples come in another epoch), or ``"weights"``: each batch is
        then a pair (batch, weights), where padding has weight 0.
    transform
        A traceable function of (batch, key) applied to each batch on the device: augmentation, casting.
    resident
        Whether the data lie on the device; None: decided as above.

    Attributes
    ----------
    steps_per_epoch : int
        Batches an epoch.

    Raises
    ------
    InputError
        Where leading axes differ, there is no array, or fewer examples than one batch with ``remainder="drop"``.

    Examples
    --------
    >>> import numpy as np
    >>> feed = ArrayFeed({"x": np.arange(10.0)}, batch_size=4, seed=1)
    >>> feed.steps_per_epoch
    2
    >>> again = ArrayFeed({"x": np.arange(10.0)}, batch_size=4, seed=1)
    >>> bool((feed.batch(7)["x"] == again.batch(7)["x"]).all())
    True
    """

    def __init__(
        self,
        arrays: PyTree,
        batch_size: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        remainder: str = "drop",
        transform: Callable[[Any, Any], Any] | None = None,
        resident: bool | None = None,
    ):
        validation.integer(1)("batch_size", batch_size)
        validation.flag("shuffle", shuffle)
        validation.integer(0)("seed", seed)
        validation.one_of("drop", "weights")("remainder", remainder)
        leaves = jax.tree.leaves(arrays)
        if not leaves or any(not hasattr(a, "shape") or len(a.shape) == 0 for a in leaves):
            raise InputError("arrays: found none (or a number), expected a pytree of arrays with equal leading axis")
        lengths = sorted({a.shape[0] for a in leaves})
        if len(lengths) > 1:
            raise InputError(f"arrays: found leading axes {lengths}, expected equal ones")
        self.arrays, self.batch_size, self.shuffle, self.seed = arrays, int(batch_size), shuffle, int(seed)
        self.remainder, self.transform, self.examples = remainder, transform, int(lengths[0])
        if self.examples == 0 or (self.examples < self.batch_size and remainder == "drop"):
            raise InputError(f"arrays: found {self.examples} examples, expected at least batch_size = {batch_size}")
        if self.examples >= 2**31:
            raise InputError(f"arrays: found {self.examples} examples, expected fewer than 2³¹")
        mapped = any(isinstance(a, np.memmap) for a in leaves) or sum(a.nbytes for a in leaves) > RESIDENT_BYTES
        self._resident = (not mapped) if resident is None else validation.flag("resident", resident)
        self._placed: dict[bool, PyTree] = {}
        self._order = functools.lru_cache(maxsize=2)(self._shuffled)
        whole = self.examples // self.batch_size
        self.steps_per_epoch: int = whole if remainder == "drop" else -(-self.examples // self.batch_size)

    @property
    def taker(self) -> Taker:
        """Gather by index (or pass on what was read), then transform."""
        return _Take(self._resident, self.remainder == "weights", self.transform)

    def resident(self) -> PyTree:
        """The data on the device, put there once."""
        if not self._resident:
            return None
        wide = bool(jax.config.read("jax_enable_x64"))
        if wide not in self._placed:
            self._placed = {wide: jax.tree.map(self._filled, self.arrays)}
        return self._placed[wide]

    def _filled(self, array: Any) -> jax.Array:
        """On the device; few rows are filled up to a power of two, so that as many, about, share a compiled program."""
        if isinstance(array, np.ndarray) and len(array) <= PADDED_ROWS:
            filled = np.zeros((1 << (len(array) - 1).bit_length(), *array.shape[1:]), array.dtype)
            filled[: len(array)] = array
            array = filled
        return jnp.asarray(array)

    def capacity(self) -> int:
        """Many where a row is a few indices, few where it is a batch."""
        return INDEX_ROWS if self._resident else super().capacity()

    def rows(self, first: int, count: int) -> PyTree:
        """Indices, or the examples themselves, with weights and the numbers that make the transform's key."""
        index = np.stack([self.indices(k) for k in range(first, first + count)])
        if self._resident:
            row: dict[str, Any] = {"index": index}
        else:
            row = {
                "batch": jax.tree.map(
                    lambda a: np.asarray(a[index.ravel()]).reshape(*index.shape, *a.shape[1:]), self.arrays
                )
            }
        if self.remainder == "weights":
            position = (np.arange(first, first + count) % self.steps_per_epoch)[:, None] * self.batch_size
            row["weights"] = (position + np.arange(self.batch_size) < self.examples).astype(np.float32)
        if self.transform is not None:
            row["seed"] = np.full(count, self.seed % 2**32, np.uint32)
            row["step"] = np.arange(first, first + count, dtype=np.uint32)
        return row

    def indices(self, k: int) -> np.ndarray:
        """The examples of batch k; padding repeats the first of the epoch."""
        epoch, position = divmod(int(k), self.steps_per_epoch)
        order = self._order(epoch if self.shuffle else 0)
        index = order[position * self.batch_size : (position + 1) * self.batch_size]
        return index if len(index) == self.batch_size else np.resize(np.append(index, order), self.batch_size)

    def describe(self) -> dict[str, Any]:
        """What decides which examples batch k holds."""
        names = ("examples", "batch_size", "shuffle", "seed", "remainder")
        return {"kind": "arrays", **{name: getattr(self, name) for name in names}}

    def tail(self) -> PyTree:
        """The last examples in the order of epoch 0 that a dropped remainder leaves out."""
        used = self.steps_per_epoch * self.batch_size
        if self.remainder == "weights" or used == self.examples:
            return None
        index = self._order(0)[used:]
        batch = jax.tree.map(lambda a: jnp.asarray(np.asarray(a[index])), self.arrays)
        return (
            batch if self.transform is None else self.transform(batch, _key({"seed": self.seed % 2**32, "step": used}))
        )

    def _shuffled(self, epoch: int) -> np.ndarray:
        if not self.shuffle:
            return np.arange(self.examples, dtype=np.int32)
        words = np.random.Philox(key=np.array([self.seed, epoch], np.uint64)).random_raw(self.examples)
        return np.argsort(words, kind="stable").astype(np.int32)


@final
class StreamFeed(Feed):
    """Batches made on the host by a function of their number: files, databases, tokenizers.

    Parameters
    ----------
    function
        Batch number k: a pytree of arrays, a pure function of k, of equal shapes for every k.
    steps_per_epoch
        Batches an epoch, where the notion applies.

    Examples
    --------
    >>> import numpy as np
    >>> StreamFeed(lambda k: np.full(2, k, np.float32)).batch(3).tolist()
    [3.0, 3.0]
    """

    def __init__(self, function: Callable[[int], PyTree], steps_per_epoch: int | None = None):
        validation.integer(1, none=True)("steps_per_epoch", steps_per_epoch)
        self.function = function
        self.steps_per_epoch = None if steps_per_epoch is None else int(steps_per_epoch)

    @property
    def taker(self) -> Taker:
        """The batch as it was read."""
        return _Take(False, False, None)

    def rows(self, first: int, count: int) -> PyTree:
        """Batches, stacked."""
        batches = [self.function(k) for k in range(first, first + count)]
        return {"batch": jax.tree.map(lambda *a: np.stack([np.asarray(x) for x in a]), *batches)}

    def describe(self) -> dict[str, Any]:
        """The length of an epoch; the function is the caller's word."""
        return {"kind": "stream", "steps_per_epoch": self.steps_per_epoch}


@final
class GeneratedFeed(Feed):
    """Batches drawn on the device: collocation points, synthetic tasks, noise.

    Parameters
    ----------
    function
        Batch from a key: traceable, a pytree of arrays.
    seed
        Batch k is drawn with a key of its own, made of the seed and k.
    steps_per_epoch
        Batches an epoch, where the notion applies.

    Examples
    --------
    >>> import jax
    >>> GeneratedFeed(lambda key: jax.random.normal(key, (3,))).batch(0).shape
    (3,)
    """

    def __init__(self, function: Callable[[Any], PyTree], seed: int = 0, steps_per_epoch: int | None = None):
        validation.integer(0)("seed", seed)
        validation.integer(1, none=True)("steps_per_epoch", steps_per_epoch)
        self.function, self.seed = function, int(seed)
        self.steps_per_epoch = None if steps_per_epoch is None else int(steps_per_epoch)

    @property
    def taker(self) -> Taker:
        """The function at the step's key."""
        return _Draw(self.function)

    def capacity(self) -> int:
        """A row is two numbers."""
        return INDEX_ROWS

    def rows(self, first: int, count: int) -> PyTree:
        """The numbers that make each step's key."""
        steps = np.arange(first, first + count, dtype=np.uint32)
        return {"seed": np.full(count, self.seed % 2**32, np.uint32), "step": steps}

    def describe(self) -> dict[str, Any]:
        """The seed; the function is the caller's word."""
        return {"kind": "generated", "seed": self.seed, "steps_per_epoch": self.steps_per_epoch}


@dataclasses.dataclass(frozen=True)
class _Take:
    resident: bool
    weights: bool
    transform: Any

    def __call__(self, data: PyTree, row: PyTree) -> PyTree:
        if self.resident:
            batch = jax.tree.map(lambda a: a.at[row["index"]].get(mode="promise_in_bounds"), data)
        else:
            batch = row["batch"]
        if self.transform is not None:
            batch = self.transform(batch, _key(row))
        return (batch, row["weights"]) if self.weights else batch


@dataclasses.dataclass(frozen=True)
class _Draw:
    function: Any

    def __call__(self, data: PyTree, row: PyTree) -> PyTree:
        del data
        return self.function(_key(row))


def _key(row: PyTree) -> Any:
    # Folded once more than the trainer's keys: with equal seeds, noise in the data must not be that of the dropout.
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(row["seed"]), STREAM), row["step"])
