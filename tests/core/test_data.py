"""Reading data files."""

from __future__ import annotations

import gzip

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from corollary.core.data import SHIPPED, read
from corollary.core.errors import InputError


def write(path, text):
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped(name):
    table = read(name)
    assert table.rows == len(table.column("target"))
    assert len(table.names) == table.select(table.names).shape[1]
    assert table.is_text("target") == (name not in ("diabetes", "digits"))


def test_csv_kinds(tmp_path):
    text = "a;b;c;d\n1;x;true;2020-01-01\n;NA;false;1970-01-02\n"
    table = read(write(tmp_path / "t.csv", text))
    assert table.names == ("a", "b", "c", "d")
    np.testing.assert_array_equal(table.column("a"), [1.0, np.nan])
    assert table.column("b").tolist() == ["x", None]
    np.testing.assert_array_equal(table.select(["c", "d"]), [[1, 18262], [0, 1]])
    with pytest.raises(InputError, match="column 'b': found text"):
        table.select(["b"])
    mixed = table.select(["b", "a"], ["b"])
    assert mixed.column_names == ["b", "a"]
    assert np.isnan(mixed.column("a").to_numpy()[1])


def test_csv_without_names_bom_and_gzip(tmp_path):
    table = read(write(tmp_path / "t.csv", "1,2\n3,4\n"))
    assert table.names == ("column_0", "column_1")
    assert table.rows == 2
    assert table.notices
    assert read(write(tmp_path / "b.csv", "\ufeffa,b\n1,2\n")).names == ("a", "b")
    with gzip.open(tmp_path / "t.csv.gz", "wt") as file:
        file.write("a,b\n1,2\n")
    assert read(tmp_path / "t.csv.gz").names == ("a", "b")


def test_csv_type_that_changes_late(tmp_path):
    rows = ["1,1"] * 700_000 + ["1.5,word"]
    table = read(write(tmp_path / "t.csv", "a,b\n" + "\n".join(rows)))
    assert table.column("a")[-1] == 1.5
    assert table.column("b")[-1] == "word"


def test_wide_csv(tmp_path):
    X = np.round(np.random.default_rng(0).normal(size=(30, 3000)), 6)
    lines = [",".join(f"c{i}" for i in range(3000)), *(",".join(map(str, row)) for row in X.tolist())]
    table = read(write(tmp_path / "t.csv", "\n".join(lines)))
    np.testing.assert_array_equal(table.select(table.names), X)


def test_precision_is_kept(tmp_path):
    single = {"a": np.ones(3, np.float32), "b": np.ones(3, np.float32)}
    pyarrow.parquet.write_table(pa.table(single), tmp_path / "t.parquet")
    assert read(tmp_path / "t.parquet").select(["a", "b"]).dtype == np.float32
    pyarrow.parquet.write_table(pa.table({**single, "c": [1, 2, 3]}), tmp_path / "t.parquet")
    table = read(tmp_path / "t.parquet")
    assert table.select(["a", "c"]).dtype == np.float64
    np.savez(tmp_path / "t.npz", X=np.ones((2, 2), np.float32))
    assert read(tmp_path / "t.npz").select(["X0", "X1"]).dtype == np.float32


def test_arrow_oddities(tmp_path):
    odd = pa.table({
        "category": pa.array(["u", "v", None]).dictionary_encode(),
        "large": pa.array(["p", "q", "r"], pa.large_string()),
        "nothing": pa.nulls(3),
        "flag": pa.array([True, None, False]),
    })  # fmt: skip
    pyarrow.parquet.write_table(odd, tmp_path / "t.parquet")
    table = read(tmp_path / "t.parquet")
    assert table.is_text("category")
    assert table.is_text("large")
    assert table.empty() == ["nothing"]
    np.testing.assert_array_equal(table.select(["flag"])[:, 0], [1, np.nan, 0])
    pyarrow.parquet.write_table(pa.table({"list": [[1], [2]]}), tmp_path / "t.parquet")
    with pytest.raises(InputError, match="column 'list'"):
        read(tmp_path / "t.parquet")


def test_svmlight_columns_keep_their_index(tmp_path):
    one = read(write(tmp_path / "t.svmlight", "1 1:2 3:4\n-1 2:1\n"))
    assert one.names == ("1", "2", "3")
    assert one.sparse
    np.testing.assert_array_equal(one.select(["1", "2", "3", "4"]).toarray(), [[2, 0, 4, 0], [0, 1, 0, 0]])
    np.testing.assert_array_equal(one.column("3"), [4, 0])
    with pytest.raises(InputError, match="'9'"):
        one.column("9")
