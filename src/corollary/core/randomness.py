"""Randomness: functions take a JAX `key`; estimators take scikit-learn's `random_state` and turn it into one."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Key
from sklearn.utils import check_random_state


def key_from(random_state: Any) -> Key[Array, ""]:
    """A JAX key from an int, a `numpy.random.RandomState` (which is advanced), or None (fresh entropy).

    Examples
    --------
    >>> bool(key_from(0) == key_from(0))
    True
    """
    if isinstance(random_state, int | np.integer):
        return jax.random.key(int(random_state) % 2**32)
    return jax.random.key(int(check_random_state(random_state).randint(2**31 - 1)))
