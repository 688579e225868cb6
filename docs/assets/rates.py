"""Draws docs/assets/rates.svg, the README's picture: measured curves beside their theorems' bounds."""

from __future__ import annotations

import pathlib

from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import StandardScaler

from corollary.core import draw
from corollary.optim import Composite, Fista, Logistic, ProximalGradient, minimize, penalties


def main() -> None:
    X, labels = load_breast_cancer(return_X_y=True)
    problem = Composite(Logistic(StandardScaler().fit_transform(X), 2.0 * labels - 1), penalties.L1(5.0))
    x_star = minimize(problem, tol=1e-13, max_steps=50_000).value
    title = "L1 logistic regression, breast cancer data: measured against the theorem"
    ax = draw.axes(title=title, xlabel="step", ylabel="F(x) − F*", size=(7.2, 3.6))
    for solver, colour in ((ProximalGradient(), draw.INK), (Fista(restart=None), draw.ACCENT)):
        run = minimize(problem, solver=solver, tol=0.0, max_steps=300, history=True, reference=x_star)
        ax.loglog(run.history["suboptimality"], color=colour, label=type(solver).__name__)
        ax.loglog(run.history["rate_bound"], "--", color=colour, label=f"{type(solver).__name__}: bound")
    ax.legend(frameon=False)
    ax.figure.savefig(pathlib.Path(__file__).with_name("rates.svg"), metadata={"Date": None})


if __name__ == "__main__":
    main()
