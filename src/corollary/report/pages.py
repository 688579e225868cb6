"""The report of one fit, and of a comparison: which pictures and tables go on the page, and in which order."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from corollary.core import draw
from corollary.core.certificate import Certificate
from corollary.report import html, pictures
from corollary.report.html import Section
from corollary.report.scores import Score


@dataclasses.dataclass(frozen=True)
class FitRun:
    """One finished fit: what was asked, what came out, and what held-out rows say of it."""

    data: str
    model: str
    kind: str
    target: str | None
    command: str
    estimator: Any  # the model itself, without its preparation
    features: Sequence[str]  # the columns that the model saw
    rows: Mapping[str, int]
    scores: Sequence[Score]
    seconds: Mapping[str, float]
    notices: Sequence[str] = ()
    actual: Any = None
    predicted: Any = None
    probability: Any = None
    projected: Any = None
    gaps: tuple[Any, Any] | None = None  # numbers of steps, and the duality gap after each
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def certificates(self) -> Mapping[str, Certificate]:
        """What the model claims of itself."""
        return getattr(self.estimator, "certificates_", {})

    @property
    def holds(self) -> bool:
        """Whether every certificate holds and the solver reached its tolerance."""
        solution = getattr(self.estimator, "solution_", None)
        converged = solution is None or bool(np.all(solution.converged))
        return converged and all(bool(np.all(c.holds)) for c in self.certificates.values())


def fit_page(run: FitRun) -> str:
    """The page of one fit, as HTML text.

    Holds the scores with their intervals, the convergence curve beside its bound, the coefficients or components,
    residuals or confusion matrix and calibration, and every certificate in a sentence.
    """
    title = f"{run.model} of {run.data}" if run.kind == "reduction" else f"{run.model}: {run.target} from {run.data}"
    counts = f"{run.rows['train']:,} rows to learn from, {run.rows['test']:,} held out, {len(run.features):,} columns"
    sections = [
        Section("", _verdict(run) + html.tiles(_tile(s) for s in run.scores) + _notices(run.notices)),
        _certificates(run),
        *_convergence(run),
        *_learnt(run),
        *_held_out(run),
        _details(run),
    ]
    return html.page(title, counts, sections, "Scores are on rows that the fit never saw; ranges are 95 % intervals.")


def comparison_page(
    title: str,
    subtitle: str,
    models: Sequence[str],
    folds: np.ndarray,
    score: str,
    table: tuple[Sequence[str], Sequence[Sequence[Any]]],
    certificates: Mapping[str, Mapping[str, Certificate]],
    command: str,
) -> str:
    """The page of a comparison: the paired folds' picture, the table, each model's certificates on the last fold."""
    caption = "Points with bars: mean over folds and its standard error. Each faint line joins one fold's scores."
    header, rows = table
    sections = [
        Section("", html.figure(pictures.comparison(models, folds, score), caption)),
        Section("Scores", html.table(header, rows, range(1, len(header))), _PAIRED),
        *(Section(f"Certificates of {name}, last fold", html.claims(c)) for name, c in certificates.items()),
        Section("How to run it again", f"<p><code>{html.escape(command)}</code></p>"),
    ]
    return html.page(title, subtitle, sections)


_PAIRED = (
    "Every model saw the same folds. The difference to the best is paired by fold; its 95 % interval uses Nadeau and "
    "Bengio's correction for training sets that overlap."
)


def show(value: float, digits: int = 4) -> str:
    """A number for people: short, and never rounded to nothing."""
    return "–" if value is None or not np.isfinite(value) else f"{value:.{digits}g}"


def _tile(score: Score) -> tuple[str, str, str]:
    span = f"{show(score.low, 3)} to {show(score.high, 3)} ({score.method})"
    if score.baseline is not None:
        span += f"; baseline {show(score.baseline, 3)}"
    return score.name, show(score.value), span


def _verdict(run: FitRun) -> str:
    bounds = [c for c in run.certificates.values() if c.bound is not None]
    if run.holds:
        text = f"All {len(bounds)} certificates hold." if len(bounds) != 1 else "The certificate holds."
        return f'<p class="verdict">{text if bounds else "This model issues no bound."}</p>'
    failed = [n.replace("_", " ") for n, c in run.certificates.items() if not np.all(c.holds)]
    text = f"Does not hold: {', '.join(failed)}. " if failed else ""
    solution = getattr(run.estimator, "solution_", None)
    text += "" if solution is None or np.all(solution.converged) else f"The solver {solution.message}."
    return f'<p class="verdict bad">{html.escape(text)}</p>'


def _notices(notices: Sequence[str]) -> str:
    items = "".join(f"<li>{html.escape(n)}</li>" for n in notices)
    return f'<ul class="note">{items}</ul>' if items else ""


def _certificates(run: FitRun) -> Section:
    body = html.claims(run.certificates)
    if any(c.bound is not None for c in run.certificates.values()):
        caption = (
            "Each claim's measured value as a fraction of its bound (dashed, at 1): further left is further inside."
        )
        body = html.figure(pictures.certificates(run.certificates), caption) + body
    return Section("Certificates", body, "What is claimed of this fit, what was measured, and whether it holds.")


def _convergence(run: FitRun) -> list[Section]:
    """The solver's own history, or the gap by number of steps, beside the bound; a direct solver has neither."""
    solution: Any = getattr(run.estimator, "solution_", None)
    gap = run.certificates.get("duality_gap")
    if run.gaps is not None and gap is not None:
        caption = (
            "Solid: the duality gap, which bounds F − F*, by number of steps, where finite. Dashed: its tolerance."
        )
        return [
            Section("Convergence", html.figure(pictures.gap(*run.gaps, float(np.min(np.asarray(gap.bound)))), caption))
        ]
    history = getattr(solution, "history", None) or {}
    if not any(np.ndim(v) == 1 and np.any(np.asarray(v, dtype=float) > 0) for v in history.values()):
        return []
    caption = "Solid: measured at each step. Dashed: what the theorem or the certificate allows."
    ax = draw.convergence(solution)
    if gap is not None and "duality_gap" in history:
        ax.axhline(float(np.min(np.asarray(gap.bound))), color=draw.BOUND, linestyle="--", linewidth=1.2)
    return [Section("Convergence", html.figure(ax, caption))]


def _learnt(run: FitRun) -> list[Section]:
    model = run.estimator
    if run.kind == "reduction":
        parts = html.figure(
            pictures.explained(model.explained_variance_ratio_), "Variance explained by each component; line: in total."
        )
        parts += html.figure(pictures.scatter(run.projected), "Held-out rows on the first two components.")
        loadings = np.asarray(model.components_)[:6].T
        names = [f"PC{i + 1}" for i in range(loadings.shape[1])]
        heat = html.figure(
            pictures.coefficient_map(run.features, loadings, names), "Loadings of the columns that weigh most."
        )
        return [Section("Components", html.figures(parts, heat))]
    coef = np.atleast_2d(np.asarray(getattr(model, "coef_", np.zeros((1, 0)))))
    if coef.shape[1] != len(run.features):
        return []
    nonzero = int(np.sum(np.any(coef != 0, axis=0)))
    kept = f"{nonzero:,} of {len(run.features):,} columns have a coefficient that is not zero. "
    note = "Columns are standardised: a coefficient is the effect of one standard deviation, or of being in a category."
    if len(coef) == 1:
        picture = html.figure(pictures.coefficients(run.features, coef[0]), kept + "The largest are shown.")
    else:
        heat = pictures.coefficient_map(run.features, coef.T, [str(c) for c in model.classes_])
        picture = html.figure(heat, kept + "Columns with the largest coefficients, by class.")
    return [Section("Coefficients", picture, note)]


def _held_out(run: FitRun) -> list[Section]:
    if run.kind == "regression":
        left = html.figure(
            pictures.agreement(run.actual, run.predicted, label=run.target or "target"),
            "On the dashed line a prediction is right.",
        )
        right = html.figure(
            pictures.residuals(run.actual, run.predicted),
            "A trend or a funnel would mean that the model misses something.",
        )
        return [Section("Held-out rows", html.figures(left, right))]
    if run.kind != "classification":
        return []
    classes = run.estimator.classes_
    left = html.figure(
        pictures.confusion(run.actual, run.predicted, list(classes)),
        "Rows: the actual class; columns: the predicted one.",
    )
    right = ""
    if run.probability is not None:
        if len(classes) == 2:
            correct, confidence, label = (
                run.actual == classes[1],
                run.probability[:, 1],
                f"predicted probability of {classes[1]}",
            )
        else:
            correct, confidence = run.actual == run.predicted, run.probability.max(axis=1)
            label = "probability of the predicted class"
        right = html.figure(
            pictures.calibration(correct, confidence, label=label),
            "Calibration: on the dashed line, rows given 80 % come true 80 times in 100. Bars: 95 % intervals.",
        )
    return [Section("Held-out rows", html.figures(left, right))]


def _details(run: FitRun) -> Section:
    settings = ", ".join(f"{k} = {v!r}" for k, v in run.estimator.get_params(deep=False).items())
    seconds = ", ".join(f"{name} {value:.3g} s" for name, value in run.seconds.items())
    rows = [
        ("command", html.Raw(f"<code>{html.escape(run.command)}</code>")),
        ("settings", settings),
        ("time", seconds),
    ]
    rows.append(("versions", ", ".join(f"{k} {v}" for k, v in run.versions.items())))
    stats = getattr(getattr(run.estimator, "solution_", None), "stats", None) or {}
    for key, value in stats.items():
        if isinstance(value, str | int | float) or hasattr(value, "text") or np.ndim(value) == 0:
            scalar = np.asarray(value).item() if isinstance(value, np.ndarray | np.generic) else value
            rows.append((key.replace("_", " "), show(scalar) if isinstance(scalar, float) else str(scalar)))
    return Section("Details", html.table(["", ""], rows))
