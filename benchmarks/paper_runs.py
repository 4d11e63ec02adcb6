"""Trains the tiny policy with the recipe of every paper, to see that each of them trains and what comes of it.

    python benchmarks/paper_runs.py --out FOLDER
    python benchmarks/paper_runs.py --out FOLDER --only clip_delta kinesthetic

One run is plain GRPO, which the papers start from. Runs that FOLDER already holds are not trained again. Saved are
docs/results/paper_runs.json and the line "Expected result" of each file in conf/paper.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

from health_checked_runs import Case, machine, measure, train

ROOT = Path(__file__).resolve().parents[1]
SAVED, CONF = ROOT / "docs" / "results" / "paper_runs.json", ROOT / "conf" / "paper"
STEPS = 150
OVERRIDES = (f"training.steps={STEPS}", "evaluation.every_steps=50")


def trained(slug: str, folder: Path) -> dict[str, Any]:
    """Trains a run unless it is there; the empty name is plain GRPO."""
    case, run = (
        Case(slug or "plain", "", "", (*([f"paper={slug}"] if slug else []), *OVERRIDES)),
        folder / (slug or "plain"),
    )
    if not (run / "summary.json").is_file():
        train(case, run, 0)
    measured = measure(case, run)
    kept = ("accuracy", "sampled_accuracy", "reward_start", "reward_end", "first_alert")
    return {"paper": slug, "overrides": list(case.overrides), **{name: measured[name] for name in kept}}


def expected(run: dict[str, Any], plain: dict[str, Any], date: str) -> str:
    """What a file of `conf/paper` says of its run, in a line."""
    ours, theirs = run["sampled_accuracy"], plain["sampled_accuracy"]
    course = f"sampled accuracy {ours['start']:.2f} to {ours['end']:.2f}, plain GRPO to {theirs['end']:.2f}"
    return f"# Expected result: {course} ({STEPS} steps, seed 0, {date})."


def main() -> None:
    """Trains, saves, and renews the headers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/papers"), help="folder of the runs")
    parser.add_argument("--only", nargs="*", metavar="SLUG", help="these only; nothing is saved")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.only:
        print(json.dumps([trained(slug, arguments.out) for slug in arguments.only], indent=1))
        return
    runs = [trained(slug, arguments.out) for slug in ("", *sorted(path.stem for path in CONF.glob("*.yaml")))]
    document = {"command": f"python benchmarks/paper_runs.py --out {arguments.out}", "machine": machine(), "runs": runs}
    SAVED.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    for run in runs[1:]:
        path = CONF / f"{run['paper']}.yaml"
        line = expected(run, runs[0], document["machine"]["date"])
        path.write_text(re.sub(r"^# Expected result:.*$", line, path.read_text(), flags=re.MULTILINE), encoding="utf-8")


if __name__ == "__main__":
    main()
