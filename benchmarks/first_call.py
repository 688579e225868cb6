"""The first call of each estimator on 1000 × 20, in a fresh process, with an empty and with a filled compile cache.

``python benchmarks/first_call.py`` prints the table; ``--write`` puts it into RESULTS.md. Importing is not counted.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile

from harness import machine, write

PROGRAM = """
import sys, time, warnings
import numpy as np
warnings.simplefilter("ignore")
from corollary import factor, linear
from corollary.core import compile_cache
compile_cache.enable(sys.argv[1])
rng = np.random.default_rng(0)
X = rng.standard_normal((1000, 20))
y = X[:, :3].sum(axis=1) + rng.standard_normal(1000)
room, name = sys.argv[2].split(".")
model = getattr({"linear": linear, "factor": factor}[room], name)()
if name.startswith("Logistic"):
    y = (y > 0).astype(int) if sys.argv[3] == "2" else np.digitize(y, [-1.0, 1.0])
start = time.perf_counter()
model.fit(X, y)
print(time.perf_counter() - start)
"""
ESTIMATORS = (
    ("linear.LinearRegression", "-"),
    ("linear.Ridge", "-"),
    ("linear.RidgeCV", "-"),
    ("linear.Lasso", "-"),
    ("linear.LassoCV", "-"),
    ("linear.ElasticNet", "-"),
    ("linear.LogisticRegression", "2"),
    ("linear.LogisticRegression", "3"),
    ("factor.PCA", "-"),
    ("factor.TruncatedSVD", "-"),
)


def seconds(folder: str, name: str, classes: str) -> float:
    """One fresh process."""
    command = [sys.executable, "-c", PROGRAM, folder, name, classes]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__)
    cli.add_argument("--write", action="store_true")
    args = cli.parse_args()
    lines = [
        "### First call of an estimator, 1000 × 20, compile included",
        "",
        "| estimator | empty cache s | filled cache s (median of 3) | bars (2 s, 0.5 s) |",
        "| --- | --- | --- | --- |",
    ]
    for name, classes in ESTIMATORS:
        with tempfile.TemporaryDirectory() as folder:
            cold = seconds(folder, name, classes)
            warm = statistics.median(seconds(folder, name, classes) for _ in range(3))
        label = name + (f", {classes} classes" if classes != "-" else "")
        verdict = "met" if cold <= 2 and warm <= 0.5 else "NOT met"
        lines.append(f"| {label} | {cold:.2f} | {warm:.2f} | {verdict} |")
        print(lines[-1], flush=True)
    text = "\n".join(lines) + "\n"
    print(f"{machine()}\n{text}")
    if args.write:
        write("first_call", "estimators", text)


if __name__ == "__main__":
    main()
