"""The benchmark harness: ours and the peers in one process, on the same data, alternated, quality beside time.

A file of an area lists its entries and hands them to `main`::

    def lasso_wide() -> Entry:
        X, y = data()
        return Entry(
            name="Lasso 1000 x 20000, alpha_max/100",
            quality="duality gap / |y|^2",
            runs={"corollary": lambda: ours(X, y), "celer": lambda: peer(X, y)},
            measure=lambda result: gap(X, y, result),
            bar=1.0,
        )

    if __name__ == "__main__":
        main("lasso", [lasso_wide])

``python benchmarks/lasso.py`` prints one table; ``--write`` also puts it into ``benchmarks/RESULTS.md``.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import os
import pathlib
import platform
import re
import resource
import statistics
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

RESULTS = pathlib.Path(__file__).with_name("RESULTS.md")


@dataclasses.dataclass
class Entry:
    """One piece of work: its runners (ours is called ``corollary``), how quality is measured, the bar."""

    name: str
    runs: dict[str, Callable[[], Any]]
    measure: Callable[[Any], float]
    quality: str
    bar: float | None = None  # the ratio peer / ours that the project asks for, against the best peer of equal quality
    skipped: dict[str, str] = dataclasses.field(default_factory=dict)
    repeats: int = 5
    against: str | None = None  # the peer that the bar names; the fastest where none is named
    note: str = ""


@dataclasses.dataclass
class Row:
    """What one runner reached."""

    who: str
    first: float
    median: float
    spread: tuple[float, float]
    memory: float
    quality: float


def run(entry: Entry) -> list[Row]:
    """First call, then `repeats` rounds in which every runner has its turn."""
    first, times, quality, memory = {}, {}, {}, {}
    for who, call in entry.runs.items():
        gc.collect()
        with _PeakMemory() as peak:
            start = time.perf_counter()
            result = call()
            first[who] = time.perf_counter() - start
        memory[who], quality[who], times[who] = peak.mib, float(entry.measure(result)), []
        del result
    for _ in range(entry.repeats):
        for who, call in entry.runs.items():
            gc.collect()
            start = time.perf_counter()
            call()
            times[who].append(time.perf_counter() - start)
    return [
        Row(who, first[who], statistics.median(t), (min(t), max(t)), memory[who], quality[who])
        for who, t in times.items()
    ]


def table(entry: Entry, rows: list[Row]) -> str:
    """One entry as Markdown: a row per runner, and the verdict against the bar."""
    ours = next(r for r in rows if r.who == "corollary")
    quality = entry.quality.replace("|", "\\|")
    lines = [
        f"### {entry.name}",
        "",
        f"| who | median s | min to max s | first call s | peak MiB more | {quality} | peer / ours |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in rows:
        ratio = "1" if r is ours else f"{r.median / ours.median:.2f}"
        lines.append(
            f"| {r.who} | {r.median:.4g} | {r.spread[0]:.4g} to {r.spread[1]:.4g} | {r.first:.3g} "
            f"| {r.memory:.0f} | {r.quality:.3g} | {ratio} |"
        )
    lines += [f"| {who} | skipped: {why} | | | | | |" for who, why in entry.skipped.items()]
    peers = [r for r in rows if r is not ours]
    if entry.bar is not None and peers:
        named = [r for r in peers if r.who == entry.against] or peers
        best = min(named, key=lambda r: r.median)
        reached = best.median / ours.median
        verdict = "met" if reached >= entry.bar else "NOT met"
        lines += [
            "",
            f"Bar: {entry.bar:g} times; reached {reached:.2f} against {best.who}: {verdict}.",
        ]
    if entry.note:
        lines += ["", entry.note]
    return "\n".join(lines) + "\n"


def main(area: str, entries: list[Callable[[], Entry]]) -> None:
    """Run the entries named on the command line (all by default) and print, or write, their tables."""
    cli = argparse.ArgumentParser(description=f"Benchmarks of the area {area}.")
    cli.add_argument("names", nargs="*", help="functions to run; all where none is named")
    cli.add_argument("--write", action="store_true", help="put the tables into RESULTS.md")
    args = cli.parse_args()
    chosen = [e for e in entries if not args.names or e.__name__ in args.names]
    if not chosen:
        sys.exit(f"names: found {args.names}, expected some of {[e.__name__ for e in entries]}")
    print(machine(), flush=True)
    for make in chosen:
        entry = make()
        text = table(entry, run(entry))
        print(text, flush=True)
        if args.write:
            write(area, make.__name__, text)
        del entry
        gc.collect()


def machine() -> str:
    """The machine in words, with the versions that matter."""
    import jax
    import numpy
    import sklearn

    return (
        f"{os.cpu_count()} cores ({platform.machine()}), {platform.system()}, Python {platform.python_version()}, "
        f"jax {jax.__version__}, NumPy {numpy.__version__}, scikit-learn {sklearn.__version__}, "
        f"device {jax.devices()[0].platform}."
    )


def write(area: str, name: str, text: str) -> None:
    """Replace the entry's block in RESULTS.md, or append it under its area."""
    old = RESULTS.read_text() if RESULTS.exists() else "# Benchmark results\n"
    block = f"<!-- {area}.{name} -->\n{text}\nMeasured {time.strftime('%Y-%m-%d')} on {machine()}\n<!-- end -->\n"
    pattern = re.compile(rf"<!-- {re.escape(area)}\.{re.escape(name)} -->.*?<!-- end -->\n", re.DOTALL)
    if pattern.search(old):
        new = pattern.sub(lambda _: block, old)
    else:
        heading = f"\n## {area}\n"
        if heading not in old:
            old += heading
        head, tail = old.split(heading, 1)
        cut = tail.find("\n## ")
        body, rest = (tail, "") if cut < 0 else (tail[:cut], tail[cut:])
        new = head + heading + body.rstrip("\n") + "\n\n" + block + rest
    RESULTS.write_text(new)


class _PeakMemory:
    """Largest growth of the resident set while the block runs, sampled every 5 ms."""

    def __enter__(self) -> _PeakMemory:
        self._start, self._peak, self._stop = self._now(), 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.mib = max(self._peak - self._start, 0.0)

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            self._peak = max(self._peak, self._now())

    @staticmethod
    def _now() -> float:
        statm = pathlib.Path("/proc/self/statm")
        if statm.exists():
            return int(statm.read_text().split()[1]) * resource.getpagesize() / 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
