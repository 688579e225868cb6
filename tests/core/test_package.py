"""The package as a newcomer meets it: cheap to import, every public name documented, every example right."""

from __future__ import annotations

import csv
import doctest
import importlib
import inspect
import os
import pathlib
import pkgutil
import subprocess
import sys

import jax
import numpy as np
import pytest

import corollary
from corollary.core import key_from, progress

ROOT = pathlib.Path(corollary.__file__).parent
ROOMS = sorted(p.parent.name for p in ROOT.glob("*/__init__.py"))
MODULES = sorted(m.name for m in pkgutil.walk_packages(corollary.__path__, "corollary.") if "__main__" not in m.name)


@pytest.mark.slow
def test_importing_the_package_costs_little_beside_jax():
    code = "import time, jax; t = time.perf_counter(); import corollary; print(time.perf_counter() - t)"
    seconds = min(float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(2))
    assert seconds < 0.15


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    module = importlib.import_module(name)
    with np.printoptions(legacy=False):
        result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert result.failed == 0


@pytest.mark.parametrize("room", [r for r in ROOMS if r != "cli"])
def test_public_names_exist_and_are_documented(room):
    module = importlib.import_module(f"corollary.{room}")
    for name in getattr(module, "__all__", []):
        thing = getattr(module, name)
        assert inspect.getdoc(thing) or not callable(thing), f"corollary.{room}.{name} has no docstring"


@pytest.mark.parametrize("room", ["linalg", "optim", "optim.transforms", "nn", "train"])
def test_the_reference_lists_every_public_name(room):
    page = (ROOT.parents[1] / "docs" / "reference" / f"{room.split('.')[-1]}.md").read_text(encoding="utf-8")
    listed = [line.strip(" -") for line in page.splitlines() if line.startswith("        - ")]
    module = importlib.import_module(f"corollary.{room}")
    assert sorted(listed) == sorted(n for n in module.__all__ if not inspect.ismodule(getattr(module, n)))


def atlas() -> list[dict[str, str]]:
    with (ROOT / "atlas.tsv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def test_the_atlas_is_sorted_unique_and_complete():
    rows = atlas()
    ids = [row["id"] for row in rows]
    assert ids == sorted(set(ids))
    assert all(value for row in rows for value in row.values())


@pytest.mark.parametrize("row", atlas(), ids=lambda row: row["id"])
def test_every_atlas_entry_leads_somewhere(row):
    target = row["object"]
    if target.startswith("docs/"):
        assert (ROOT.parents[1] / target).exists()
        return
    parts = target.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:cut]))
        except ImportError:
            continue
        break
    for part in parts[cut:]:
        thing = getattr(thing, part)


def test_seeds_make_keys():
    assert key_from(3) == key_from(np.int64(3))
    state = np.random.RandomState(0)
    assert key_from(state) != key_from(state)
    key_from(None)


def test_progress_is_fed_from_a_compiled_loop(capsys):
    def body(i, x):
        progress.report(i + 1, gap=x)
        return x / 2

    with progress.bar("halving", total=3):
        jax.block_until_ready(jax.jit(lambda x: jax.lax.fori_loop(0, 3, body, x))(1.0))
    assert "halving" in capsys.readouterr().err
    with progress.bar("silent", enabled=False):
        progress.show(1, gap=1.0)
    assert "silent" not in capsys.readouterr().err


@pytest.mark.slow
def test_the_compile_cache_is_filled(tmp_path):
    code = (
        "import jax, sys; from corollary.core import compile_cache; compile_cache.enable(sys.argv[1]);"
        "jax.jit(lambda x: x @ x.T)(jax.numpy.ones((4, 4)))"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, env={**os.environ, "JAX_PLATFORMS": "cpu"})
    assert any(tmp_path.iterdir())
