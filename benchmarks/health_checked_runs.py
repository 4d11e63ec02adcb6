"""Trains six real runs, four of them sabotaged, and records what the health rules said while they trained.

A seventh is the control of the run with groups of two: nothing but the size of its groups differs.

    python benchmarks/health_checked_runs.py --out FOLDER
    python benchmarks/health_checked_runs.py --out FOLDER --only default lenient_grader --steps 60
    python benchmarks/health_checked_runs.py --draw-only

Each run is a process of its own, one after the other, as a user would start it; runs that FOLDER already holds are not
trained again. The one on GSM8K is left out, with a word, where AGENT_TUNIX_GSM8K does not name a folder of its files.
Saved: docs/results/sick_runs.json, the reports in docs/reports, the picture, and the table of the documentation's page.
"""

import argparse
import datetime
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from agent_tunix import runs
from agent_tunix.diagnostics import reading
from agent_tunix.diagnostics.findings import Finding
from agent_tunix.diagnostics.online import Monitor

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
SAVED, IMAGE = DOCS / "results" / "sick_runs.json", DOCS / "images" / "sick_runs.png"
PAGE, REPORTS = DOCS / "guides" / "sick_runs.md", DOCS / "reports"
PACKAGES = ("jax", "google-tunix", "flax", "optax", "orbax-checkpoint")
GSM8K = "AGENT_TUNIX_GSM8K"
TABLE = ("<!-- measured: begin -->", "<!-- measured: end -->")
EDGE = 5
"""Steps over which the reward is averaged at the start and at the end."""


class Case(NamedTuple):
    """A run, and the finding that it should come to; empty for a healthy one."""

    name: str
    words: str
    rule: str
    overrides: tuple[str, ...] = ()


CASES = (
    Case("default", "nothing: the default run", ""),
    Case("gsm8k", "a model too small for its task", "format_only", ("experiment=gsm8k_short",)),
    Case(
        "lenient_grader",
        "a grader that accepts any listed number",
        "answer_spam",
        ("experiment=sabotage_lenient_grader",),
    ),
    Case("length_bonus", "a length bonus without a bound", "length_drift", ("experiment=sabotage_length_bonus",)),
    Case("learning_rate", "a learning rate 30 times too high", "collapse", ("experiment=sabotage_learning_rate",)),
    Case("group_of_two", "groups of two, reward 0 or 1", "variance_collapse", ("experiment=sabotage_group_of_two",)),
    Case(
        "group_of_eight",
        "nothing: groups of eight instead",
        "",
        ("experiment=sabotage_group_of_two", "training.group_size=8"),
    ),
)


def train(case: Case, run: Path, steps: int) -> float:
    """Trains in a process of its own, whose words go to a file beside the run.

    Returns:
      Seconds, the warm start and all compilation included.
    """
    overrides = [*case.overrides, *([f"data.path={os.environ[GSM8K]}"] if case.name == "gsm8k" else [])]
    overrides += [f"training.steps={steps}"] if steps else []
    # Relative, so that published reports do not name folders of this machine.
    command = [sys.executable, "run_training.py", *overrides, f"run_dir={os.path.relpath(run, ROOT)}"]
    environment = {**os.environ, "AGENT_TUNIX_CACHE": str(run.parent / f"{run.name}.cache")}
    start = time.perf_counter()
    with run.with_name(f"{run.name}.log").open("w") as log:
        # The experiments name their rewards by a path from the root of the repository.
        subprocess.run(command, check=True, cwd=ROOT, env=environment, stdout=log, stderr=log)
    return time.perf_counter() - start


def measure(case: Case, run: Path) -> dict[str, Any]:
    """What a finished run says: its curves, every alert with its step, and the findings at its end."""
    rows = runs.read_metrics(run, "train")
    evaluations, steps = runs.read_metrics(run, "eval"), len(rows)
    reward = [row["reward/mean"] for row in rows]
    alerts = [
        {
            "rule": finding.rule,
            "level": finding.level,
            "step": step,
            "share": round(step / steps, 3),
            "message": finding.message,
        }
        for step, finding in told(run)
    ]
    serious = [alert for alert in alerts if alert["level"] != "info"]
    summary = json.loads((run / "summary.json").read_text())
    return {
        "name": case.name,
        "words": case.words,
        "expected": case.rule,
        "overrides": list(case.overrides),
        "steps": steps,
        "first_alert": serious[0] if serious else None,
        "alerts": alerts,
        "findings": [
            {key: finding[key] for key in ("rule", "level", "steps", "message")} for finding in summary["health"]
        ],
        "accuracy": course([row["eval/accuracy"] for row in evaluations]),
        "sampled_accuracy": course([row["eval/sampled_accuracy"] for row in evaluations]),
        "reward_start": mean(reward[:EDGE]),
        "reward_end": mean(reward[-EDGE:]),
        "evaluations": [
            {"step": row["step"], "greedy": row["eval/accuracy"], "sampled": row["eval/sampled_accuracy"]}
            for row in evaluations
        ],
        "reward": [round(value, 4) for value in reward],
    }


def told(run: Path) -> list[tuple[int, Finding]]:
    """Every alert with the step that it came after: the monitor, fed with the rows of the run once more.

    Raises:
      AssertionError: If what it says differs from the levels that the run wrote down while it trained.
    """
    log, rows = reading.read(run), list(runs.read_metrics(run))
    found: list[tuple[int, Finding]] = []
    now = 0
    monitor = Monitor(
        runs.read_config(run)["training"]["steps"],
        bounds=log.bounds,
        eval_samples=log.eval_samples,
        group_size=log.group_size,
        alert=lambda finding: found.append((now, finding)),
    )
    for row in rows:
        now = row["step"]
        levels = monitor.see({name: value for name, value in row.items() if not name.startswith("health/")})
        written = {name: value for name, value in row.items() if name.startswith("health/")}
        assert levels == written, f"{run}, step {now}: told {written} while it trained, now {levels}"
    return found


def course(values: Sequence[float]) -> dict[str, float]:
    """First, highest and last value."""
    return {"start": round(values[0], 4), "best": round(max(values), 4), "end": round(values[-1], 4)}


def mean(values: Sequence[float]) -> float:
    """Of a few rewards."""
    return round(sum(values) / len(values), 4)


def machine() -> dict[str, Any]:
    """Where and when this was measured."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def table(measured: Sequence[dict[str, Any]]) -> str:
    """The table of the page."""
    lines = [
        "| run | what is wrong | first alert | after | accuracy: start, best, end | reward: start, end | report |",
        "|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *map(line, measured)])


def line(run: dict[str, Any]) -> str:
    """One run in the table."""
    alert, accuracy = run["first_alert"], run["sampled_accuracy"]
    said = f"`{alert['rule']}` ({alert['level']})" if alert else "none"
    after = f"{alert['step']} of {run['steps']} steps" if alert else f"{run['steps']} steps"
    accuracies = ", ".join(f"{accuracy[name]:.3f}" for name in ("start", "best", "end"))
    reward = f"{run['reward_start']:.2f}, {run['reward_end']:.2f}"
    link = f"[{run['name']}](../reports/{run['name']}.html)"
    return f"| `{run['name']}` | {run['words']} | {said} | {after} | {accuracies} | {reward} | {link} |"


def write_table(page: Path, text: str) -> None:
    """Puts a table between the two marks of a page."""
    begin, end = map(re.escape, TABLE)
    old = page.read_text()
    new = f"{TABLE[0]}\n\n{text}\n\n{TABLE[1]}"
    page.write_text(re.sub(f"{begin}.*{end}", lambda _: new, old, flags=re.DOTALL))


def draw(measured: Sequence[dict[str, Any]], path: Path) -> None:
    """Reward and held-out accuracy of every run, the first alert marked."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, grid = pyplot.subplots(2, 4, figsize=(13, 5.4), dpi=110, layout="constrained")
    for axes, run in zip(grid.flat, measured, strict=False):
        panel(axes, run)
    for axes in grid.flat[len(measured) :]:
        axes.axis("off")
    grid.flat[-1].legend(*grid.flat[0].get_legend_handles_labels(), frameon=False, fontsize=9, loc="center")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def panel(axes: Any, run: dict[str, Any]) -> None:
    """One run: the reward on the left scale, the accuracies on the right one where the reward leaves [0, 1]."""
    steps = [row["step"] for row in run["evaluations"]]
    axes.plot(range(1, run["steps"] + 1), run["reward"], color="#0072b2", linewidth=1.2, label="reward")
    other = axes.twinx() if max(run["reward"]) > 1.05 else axes
    for name, style in (("sampled", "-"), ("greedy", "--")):
        values = [row[name] for row in run["evaluations"]]
        label = f"held-out accuracy, {name}"
        axes.plot([], [], style, color="#d55e00", label=label)
        other.plot(steps, values, style, color="#d55e00", marker="o", markersize=3, linewidth=1.4)
    other.set_ylim(-0.02, 1.02)
    if other is not axes:
        top = 1.1 * max(run["reward"])
        axes.set_ylim(-0.02 * top, 1.02 * top)  # so that both zeros are at one height
        other.tick_params(axis="y", labelsize=8, colors="#d55e00")
    title = run["name"].replace("_", " ")
    if run["first_alert"]:
        alert = run["first_alert"]
        axes.axvline(alert["step"], color="#333333", linewidth=1, linestyle=":")
        title += f": {alert['rule']} after step {alert['step']}"
    else:
        title += ": no alert"
    axes.set_title(title, fontsize=9, loc="left")
    axes.set_xlim(0, run["steps"])
    axes.set_xlabel("step", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.2)


def publish(measured: Sequence[dict[str, Any]]) -> None:
    """The picture and the table."""
    draw(measured, IMAGE)
    write_table(PAGE, table(measured))


def chosen(only: Sequence[str]) -> list[Case]:
    """The cases to train; says which it leaves out."""
    cases = [case for case in CASES if not only or case.name in only]
    if GSM8K not in os.environ and any(case.name == "gsm8k" for case in cases):
        print(f"gsm8k is left out: set {GSM8K} to a folder with its train.jsonl and test.jsonl")
        cases = [case for case in cases if case.name != "gsm8k"]
    return cases


def run_all(cases: Sequence[Case], folder: Path, steps: int) -> list[dict[str, Any]]:
    """Trains what is not there yet and measures all of it."""
    measured = []
    for case in cases:
        run, clock = folder / case.name, folder / f"{case.name}.seconds"
        if not (run / "summary.json").is_file():
            clock.write_text(f"{train(case, run, steps):.1f}")
        found: dict[str, Any] = measure(case, run) | {"seconds": float(clock.read_text())}
        alert = found["first_alert"]
        said = f"{alert['rule']} ({alert['level']}) after step {alert['step']}" if alert else "no alert"
        print(f"{case.name}: {said}, {found['seconds']:.0f} s", flush=True)
        measured.append(found)
    return measured


def main() -> None:
    """Parses, trains, saves; a part of the runs, or shorter ones, are measured and not saved."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("--out", type=Path, help="folder of the runs; by default one that is removed again")
    parser.add_argument("--only", nargs="+", default=[], choices=[case.name for case in CASES])
    parser.add_argument("--steps", type=int, default=0, help="of every run; by default its own")
    parser.add_argument("--draw-only", action="store_true")
    arguments = parser.parse_args()
    if arguments.draw_only:
        publish(json.loads(SAVED.read_text())["runs"])
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = (arguments.out or Path(scratch)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        measured = run_all(chosen(arguments.only), folder, arguments.steps)
        if arguments.only or arguments.steps:
            return
        REPORTS.mkdir(exist_ok=True)
        for found in measured:
            shutil.copyfile(folder / found["name"] / "report.html", REPORTS / f"{found['name']}.html")
    command = "python benchmarks/health_checked_runs.py --out runs/sick"
    SAVED.write_text(json.dumps({"command": command, "machine": machine(), "runs": measured}, indent=1) + "\n")
    publish(measured)


if __name__ == "__main__":
    main()
