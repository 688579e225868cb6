"""The table of refusals: status 2, one line, which argument or column, what was found, what was expected."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from tests.cli.runner import refused, run

ROWS = "\n".join(f"{i},{(7 * i) % 11},{'ab'[i % 2]},{i * 0.5 + i % 3}" for i in range(30))
TABLE = f"x,z,kind,y\n{ROWS}\n"


def write(folder, text, name="t.csv"):
    path = folder / name
    path.write_bytes(text) if isinstance(text, bytes) else path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "options", "match"),
    [
        ("", [], ("DATA", "empty")),
        ("x,z,kind,y\n", [], ("DATA", "no rows")),
        ("x,y\n1,2\n", [], ("DATA", "found 1 row")),
        ("x,y\n1,2\n3\n4,5\n", [], ("DATA", "found 1 cells", "expected 2")),
        ("x,y,y\n1,2,3\n1,2,3\n", [], ("column 'y'", "twice")),
        ("y\n1\n2\n3\n4\n5\n6\n", [], ("no column to learn from",)),
        (b"x,y\n\xff\xfe,2\n", [], ("DATA",)),
        ("x,y\n1,2\ninf,3\n" + "1,2\n" * 9, [], ("column 'x'", "infinity", "row 2")),
        ("x,y\n1e300,2\n-1e300,3\n" + "1,2\n3,1\n" * 9, [], ("column 'x'", "overflows")),
        ("x,y\n1,\n2,3\n" + "1,2\n" * 9, [], ("column 'y'", "1 of 11 rows without a value")),
        (TABLE, ["--target", "yy"], ("'yy'", "'y'")),
        (TABLE, ["--target", "kind"], ("column 'kind'", "text", "expected numbers", "logistic")),
        (TABLE, ["--model", "logistic"], ("column 'y'", "distinct numbers", "ridge")),
        (TABLE, ["--model", "rigde"], ("--model", "'rigde'", "did you mean 'ridge'", "lasso")),
        (TABLE, ["--test-size", "1.5"], ("--test-size", "1.5", "between 0 and 1")),
        (TABLE, ["--test-size", "0"], ("--test-size", "0")),
        (TABLE, ["--test-size", "0.99"], ("DATA", "2 to learn from")),
        (TABLE, ["--test-size", "half"], ("--test-size",)),
        (TABLE, ["--seed", "-1"], ("--seed",)),
        (TABLE, ["--colour", "red"], ("--colour",)),
        ("x,y\n1,a\n2,a\n3,a\n4,a\n", ["--model", "logistic"], ("column 'y'", "one class only")),
        ("x,y\n1,a\n2,a\n3,a\n4,b\n", ["--model", "logistic"], ("column 'y'", "one row of class 'b'")),
    ],
)
def test_fit_refuses(text, options, match, tmp_path):
    path = write(tmp_path, text)
    words = {"--target": "y", "--model": "ridge"} | dict(zip(options[::2], options[1::2], strict=True))
    refused("fit", path, *(part for pair in words.items() for part in pair), "--out", tmp_path / "run", match=match)
    assert [p.name for p in tmp_path.iterdir()] == ["t.csv"]


def test_fit_refuses_other_files(tmp_path):
    options = ("--target", "y", "--model", "ridge")
    refused("fit", tmp_path / "none.csv", *options, match=("DATA", "does not exist", "diabetes"))
    refused("fit", tmp_path, *options, match=("DATA", "is a folder"))
    refused("fit", write(tmp_path, "1", "t.xlsx"), *options, match=("DATA", "t.xlsx", ".csv"))
    refused("fit", write(tmp_path, "junk", "t.parquet"), *options, match=("DATA", "Parquet"))
    refused("fit", write(tmp_path, "junk", "t.npz"), *options, match=("DATA", "NPZ"))
    refused("fit", write(tmp_path, "a:b c", "t.svmlight"), *options, match=("DATA", "svmlight"))
    np.savez(tmp_path / "o.npz", X=np.array([["a", None]], dtype=object), y=np.zeros(1))
    refused("fit", tmp_path / "o.npz", *options, match=("DATA", "NPZ"))
    np.savez(tmp_path / "l.npz", X=np.zeros((3, 2)), y=np.zeros(4))
    refused("fit", tmp_path / "l.npz", *options, match=("expected equal lengths",))
    refused("fit", write(tmp_path, TABLE), "--model", "ridge", match=("--target", "expected a column", "'kind'"))
    refused("fit", match="DATA")
    refused("fit", "iris", match="--model")
    refused("fly", match="fly")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    run("fit", write(folder, TABLE), "--target", "y", "--model", "ridge", "--out", folder / "run")
    return folder


def test_predict_refuses(saved, tmp_path):
    new, good = write(tmp_path, TABLE), saved / "run"
    refused("predict", tmp_path / "none", new, match=("model.json", "cannot be read"))
    refused("predict", good, tmp_path / "none.csv", match=("DATA", "does not exist"))
    refused("predict", good, new, "--out", tmp_path / "no" / "file.csv", match="--out")
    refused("predict", good, write(tmp_path, "x,kind\n1,a\n", "m.csv"), match=("column 'z'", "not in m"))
    refused(
        "predict",
        good,
        write(tmp_path, "x,z,kind\n1,what,a\n", "w.csv"),
        match=("column 'z'", "'what'", "expected numbers"),
    )


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-3]), "truncated"),
        (lambda f: (f / "model.json").write_text((f / "model.json").read_text()[:99]), "truncated"),
        (lambda f: (f / "model.json").write_text("{}"), "not a corollary-model file"),
        (lambda f: edit(f, schema=999), "upgrade corollary"),
        (lambda f: edit(f, model={"class": "os:system", "params": {}, "state": {}}), "os:system"),
        (lambda f: edit(f, extra={}), "corollary fit"),
    ],
)
def test_predict_refuses_damaged_models(damage, match, saved, tmp_path):
    shutil.copytree(saved / "run", tmp_path / "run")
    damage(tmp_path / "run")
    refused("predict", tmp_path / "run", saved / "t.csv", match=match)


def edit(folder, **changes):
    path = folder / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_predict_tolerates_what_it_can(saved, tmp_path):
    more = "spare,y,kind,z,x\n1,0,a,3,4\n2,0,c,,5\n3,0,,1,6\n"
    result = run("predict", saved / "run", write(tmp_path, more))
    assert "columns ignored: spare" in result.stderr
    assert "z (1)" in result.stderr
    assert "kind: None, c" in result.stderr
    values = [float(line.split(",")[1]) for line in result.stdout.splitlines()[1:]]
    assert len(values) == 3
    assert np.isfinite(values).all()


def test_compare_refuses():
    words = ("compare", "diabetes", "--target", "target")
    refused(*words, "--models", "ridge", match=("--models", "two"))
    refused(*words, "--models", "ridge,ridge", match="--models")
    refused(*words, "--models", "ridge,logistic", match=("--models", "only"))
    refused(*words, "--models", "ridge,nonsense", match=("--models", "nonsense"))
    refused(*words, "--models", "ridge,ols", "--folds", "1", match="--folds")
    refused(*words, "--models", "ridge,ols", "--folds", "999", match="--folds")
    refused(*words, "--models", "ridge,ols", "--set", "lasso.alpha=1", match=("--set", "'lasso'"))
    refused("atlas", "--room", "cellar", match=("--room", "cellar"))
