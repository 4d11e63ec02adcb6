"""Trains the default run for several seeds and draws the curve of the README.

    python benchmarks/default_run.py --seeds 0 1 2
    python benchmarks/default_run.py --name arithmetic --seeds 0 --overrides data=arithmetic

Each seed is its own process, one after the other, as a user would start it. Printed and saved: held-out accuracy
after the warm start and after GRPO (sampled at temperature 1, and greedy), wall time, peak memory, versions, date,
machine. `--draw-only` draws the curves of the saved runs again.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PACKAGES = ("jax", "google-tunix", "flax", "optax", "orbax-checkpoint")


def train(seed: int, folder: Path, overrides: list[str]) -> dict:
    """One seed in a process of its own, with a warm start of its own: nothing is cached from the seed before."""
    start = time.perf_counter()
    command = [sys.executable, str(ROOT / "run_training.py"), f"seed={seed}", f"run_dir={folder}", *overrides]
    subprocess.run(command, check=True, env={**os.environ, "AGENT_TUNIX_CACHE": str(folder.parent / f"cache{seed}")})
    seconds = time.perf_counter() - start
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((folder / "summary.json").read_text())
    keys = {"step": "step", "sampled": "eval/sampled_accuracy", "greedy": "eval/accuracy"}
    evaluations = [{name: row[key] for name, key in keys.items()} for row in rows if row["kind"] == "eval"]
    return {
        "seed": seed,
        "seconds": round(seconds, 1),
        "peak_memory_gb": round(summary["peak_memory_gb"], 2),
        "evaluations": evaluations,
        "reward": [row["reward/mean"] for row in rows if row["kind"] == "train"],
    }


def machine() -> dict:
    """Where and when this was measured."""
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def draw(result: dict, title: str, path: Path) -> None:
    """Sampled and greedy accuracy over steps, a thin line per seed and a thick one for their mean."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.2, 3.6), dpi=160)
    for name, label, colour in (("greedy", "greedy", "#9a6700"), ("sampled", "sampled, temperature 1", "#0969da")):
        curves = [[row[name] for row in run["evaluations"]] for run in result["runs"]]
        steps = [row["step"] for row in result["runs"][0]["evaluations"]]
        for curve in curves:
            axes.plot(steps, curve, color=colour, linewidth=0.8, alpha=0.45)
        mean = [sum(values) / len(values) for values in zip(*curves, strict=True)]
        axes.plot(steps, mean, color=colour, linewidth=2.4, label=label)
    axes.set(xlabel="GRPO step", ylabel="held-out accuracy", ylim=(0, 1.02), xlim=(0, max(steps)))
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="best", frameon=False)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main() -> None:
    """Parses, trains, prints, saves, draws."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--draw-only", action="store_true")
    parser.add_argument("--name", default="default_run", help="of the files in docs/results and docs/images")
    parser.add_argument("--title", default=None, help="of the picture")
    parser.add_argument("--overrides", nargs="*", default=[], help="such as training.steps=50")
    arguments = parser.parse_args()
    saved, picture = DOCS / "results" / f"{arguments.name}.json", DOCS / "images" / f"{arguments.name}.png"
    title = arguments.title or f"{' '.join(arguments.overrides) or 'Sorting five digits'}, tiny policy, 2 CPU cores"
    if arguments.draw_only:
        draw(json.loads(saved.read_text()), title, picture)
        return
    with tempfile.TemporaryDirectory() as folder:
        runs = [train(seed, Path(folder, f"seed{seed}"), arguments.overrides) for seed in arguments.seeds]
    result = {"command": " ".join(["python", *sys.argv]), "machine": machine(), "runs": runs}
    saved.parent.mkdir(parents=True, exist_ok=True)
    saved.write_text(json.dumps(result, indent=1) + "\n")
    draw(result, title, picture)
    for run in runs:
        first, last = run["evaluations"][0], run["evaluations"][-1]
        print(
            f"seed {run['seed']}: sampled {first['sampled']:.3f} -> {last['sampled']:.3f}, "
            f"greedy {first['greedy']:.3f} -> {last['greedy']:.3f}, {run['seconds']} s, {run['peak_memory_gb']} GB"
        )


if __name__ == "__main__":
    main()
