"""The page: escaping, pictures that share one page, bad certificates shown as bad."""

from __future__ import annotations

import numpy as np
import pytest

from corollary.core.certificate import Certificate
from corollary.report import html, pictures

GOOD = Certificate("gap <= tol", measured=1e-9, bound=1e-6, kind="exact", source="a test")
BAD = Certificate("gap <= tol", measured=1.0, bound=1e-6, kind="exact", source="a test")
GUESS = Certificate("noise", measured=1.0, kind="estimate", stderr=0.1)
ZERO = Certificate("defect <= 0", measured=0.0, bound=0.0, kind="exact", source="a test")
LOST = Certificate("gap <= tol", measured=np.nan, bound=1.0, kind="exact", source="a test")


def test_text_is_escaped():
    page = html.page("<b>&", "a", [html.Section("<i>", html.table(["<u>"], [["<script>"]]))])
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "<title>&lt;b&gt;&amp;" in page


def test_claims_tell_the_verdict():
    text = html.claims({"good": GOOD, "bad": BAD, "guess": GUESS})
    assert text.count('class="badge"') == 1
    assert text.count("does not hold") == 1
    assert "badge neutral" in text
    assert "no certificate" in html.claims({})


@pytest.mark.parametrize(
    "draw",
    [
        lambda: pictures.certificates({"a": GOOD, "b": BAD, "c": GUESS, "d": ZERO, "e": LOST}),
        lambda: pictures.certificates({"c": GUESS}),
        lambda: pictures.coefficients(["a$b", "c" * 60], [1.0, -2.0]),
        lambda: pictures.coefficients(["a"], [0.0]),
        lambda: pictures.coefficient_map(["a", "b"], np.eye(2), ["x", "y"]),
        lambda: pictures.agreement(np.arange(5000.0), np.arange(5000.0)),
        lambda: pictures.residuals(np.zeros(3), np.zeros(3)),
        lambda: pictures.confusion(np.array(["a", "b"]), np.array(["a", "a"]), ["a", "b"]),
        lambda: pictures.calibration(np.array([True, False]), np.array([0.9, 0.1])),
        lambda: pictures.explained([0.7, 0.3]),
        lambda: pictures.scatter(np.zeros((4, 1))),
        lambda: pictures.comparison(["a", "b"], np.array([[1.0, 2.0], [1.5, 2.5]]), "R²"),
    ],
)
def test_pictures_follow_the_page(draw):
    text = html.svg(draw())
    assert text.startswith("<svg")
    assert "<metadata" not in text
    assert "#000000" not in text
    assert "#0b7285" not in text
    assert "font-family" not in text
    assert "font:" not in text


def test_two_pictures_share_no_id():
    import re

    one, two = (set(re.findall(r'id="([^"]+)"', html.svg(pictures.explained([1.0])))) for _ in range(2))
    assert one
    assert not one & two
