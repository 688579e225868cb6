"""A small leaderboard of optimizers: four tasks, one tuning budget for all, steps and seconds to tuned AdamW's loss.

::

    python benchmarks/leaderboard.py --train --text tinyshakespeare.txt --mnist FOLDER   # what leaderboard.json lacks
    python benchmarks/leaderboard.py --time --write                                      # seconds a step, anew; tables

Rules. Each optimizer runs at five rates, a factor of 3 apart and centred on its documented default, on a seed that is
used for nothing else; where the best of them lies at an end of the grid it is followed outwards, three rates at most.
For `kfac` and `ekfac`, which find their rate by the exact quadratic model, the grid is over the first damping instead;
`kfac_rate` is K-FAC at a given rate, with its steps' norm constrained (without, most of its runs diverged); these
modes were chosen after a look at the PINN on the tuning seed, which is more care than any rival got.
The best rate then runs on the test seeds. All have the same batches and starts (by seed), the same schedule (linear
warm-up over 5 % of the steps, linear warm-down over the last 30 %) and no weight decay (`adamw` is then Adam); other
settings are defaults, for Muon at AdamW's scale of rates (``moonshot``).
The target is the mean of AdamW's last losses over the test seeds. Steps to target are read from losses measured every
few steps on fixed data (straight lines between); seeds that do not reach it count as the whole run where that
shortens AdamW, and give a rival no ratio at all. That reading is unfair to who would end earlier by a shorter schedule,
so whoever ends below the target runs again with its schedule shrunk to 0.6 of the steps (and AdamW, for comparison): a
last loss there below AdamW's full run's counts as the target reached in 0.6 of the steps. p: Welch's tests of the
logarithms, of steps (no difference, two sides) and of that last loss (one side), not corrected for the number of
rivals. Without ``--text`` and ``--mnist`` stand-ins of the same shapes are used.
"""

from __future__ import annotations

import argparse
import json
import math
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.stats
from harness import machine, write
from leaderboard_tasks import TASKS, Task

from corollary.optim.transforms import ekfac, kfac, optimizer

STORE = pathlib.Path(__file__).with_name("leaderboard.json")
FACTOR, GRID, BEYOND, SHORT = 3.0, 5, 3, 0.6


class Entrant(NamedTuple):
    """How it is built from a schedule and its peak, the documented rate, what update needs, evaluations a step."""

    build: Callable[..., Any]
    rate: float
    needs: str = ""
    cost: str = "1 gradient"


def _named(name: str, rate: float, needs: str = "", cost: str = "1 gradient", **settings: Any) -> Entrant:
    return Entrant(lambda rate, peak, task, net: optimizer(name, learning_rate=rate, **settings), rate, needs, cost)


def _kronecker(method: Any) -> Entrant:
    """Rate and momentum from the quadratic model, adaptive damping: the damping at first is what is tuned."""

    def build(rate: Any, peak: Any, task: Task, net: Any) -> Any:
        more = {"distribution": task.distribution, "curvature": task.curvature}
        return method(net, None, damping=peak, adaptive_damping=True, **more)

    return Entrant(build, 1e-3, "outputs", "1 gradient, 2 JVPs, 0.1 captures")


def _kfac_rate(rate: Any, peak: Any, task: Task, net: Any) -> Any:
    return kfac(net, rate, distribution=task.distribution, curvature=task.curvature, norm_constraint=1e-3)


def _ranger21(rate: Any, peak: Any, task: Task, net: Any) -> Any:
    return optimizer("ranger21", learning_rate=rate, total_steps=task.steps, weight_decay=0.0)


ENTRANTS = {
    "adamw": _named("adamw", 1e-3, weight_decay=0.0),
    "soap": _named("soap", 3e-3, weight_decay=0.0),
    "muon": _named("muon", 1e-3, scale="moonshot"),
    "shampoo": _named("shampoo", 1e-3),
    "kfac": _kronecker(kfac),
    "ekfac": _kronecker(ekfac),
    "kfac_rate": Entrant(_kfac_rate, 0.1, "outputs", "1 gradient, 0.1 captures"),
    "lion": _named("lion", 1e-4, weight_decay=0.0),
    "sgd": _named("sgd", 0.1),
    "nadamw": Entrant(lambda rate, peak, task, net: optax.nadamw(rate, weight_decay=0.0), 1e-3),
    "mars": _named("mars", 3e-3),
    "sassha": _named("sassha", 0.15, "value", "2 gradients, 0.1 products"),
    "sam": _named("sam", 0.1, "grad", "2 gradients"),
    "sophia": _named("sophia", 1e-3, "value", "1 gradient, 0.1 products", weight_decay=0.0),
    "adahessian": _named("adahessian", 0.15, "value", "1 gradient, 1 product"),
    "ranger21": Entrant(_ranger21, 1e-3),
}


def shape(t: Any, total: Any) -> Any:
    """The schedule over its peak."""
    return jnp.minimum(jnp.minimum((t + 1) / (0.05 * total), 1), (total - t) / (0.3 * total))


class Runner:
    """One optimizer on one task: compiled once, for all rates, seeds and lengths."""

    def __init__(self, task: Task, entrant: Entrant):
        net = task.make(jax.random.key(0))
        static = eqx.partition(net, eqx.is_inexact_array)[1]

        def made(rate: Any, total: Any) -> Any:
            return entrant.build(lambda t: rate * shape(t, total), rate, task, net)

        def start(key: Any, rate: Any, total: Any) -> Any:
            params = eqx.filter(task.make(key), eqx.is_inexact_array)
            return params, made(rate, total).init(params)

        def advance(params: Any, state: Any, key: Any, t: Any, rate: Any, total: Any) -> Any:
            rule = made(rate, total)

            def step(both: Any, t: Any) -> Any:
                params, state = both
                batch = task.batch(jax.random.fold_in(key, t))
                value = lambda p: task.loss(eqx.combine(p, static), batch)  # noqa: E731
                gradient = jax.grad(value)
                extra: dict[str, Any] = {
                    "": {},
                    "value": {"value_fn": value},
                    "grad": {"grad_fn": gradient},
                    "outputs": {
                        "outputs_fn": lambda m: task.outputs(m, batch),  # type: ignore[misc]
                        "losses_fn": lambda m: task.losses(m, batch),  # type: ignore[misc]
                    },
                }[entrant.needs]
                updates, state = rule.update(gradient(params), state, params, **extra)
                return (optax.apply_updates(params, updates), state), None

            return jax.lax.scan(step, (params, state), t + jnp.arange(task.every))[0]

        self.task, self.start, self.advance = task, jax.jit(start), jax.jit(advance)
        self.measure = jax.jit(lambda params: task.measure(eqx.combine(params, static)))

    def curve(self, rate: float, seed: int, share: float = 1.0) -> list[float | None]:
        """Losses before, and every so many steps; None where it is not finite."""
        first, rest = jax.random.split(jax.random.key(seed))
        chunks = round(self.task.steps * share / self.task.every)
        total = jnp.float32(chunks * self.task.every)
        params, state = self.start(first, jnp.float32(rate), total)
        losses: list[float | None] = []
        for k in range(chunks + 1):
            loss = float(self.measure(params))
            losses.append(float(f"{loss:.5g}") if math.isfinite(loss) else None)
            if k == chunks or losses[-1] is None:
                break
            params, state = self.advance(params, state, rest, jnp.int32(k * self.task.every), jnp.float32(rate), total)
        return losses + [None] * (chunks + 1 - len(losses))

    def timer(self, rate: float) -> Callable[[], float]:
        """A function that takes at least 40 more steps and says how long one took."""
        key, total = jax.random.key(0), jnp.float32(self.task.steps)
        rounds = math.ceil(40 / self.task.every)
        hold = [self.start(key, jnp.float32(rate), total), 0]

        def go() -> float:
            start = time.perf_counter()
            for _ in range(rounds):
                t = jnp.int32(hold[1] * self.task.every)
                hold[:] = [self.advance(*hold[0], key, t, jnp.float32(rate), total), hold[1] + 1]
            jax.block_until_ready(hold[0])
            return (time.perf_counter() - start) / rounds / self.task.every

        go()
        return go


def compete(runner: Runner, entrant: Entrant, target: float | None) -> dict[str, Any]:
    """Tune on seed 0, then the test seeds, then, where it pays, the shorter schedule."""
    tried: dict[float, float] = {}

    def at(k: int) -> float:
        rate = float(f"{entrant.rate * FACTOR**k:.3g}")
        if rate not in tried:
            last = runner.curve(rate, 0)[-1]
            tried[rate] = math.inf if last is None else last
        return tried[rate]

    low, high = -(GRID // 2), GRID // 2
    best = min(range(low, high + 1), key=at)
    for direction in (-1, 1):
        for _ in range(BEYOND):
            if best not in (low, high) or (best == low) != (direction < 0):
                break
            low, high = (low - 1, high) if direction < 0 else (low, high + 1)
            best = min((best, best + direction), key=at)
    rate = float(f"{entrant.rate * FACTOR**best:.3g}")
    curves = [runner.curve(rate, seed) for seed in range(1, runner.task.seeds + 1)]
    lasts = [c[-1] for c in curves]
    found = {
        "rate": rate,
        "tried": {f"{k:g}": v if math.isfinite(v) else None for k, v in sorted(tried.items())},
        "at_the_edge": best in (low, high),
        "cost": entrant.cost,
        "curves": curves,
    }
    if target is None or (None not in lasts and statistics.fmean(lasts) <= target):  # type: ignore[arg-type]
        found["short"] = [runner.curve(rate, seed, SHORT)[-1] for seed in range(1, runner.task.seeds + 1)]
    return found


def read(path: pathlib.Path = STORE) -> dict[str, Any]:
    """The stored runs."""
    return json.loads(path.read_text()) if path.exists() else {"tasks": {}}


def save(store: dict[str, Any], path: pathlib.Path) -> None:
    path.write_text(json.dumps(store, indent=None, separators=(",", ":")).replace('"rate"', '\n"rate"') + "\n")


def target_of(task: dict[str, Any]) -> float:
    """AdamW's mean last loss."""
    return statistics.fmean(c[-1] for c in task["optimizers"]["adamw"]["curves"])


def steps_to(curve: list[float | None], target: float, every: int) -> float | None:
    """Where the curve first falls to the target, on straight lines between measurements."""
    for k, value in enumerate(curve):
        if value is not None and value <= target:
            before = curve[k - 1] if k else None
            back = 0.0 if before is None or before == value else (target - value) / (before - value)
            return (k - back) * every
    return None


def compare(task: dict[str, Any], name: str) -> dict[str, Any]:
    """What the table says of one optimizer: last loss, steps to target, both ratios to AdamW's, p."""
    target, every, total = target_of(task), task["every"], task["steps"]
    entry, reference = task["optimizers"][name], task["optimizers"]["adamw"]
    lasts = [math.inf if c[-1] is None else c[-1] for c in entry["curves"]]
    n = len(lasts)
    finite = all(map(math.isfinite, lasts))
    out: dict[str, Any] = {
        "loss": statistics.fmean(lasts),
        "loss_error": statistics.stdev(lasts) / math.sqrt(n) if finite else math.inf,
        "reached": 0,
    }
    steps = [steps_to(c, target, every) for c in entry["curves"]]
    base = [steps_to(c, target, every) or total for c in reference["curves"]]
    out["reached"] = n - steps.count(None)
    if "seconds" in entry and "seconds" in reference:
        out["seconds"], out["per_step"] = entry["seconds"], entry["seconds_ratio"]
    if name == "adamw":
        steps = list(base)
    if "short" in entry:
        short = np.array([math.inf if v is None else v for v in entry["short"]])
        out["short"] = float(short.mean())
        if name != "adamw" and np.all(np.isfinite(short)):
            ends = np.log([c[-1] for c in reference["curves"]])
            out["short_p"] = float(
                scipy.stats.ttest_ind(np.log(short), ends, equal_var=False, alternative="less").pvalue
            )
    if None in steps:
        return out
    ours, theirs = np.log(np.maximum(np.array(steps, float), 1)), np.log(base)
    # A straight line between measurements reads a step to about every/sqrt(12), which no variance may go below.
    spread = [max(np.var(v, ddof=1), (every / np.exp(v.mean())) ** 2 / 12) / len(v) for v in (ours, theirs)]
    gap, error = ours.mean() - theirs.mean(), math.sqrt(sum(spread))
    freedom = sum(spread) ** 2 / sum(s**2 / (len(v) - 1) for s, v in zip(spread, (ours, theirs), strict=True))
    out |= {"steps": float(np.mean(steps)), "steps_error": float(np.std(steps, ddof=1) / math.sqrt(n))}
    if name != "adamw":
        p = 2 * scipy.stats.t.sf(abs(gap) / error, freedom)
        out |= {"ratio": math.exp(gap), "ratio_error": math.exp(gap) * error, "p": float(p)}
        if "per_step" in out:
            out["seconds_ratio"] = out["ratio"] * out["per_step"]
    return out


def table(name: str, task: dict[str, Any]) -> str:
    """One task in Markdown, best first, with the verdict."""
    rows = {who: compare(task, who) for who in task["optimizers"]}
    order = sorted(rows, key=lambda who: (rows[who].get("steps", math.inf), rows[who]["loss"]))
    seeds = len(task["optimizers"]["adamw"]["curves"])
    lines = [
        f"### {name}: {task['about']} ({task['data']}), {task['steps']} steps, {seeds} seeds",
        "",
        "| optimizer | rate | last loss ± s.e. | steps to target ± s.e. | steps / AdamW's ± s.e. | p "
        "| evaluations a step | ms a step | seconds / AdamW's | loss with 0.6 of the steps (p) |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    fewer, winners = [], []
    for who in order:
        r, entry = rows[who], task["optimizers"][who]
        steps = (
            f"{r['steps']:.0f} ± {r['steps_error']:.0f}" if "steps" in r else f"reached by {r['reached']} of {seeds}"
        )
        ratio = f"{r['ratio']:.2f} ± {r['ratio_error']:.2f}" if "ratio" in r else ("1" if who == "adamw" else "-")
        p = f"{r['p']:.1g}" if "p" in r else "-"
        ms = f"{1e3 * r['seconds']:.3g}" if "seconds" in r else "-"
        seconds = f"{r['seconds_ratio']:.2f}" if "seconds_ratio" in r else ("1" if who == "adamw" else "-")
        short = f"{r['short']:.4g}" if "short" in r else "-"
        short += f" ({r['short_p']:.1g})" if "short_p" in r else ""
        rate = f"{entry['rate']:g}" + ("*" if entry["at_the_edge"] else "")
        lines.append(
            f"| {who} | {rate} | {r['loss']:.4g} ± {r['loss_error']:.1g} | {steps} | {ratio} | {p} | {entry['cost']} "
            f"| {ms} | {seconds} | {short} |"
        )
        ways = [r["ratio"]] if r.get("ratio", 1) <= SHORT and r["p"] < 0.01 else []
        ways += [SHORT] if r.get("short_p", 1) < 0.01 else []
        if ways:
            (winners if min(ways) * r.get("per_step", math.inf) <= 0.8 else fewer).append(who)
    bar = "within 0.6 of AdamW's steps and 0.8 of its seconds with p < 0.01"
    if all("seconds" in entry for entry in task["optimizers"].values()):
        verdict = f"{', '.join(winners) if winners else 'NO optimizer'}: {bar}."
        if fewer:
            verdict += f" Within 0.6 of the steps, but not 0.8 of the seconds: {', '.join(fewer)}."
    else:
        verdict = (
            f"Seconds are not measured yet; within 0.6 of the steps: {', '.join(winners + fewer) or 'NO optimizer'}."
        )
    lines += ["", f"Target: AdamW's {target_of(task):.4g}. {verdict}"]
    if any(task["optimizers"][who]["at_the_edge"] for who in order):
        lines += ["(*: the best rate lies at the end of the extended grid.)"]
    return "\n".join(lines) + "\n"


def train(store: dict[str, Any], args: Any, path: pathlib.Path) -> None:
    """Run what the store lacks, saved after each optimizer."""
    for name in args.tasks or TASKS:
        task = TASKS[name](args.text, args.mnist)
        if args.tiny:
            task = task._replace(steps=2 * task.every, seeds=2)
        kept = store["tasks"].setdefault(name, {})
        if kept and (kept["data"], kept["steps"]) != (task.data, task.steps):
            raise SystemExit(
                f"{name}: found runs on {kept['data']} in {path}, expected {task.data}; name another --json"
            )
        kept |= {"about": task.about, "data": task.data, "steps": task.steps, "every": task.every}
        entries = kept.setdefault("optimizers", {})
        for who, entrant in ENTRANTS.items():
            known = who not in entries and (not args.only or who in args.only)
            if not known or (entrant.needs == "outputs" and task.outputs is None):
                continue
            start = time.process_time()
            found = compete(Runner(task, entrant), entrant, None if who == "adamw" else target_of(kept))
            entries[who] = found
            lasts = [c[-1] for c in found["curves"]]
            print(name, who, found["rate"], lasts, f"{time.process_time() - start:.0f} s of CPU", flush=True)
            save(store, path)
            jax.clear_caches()


def measure_time(store: dict[str, Any], args: Any, path: pathlib.Path) -> None:
    """Seconds a step, each optimizer in turn with AdamW; medians of the times and of the ratios."""
    for name in args.tasks or store["tasks"]:
        task, entries = TASKS[name](args.text, args.mnist), store["tasks"][name]["optimizers"]
        base = Runner(task, ENTRANTS["adamw"]).timer(entries["adamw"]["rate"])
        for who, entry in entries.items():
            if args.only and who not in args.only:
                continue
            other = base if who == "adamw" else Runner(task, ENTRANTS[who]).timer(entry["rate"])
            pairs = [(other(), base()) for _ in range(3 if args.tiny else 7)]
            entry["seconds"] = float(f"{statistics.median(a for a, _ in pairs):.4g}")
            ratio = 1.0 if who == "adamw" else statistics.median(a / b for a, b in pairs)
            entry["seconds_ratio"] = float(f"{ratio:.4g}")
            print(name, who, f"{1e3 * entry['seconds']:.3g} ms, {ratio:.2f} of AdamW's", flush=True)
            save(store, path)
    store["timed"] = f"{time.strftime('%Y-%m-%d')} on {machine()}"
    save(store, path)


def main(argv: list[str] | None = None) -> None:
    """Train what is missing, time, print the tables, write them."""
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    cli.add_argument("tasks", nargs="*", help=f"some of {', '.join(TASKS)}; all where none is named")
    cli.add_argument("--train", action="store_true", help="run what the JSON file lacks")
    cli.add_argument("--time", action="store_true", help="measure seconds a step anew")
    cli.add_argument("--write", action="store_true", help="put the tables into RESULTS.md")
    cli.add_argument("--only", action="append", help="an optimizer; may be repeated")
    cli.add_argument("--text", help="a text file, for instance tinyshakespeare")
    cli.add_argument("--mnist", help="a folder with MNIST's IDX files")
    cli.add_argument("--json", type=pathlib.Path, default=STORE)
    cli.add_argument("--tiny", action="store_true", help="two measurements, to see that it runs")
    args = cli.parse_args(argv)
    # The same programs are compiled for training and for timing.
    jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(tempfile.gettempdir()) / "leaderboard-programs"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    store = read(args.json)
    if args.train:
        train(store, args, args.json)
    if args.time:
        measure_time(store, args, args.json)
    for name in args.tasks or store["tasks"]:
        words = table(name, store["tasks"][name])
        print(words)
        if args.write:
            write("Optimizer leaderboard", name, words)


if __name__ == "__main__":
    main()
