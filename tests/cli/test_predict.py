"""`corollary predict`: the saved folder is enough, and gives the same bits."""

from __future__ import annotations

import csv

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from sklearn.datasets import load_diabetes, load_iris

import corollary
from corollary.core.data import read
from tests.cli.runner import run


@pytest.mark.parametrize(("data", "model"), [("diabetes", "lasso"), ("diabetes", "ols"), ("iris", "logistic")])
def test_saved_predictions_are_the_same_bits(data, model, tmp_path):
    run("fit", data, "--model", model, "--out", tmp_path / "run")
    rows = list(csv.DictReader((tmp_path / "run" / "predictions.csv").read_text().splitlines()))
    held_out = [int(r["row"]) - 1 for r in rows]
    table = read(data)
    new = pa.table({name: table.column(name)[held_out] for name in table.names})
    pyarrow.csv.write_csv(new, tmp_path / "new.csv")
    run("predict", tmp_path / "run", tmp_path / "new.csv", "--out", tmp_path / "again.csv")
    again = list(csv.DictReader((tmp_path / "again.csv").read_text().splitlines()))
    for name in again[0]:
        if name != "row":
            assert [r[name] for r in again] == [r[name] for r in rows]
    loaded = corollary.load(tmp_path / "run")
    X = (load_diabetes() if data == "diabetes" else load_iris()).data[held_out]
    assert [str(v) for v in loaded.predict(X).tolist()] == [
        str(type(loaded.predict(X).tolist()[0])(r["predicted"])) for r in rows
    ]


def test_text_columns_by_name(tmp_path):
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(3)
    frame = pandas.DataFrame({"kind": rng.choice(["a", "b"], 50), "x": rng.normal(size=50)})
    frame["y"] = frame.x + (frame.kind == "b")
    frame.to_csv(tmp_path / "t.csv", index=False)
    run("fit", tmp_path / "t.csv", "--target", "y", "--model", "ridge", "--out", tmp_path / "run")
    result = run("predict", tmp_path / "run", tmp_path / "t.csv")
    values = np.array([float(line.split(",")[1]) for line in result.stdout.splitlines()[1:]])
    loaded = corollary.load(tmp_path / "run")
    np.testing.assert_array_equal(loaded.predict(frame[["kind", "x"]]), values)  # a DataFrame does as well


def test_codes_stay_text(tmp_path):
    lines = ["code,x,y", *(f"{'A' if i % 2 else '007'},{i},{i % 2 + 0.1 * i}" for i in range(40))]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    run("fit", tmp_path / "t.csv", "--target", "y", "--model", "ridge", "--out", tmp_path / "run")
    (tmp_path / "new.csv").write_text("code,x\n007,1\n007,3\n")  # numbers, were it not for the schema
    result = run("predict", tmp_path / "run", tmp_path / "new.csv")
    assert "unseen" not in result.stderr
    assert len(result.stdout.splitlines()) == 3
