"""`corollary fit` end to end: every shipped data set, every file format, what lies in the folder afterwards."""

from __future__ import annotations

import csv
import html.parser
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import scipy.sparse
from sklearn.datasets import dump_svmlight_file, load_diabetes

import corollary
from corollary.cli import signals
from corollary.cli.training import train
from corollary.core.certificate import Certificate
from tests.cli.runner import refused, run

FILES = ["metrics.json", "model.json", "model.safetensors", "predictions.csv", "report.html"]
SHIPPED = [
    ("diabetes", "lasso"),
    ("breast_cancer", "logistic"),
    ("iris", "logistic"),
    pytest.param("wine", "logistic", marks=pytest.mark.slow),
    pytest.param("digits", "logistic", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """The README's command."""
    out = tmp_path_factory.mktemp("runs") / "runs" / "first"
    result = run("fit", "diabetes", "--target", "target", "--model", "lasso", "--out", out)
    return out, result


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A table with numbers, text, gaps, booleans and dates."""
    rng = np.random.default_rng(0)
    n = 120
    city, size = rng.choice(["Bern", "Oslo", "Rome"], n), rng.normal(size=n)
    price = 3 * size + 2.0 * (city == "Oslo") + 0.1 * rng.normal(size=n)
    path = tmp_path_factory.mktemp("data") / "homes.csv"
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["city", "size", "new", "built", "price"])
        for i in range(n):
            text = "" if i == 7 else city[i]
            number = "" if i in (3, 50) else f"{size[i]:.17g}"
            writer.writerow([text, number, ["true", "false"][i % 2], f"20{i % 20:02}-01-02", f"{price[i]:.17g}"])
    return path


class _Links(html.parser.HTMLParser):
    """Everything on a page that a browser would fetch."""

    def __init__(self, text):
        super().__init__()
        self.outside, self.ids, self.refs = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "action", "srcset", "data"):
                (self.refs if value.startswith("#") else self.outside).append(value)
            if name == "id":
                self.ids.append(value)
        if tag in ("script", "link", "iframe", "object", "embed"):
            self.outside.append(tag)


def test_readme_command_writes_the_whole_folder(first):
    out, result = first
    assert sorted(p.name for p in out.iterdir()) == FILES
    assert [p.name for p in out.parent.iterdir()] == ["first"]  # no temporary sibling stays
    for word in ("R²", "RMSE", "duality gap", "compile time", "bound", "report.html"):
        assert word in result.stdout
    assert result.stderr == ""


def test_report_is_one_file_and_tells_every_certificate(first):
    out, _ = first
    text = (out / "report.html").read_text(encoding="utf-8")
    page = _Links(text)
    assert [link for link in page.outside if not link.startswith("data:image/")] == []
    assert {ref[1:] for ref in page.refs} <= set(page.ids)
    assert "@import" not in text
    assert "url(http" not in text
    import html as escaping

    model = corollary.load(out).named_steps["model"]
    assert model.certificates_
    for certificate in model.certificates_.values():
        assert escaping.escape(certificate.explain()) in text
    for heading in ("Certificates", "Convergence", "Coefficients", "Held-out rows", "Details"):
        assert f"<h2>{heading}</h2>" in text


def test_metrics_agree_with_predictions(first):
    out, _ = first
    scores = json.loads((out / "metrics.json").read_text())["scores"]
    rows = list(csv.DictReader((out / "predictions.csv").read_text().splitlines()))
    y, p = (np.array([float(r[k]) for r in rows]) for k in ("actual", "predicted"))
    assert scores["RMSE"]["value"] == pytest.approx(np.sqrt(np.mean((y - p) ** 2)), rel=1e-12)
    low, high = scores["R²"]["interval_95"]
    assert low < scores["R²"]["value"] < high
    np.testing.assert_array_equal(load_diabetes().target[[int(r["row"]) - 1 for r in rows]], y)


@pytest.mark.parametrize(("data", "model"), SHIPPED)
def test_every_shipped_data_set(data, model, tmp_path):
    run("fit", data, "--target", "target", "--model", model, "--out", tmp_path / "run", "--strict")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["holds"] is True
    report = (tmp_path / "run" / "report.html").read_text()
    assert ("Calibration" in report) == (model == "logistic")
    if model == "logistic":
        assert metrics["scores"]["accuracy"]["value"] > 0.9
        assert metrics["scores"]["log loss"]["value"] < 0.5
    else:
        assert metrics["scores"]["R²"]["value"] > 0.2


@pytest.mark.parametrize("model", ["linear", "ridge-cv", "lasso-cv", "elastic-net"])
def test_every_regression_model(model, tmp_path):
    run("fit", "diabetes", "--target", "target", "--model", model, "--out", tmp_path / "run")
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["scores"]["R²"]["value"] > 0.2


def test_pca_needs_no_target(tmp_path):
    run("fit", "wine", "--model", "pca", "--out", tmp_path / "run")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["scores"]["variance kept"]["value"] > 0.8
    run("fit", "wine", "--model", "pca", "--set", "n_components=2", "--out", tmp_path / "run")
    assert (tmp_path / "run" / "predictions.csv").read_text().splitlines()[0].count(",") == 2
    run("predict", tmp_path / "run", "wine", "--out", tmp_path / "scores.csv")


def test_mixed_columns(mixed, tmp_path):
    result = run(
        "fit", mixed, "--target", "price", "--model", "ridge", "--set", "alpha=0.01", "--out", tmp_path / "run"
    )
    assert "dates are counted in days" in result.stdout
    assert "missing entries filled with the training mean: size (2)" in result.stdout
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["scores"]["R²"]["value"] > 0.9
    run("fit", mixed, "--target", "city", "--model", "logistic", status=2)  # a row without a city


def test_same_numbers_from_every_format(tmp_path):
    rng = np.random.default_rng(1)
    X = rng.normal(size=(60, 4))
    X[:, 3] *= X[:, 3] > 1
    y = X @ [1.0, -2.0, 0.0, 0.5] + 0.1 * rng.normal(size=60)
    names = ["a", "b", "c", "d"]
    columns = {**{n: X[:, i] for i, n in enumerate(names)}, "y": y}
    pyarrow.parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
    np.savez(tmp_path / "t.npz", X=X, y=y)
    np.savez(tmp_path / "named.npz", **columns)
    for suffix, mark in (("csv", ","), ("tsv", "\t")):
        lines = [mark.join(columns), *(mark.join(f"{v:.17g}" for v in row) for row in np.column_stack([X, y]))]
        (tmp_path / f"t.{suffix}").write_text("\n".join(lines) + "\n")
    found = []
    for name in ("t.parquet", "t.npz", "named.npz", "t.csv", "t.tsv"):
        found.append(train(str(tmp_path / name), "y", "ridge", (), 0.2, 0, "")[3]["predicted"].tobytes())
    assert len(set(found)) == 1


def test_svmlight_stays_sparse(tmp_path):
    rng = np.random.default_rng(2)
    X = scipy.sparse.random_array((80, 30), density=0.2, rng=rng, format="csr")
    dump_svmlight_file(X, X @ rng.normal(size=30), str(tmp_path / "t.svmlight"), zero_based=False)
    run("fit", tmp_path / "t.svmlight", "--model", "ridge", "--out", tmp_path / "run")
    model = corollary.load(tmp_path / "run")
    assert model.named_steps["prepare"].with_mean is False
    dump_svmlight_file(X[:5, :20], np.zeros(5), str(tmp_path / "new.svmlight"), zero_based=False)
    result = run("predict", tmp_path / "run", tmp_path / "new.svmlight")
    assert len(result.stdout.splitlines()) == 6


def test_same_seed_same_bits():
    one, two, other = (train("diabetes", None, "lasso", (), 0.2, seed, "")[0] for seed in (0, 0, 1))
    assert one.predicted.tobytes() == two.predicted.tobytes()
    assert one.scores == two.scores
    assert one.predicted.tobytes() != other.predicted.tobytes()


def test_settings_take_the_type_of_their_default(tmp_path):
    words = ("fit", "diabetes", "--target", "target", "--model", "ridge", "--out", tmp_path / "run")
    run(*words, "--set", "alpha=1", "--set", "fit_intercept=false")
    model = corollary.load(tmp_path / "run").named_steps["model"]
    assert model.alpha == 1.0
    assert model.fit_intercept is False
    refused(*words, "--set", "alpha=much", match=("--set alpha", "'much'"))
    refused(*words, "--set", "alpha=-1", match=("--set alpha", "-1", "expected"))
    refused(*words, "--set", "alfa=1", match=("--set", "'alfa'", "alpha"))
    refused(*words, "--set", "alpha", match=("--set", "key=value"))


def test_strict_exits_with_three(monkeypatch, tmp_path):
    from corollary.linear import Ridge

    bad = Certificate("1 <= 0", measured=1.0, bound=0.0, kind="exact", source="a planted failure")
    fitted = Ridge.fit

    def fit(self, X, y):
        fitted(self, X, y)
        self.certificates_["planted"] = bad
        return self

    monkeypatch.setattr(Ridge, "fit", fit)
    words = ("fit", "diabetes", "--model", "ridge", "--out", tmp_path / "run")
    result = run(*words, "--strict", status=3)
    assert "NO" in result.stdout
    assert len(result.stderr.strip().splitlines()) == 1
    assert "DOES NOT HOLD" in (tmp_path / "run" / "report.html").read_text()
    run(*words)


def test_replaces_a_previous_run_and_nothing_else(first, tmp_path, monkeypatch):
    out = tmp_path / "run"
    words = ("fit", "diabetes", "--model", "ridge", "--out", out)
    run(*words)
    before = (out / "model.json").read_bytes()
    run(*words, "--set", "alpha=7")
    assert (out / "model.json").read_bytes() != before
    before = {p.name: p.read_bytes() for p in out.iterdir()}

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("corollary.report.fit_page", interrupt)  # the last file to be written
    result = run(*words, status=130)
    assert "Traceback" not in result.output
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    run("fit", "diabetes", "--model", "ridge", "--out", tmp_path / "a" / "b", status=130)
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
    monkeypatch.undo()
    (out / "thesis.tex").write_text("years of work")
    refused(*words, match=("--out", "thesis.tex"))
    assert (out / "thesis.tex").read_text() == "years of work"
    (tmp_path / "file").write_text("")
    refused(*words[:-1], tmp_path / "file", match="--out")
    refused(*words[:-1], tmp_path / "file" / "below", match="--out")


def test_failure_while_fitting_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise MemoryError("planted")

    monkeypatch.setattr("corollary.cli.training.fit_quietly", fail)
    refused("fit", "diabetes", "--model", "ridge", "--out", tmp_path / "deep" / "run", match="memory")
    assert list(tmp_path.iterdir()) == []


def test_interrupted_process(tmp_path):
    code = """if True:
        import os, signal
        from corollary.cli import main, training
        read = training.read
        training.read = lambda name: (os.kill(os.getpid(), signal.SIGINT), read(name))[1]
        main()"""
    words = [sys.executable, "-c", code, "fit", "iris", "--model", "logistic", "--out", "runs/first"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
    assert list(tmp_path.iterdir()) == []


def test_swallowed_signal_still_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(signals, "_received", [])
    with pytest.raises(KeyboardInterrupt):
        signals._interrupt(signal.SIGTERM, None)  # raised inside a callback of the runtime, it goes no further
    run("fit", "diabetes", "--model", "ridge", "--out", tmp_path / "run", status=143)
    assert list(tmp_path.iterdir()) == []


def test_help_is_quick_and_reads_well():
    assert run("--version").stdout == f"corollary {corollary.__version__}\n"
    bare = run(status=2)
    assert "compare" in bare.output
    assert "error" not in bare.stderr
    code = "import sys; from corollary.cli import app; assert 'jax' not in sys.modules and 'sklearn' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    for words, promised in (
        ((), "fit"),
        (("fit",), "--test-size"),
        (("predict",), "NEWDATA"),
        (("compare",), "--folds"),
        (("atlas",), "WORDS"),
    ):
        assert promised in run(*words, "--help").stdout
