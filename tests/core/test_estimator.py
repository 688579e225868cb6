from __future__ import annotations

import json
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from sklearn.base import RegressorMixin
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import corollary
from corollary.core import (
    Certificate,
    CertificateWarning,
    Estimator,
    InputError,
    ModelFileError,
    Solution,
    Status,
    model_file,
    validation,
)


class Shrunk(RegressorMixin, Estimator):
    """A one-line model: the mean of y, shrunk."""

    _settings: ClassVar = {"alpha": validation.number(0), "fail": validation.flag, "bad": validation.flag}

    def __init__(self, alpha=1.0, fail=False, bad=False):
        self.alpha, self.fail, self.bad = alpha, fail, bad

    def fit(self, X, y, sample_weight=None):
        with self._fitting():
            X, y, _ = self._training_data(X, y, sample_weight)
            self.half_done_ = True
            if self.fail:
                raise RuntimeError("half way")
            mean = jnp.mean(jnp.asarray(y)) / (1 + self.alpha)
            size = Certificate("|mean| <= limit", measured=jnp.abs(mean), bound=jnp.where(self.bad, -1.0, 1e300))
            self._keep(Solution(mean, {"size": size}, Status.of(not self.bad)), mean_=mean)
        return self

    def predict(self, X):
        return np.full(self._new_data(X).shape[0], self.mean_)


X, Y = np.arange(6.0).reshape(3, 2), np.arange(3.0)


def test_float64_survives_and_the_global_switch_is_untouched():
    model = Shrunk().fit(X, Y)
    assert model.mean_.dtype == np.float64
    assert isinstance(model.certificates_["size"].measured, np.ndarray)
    assert not jax.config.jax_enable_x64


def test_a_failed_fit_leaves_the_object_as_it_was():
    model = Shrunk(fail=True)
    before = dict(vars(model))
    with pytest.raises(RuntimeError, match="half way"):
        model.fit(X, Y)
    assert vars(model) == before
    model.set_params(fail=False).fit(X, Y).set_params(fail=True)
    fitted = dict(vars(model))
    with pytest.raises(RuntimeError, match="half way"):
        model.fit(X[:2], Y[:2])
    assert vars(model) == fitted


def test_a_bad_setting_is_refused_by_name():
    with pytest.raises(InputError, match=r"alpha: found -1, expected a number in \[0, inf\]"):
        Shrunk(alpha=-1).fit(X, Y)


def test_what_does_not_hold_is_warned_of_with_the_remedy():
    with pytest.warns(CertificateWarning, match=r"stopped at the step limit.*size: .*DOES NOT HOLD"):
        Shrunk(bad=True).fit(X, Y)


@pytest.fixture
def allowed(monkeypatch):
    """Let this file's model be saved: files may only name what is on the list."""
    monkeypatch.setitem(model_file.RECORDS, __name__, ("Shrunk",))


def test_a_saved_model_predicts_the_same_bits(tmp_path, allowed):
    model = make_pipeline(StandardScaler(), Shrunk()).fit(X, Y)
    model_file.save(model, tmp_path, columns=["a", "b"], classes=np.array(["x", "yy"]), limit=np.inf)
    again, extra = model_file.load_with_extra(tmp_path)
    assert again.predict(X).tobytes() == model.predict(X).tobytes()
    assert again[-1].certificates_["size"].holds
    assert extra["columns"] == ["a", "b"]
    assert extra["limit"] == np.inf
    assert extra["classes"].tolist() == ["x", "yy"]
    assert corollary.load(tmp_path)[0].mean_.tobytes() == model[0].mean_.tobytes()


def test_categories_travel(tmp_path):
    table = np.array([["a", 1], ["b", 2]], dtype=object)
    encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False).fit(table)
    model_file.save(encoder, tmp_path)
    assert model_file.load(tmp_path).transform(table).tolist() == encoder.transform(table).tolist()


def rewrite(folder, **changes):
    path = folder / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "model.json").unlink(), "cannot be read"),
        (lambda d: (d / "model.json").write_text('{"format": "coro'), "truncated or not JSON"),
        (lambda d: (d / "model.json").write_text("[]"), "not a corollary-model file"),
        (lambda d: rewrite(d, format="other"), "not a corollary-model file"),
        (lambda d: rewrite(d, schema=99), "schema 99.*upgrade"),
        (lambda d: rewrite(d, schema=True), "malformed|schema"),
        (lambda d: (d / "model.safetensors").write_bytes(b"short"), "truncated or not the one"),
        (lambda d: rewrite(d, model={"class": "os:system", "params": {}, "state": {}}), "found class 'os:system'"),
        (lambda d: rewrite(d, model={"class": "corollary.linear:np", "params": {}, "state": {}}), "found class"),
        (lambda d: rewrite(d, model={"what": 1}), "found an entry with keys"),
        (lambda d: rewrite(d, model={"tensor": "nowhere"}), "malformed"),
    ],
)
def test_a_damaged_or_foreign_file_is_refused(tmp_path, allowed, damage, message):
    Shrunk().fit(X, Y).save(tmp_path)
    damage(tmp_path)
    with pytest.raises(ModelFileError, match=message):
        corollary.load(tmp_path)


def test_a_method_cannot_be_planted_over_a_dunder(tmp_path, allowed):
    Shrunk().fit(X, Y).save(tmp_path)
    tree = json.loads((tmp_path / "model.json").read_text())["model"]
    tree["state"]["__class__"] = "x"
    rewrite(tmp_path, model=tree)
    with pytest.raises(ModelFileError, match="not an attribute's name"):
        corollary.load(tmp_path)


def test_what_is_not_plain_data_is_refused_by_name_and_nothing_is_written(tmp_path, allowed):
    model = Shrunk().fit(X, Y)
    model.hook_ = lambda: None
    with pytest.raises(ModelFileError, match=r"model\.hook_: a builtins.function cannot be saved"):
        model.save(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_failed_write_keeps_the_last_good_model(tmp_path, allowed, monkeypatch):
    Shrunk().fit(X, Y).save(tmp_path)
    good = (tmp_path / "model.json").read_bytes()

    def full_disk(*_):
        raise OSError("no space left")

    monkeypatch.setattr(model_file.os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        Shrunk(alpha=3.0).fit(X, Y).save(tmp_path)
    assert (tmp_path / "model.json").read_bytes() == good
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.json", "model.safetensors"]


def test_the_arrays_are_plain_safetensors(tmp_path, allowed):
    Shrunk().fit(X, Y).save(tmp_path)
    assert "model.mean_" in safetensors.numpy.load_file(tmp_path / "model.safetensors")
