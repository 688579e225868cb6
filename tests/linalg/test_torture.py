"""Every decomposition and solver of the room on the matrices of `torture`, in both precisions, against the truth.

For each pair: finite input gives no NaN; each certificate holds, unless the table says where a method may decline; and
what a certificate promises is true in extended precision. Adding a line to `torture_table.ENTRIES` buys these laws.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest

from corollary.core.errors import InputError
from corollary.core.solution import Solution, Status
from tests.linalg import torture
from tests.linalg.torture import WIDE, Matrix
from tests.linalg.torture_table import ENTRIES, Entry
from tests.linalg.torture_truths import M, N, wide

SHAPES = {"tall": ("any", M, N), "long": ("any", 10 * N, N), "wide": ("any", N, M), "square": ("any", N, N)}


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("name", ENTRIES)
def test_certificates_hold_or_say_so_and_are_true(name, kind):
    entry = ENTRIES[name]
    sort, m, n = SHAPES.get(entry.kind, (entry.kind, N, N))
    wrong = []
    for title, A in torture.matrices(sort, kind, m, n):
        if title in entry.refuses:
            with pytest.raises(InputError):
                entry.call(A)
            continue
        found = entry.call(A)
        wrong += [f"{title}: {complaint}" for complaint in complaints(entry, title, A, found)]
    assert not wrong, "\n".join(wrong)


def complaints(entry: Entry, title: str, A: Matrix, found: Any) -> Iterator[str]:
    """What is wrong with an answer."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(found):
        leaf = np.asarray(leaf)
        if leaf.dtype.kind in "fc" and np.isnan(leaf).any():
            yield f"NaN in {jax.tree_util.keystr(path)}"
    if isinstance(found, Solution):
        value = [np.asarray(leaf) for leaf in jax.tree.leaves(found.value)]
        if not (entry.infinite or all(np.isfinite(leaf).all() for leaf in value if leaf.dtype.kind in "fc")):
            yield "an infinite value"
            return
        if title not in entry.declines and not bool(np.all(found.converged)):
            yield f"status {Status.text(found.status)}"
    certificates = getattr(found, "certificates", {})
    if title not in entry.declines:
        for label, certificate in certificates.items():
            if not bool(np.all(certificate.holds)):
                yield f"{label}: {certificate.explain()}"
    for label, true, bound in entry.truth(A, found):
        certificate = certificates.get(label.replace(" ", "_"))
        if certificate is not None and not bool(np.all(certificate.holds)):
            continue  # it claims nothing
        extended = 1e3 * np.finfo(WIDE).eps * max(1, abs(float(bound)))
        if not true <= wide(bound) + extended:
            yield f"FALSE CLAIM {label}: truth {float(true):.3g} against {float(bound):.3g}"
