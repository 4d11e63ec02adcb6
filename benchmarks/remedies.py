"""Puts published methods on the four sabotaged runs: does what a paper promises help where a run is sick?

    python benchmarks/remedies.py --out FOLDER
    python benchmarks/remedies.py --draw-only

Each run is a process of its own; runs that FOLDER holds are not trained again. Saved are docs/results/remedies.json
and the tables of the page "Which method for which trouble", also the one that links health rules to papers.
"""

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

from health_checked_runs import Case, machine, measure, train
from page_tables import renewed, table

from agent_tunix.papers import _catalogue

DOCS = Path(__file__).resolve().parents[1] / "docs"
SAVED, PAGE = DOCS / "results" / "remedies.json", DOCS / "guides" / "which_method.md"


class Remedy(NamedTuple):
    """A sabotaged run with a method put on it; none is the run as it is."""

    sabotage: str
    paper: str = ""
    overrides: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of its folder."""
        return "-".join(filter(None, (self.sabotage, self.paper)))


REMEDIES = (
    Remedy("lenient_grader"),
    Remedy("lenient_grader", "preference_as_reward"),
    Remedy("length_bonus"),
    Remedy("length_bonus", "gated_accumulation"),
    Remedy("length_bonus", "preference_as_reward"),
    Remedy("length_bonus", "decoupled_efficiency"),
    Remedy("learning_rate"),
    Remedy("learning_rate", "preference_as_reward"),
    Remedy("group_of_two"),
    Remedy("group_of_two", "clip_delta"),
)


def trained(remedy: Remedy, folder: Path, steps: int) -> dict[str, Any]:
    """Trains a run unless it is there, and says what came of it."""
    overrides = [f"experiment=sabotage_{remedy.sabotage}", *remedy.overrides]
    overrides += [f"paper={remedy.paper}"] if remedy.paper else []
    case, run = Case(remedy.name, "", "", tuple(overrides)), folder / remedy.name
    if not (run / "summary.json").is_file():
        train(case, run, steps)
    kept = ("steps", "first_alert", "accuracy", "sampled_accuracy", "reward_start", "reward_end")
    measured = measure(case, run)
    return {
        **remedy._asdict(),
        "command": f"python run_training.py {' '.join(overrides)}",
        **{name: measured[name] for name in kept},
    }


def tables(document: dict[str, Any]) -> dict[str, list[str]]:
    """The tables of the page by name."""
    head = ("run", "method", "first alert", "accuracy: start, best, end", "reward: start, end")
    rows = []
    for run in document["runs"]:
        alert, accuracy = run["first_alert"], run["sampled_accuracy"]
        numbers = ", ".join(f"{accuracy[name]:.3f}" for name in ("start", "best", "end"))
        method = f"[{run['paper']}](../papers/{run['paper']}.md)" if run["paper"] else "as it is"
        told = f"`{alert['rule']}` after {alert['step']} of {run['steps']} steps" if alert else "none"
        rows.append((run["sabotage"], method, told, numbers, f"{run['reward_start']:.2f}, {run['reward_end']:.2f}"))
    return {"remedies": table(head, rows, 0), "rules": table(("finding", "methods"), links(), 0)}


def links() -> list[tuple[str, str]]:
    """For each health rule that papers treat, links to them, why, and whether their claim was reproduced."""
    rows = []
    for rule, methods in _catalogue.TREATS.items():
        words = []
        for slug, why in methods.items():
            doubt = "" if _catalogue.status(slug) == _catalogue.REPRODUCED else " (not reproduced)"
            words.append(f"[{slug}](../papers/{slug}.md): {why}{doubt}")
        rows.append((f"[{rule}](health_rules.md#{rule})", "; ".join(words)))
    return rows


def main() -> None:
    """Trains, saves, and renews the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/remedies"), help="folder of the runs")
    parser.add_argument("--steps", type=int, default=0, help="shorter runs, to try it; nothing is saved")
    parser.add_argument("--draw-only", action="store_true", help="renew the page from what is saved")
    arguments = parser.parse_args()
    if not arguments.draw_only:
        arguments.out.mkdir(parents=True, exist_ok=True)
        measured = [trained(remedy, arguments.out, arguments.steps) for remedy in REMEDIES]
        command = f"python benchmarks/remedies.py --out {arguments.out}"
        document = {"command": command, "machine": machine(), "runs": measured}
        if arguments.steps:
            print(json.dumps(document, indent=1))
            return
        SAVED.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    document = json.loads(SAVED.read_text(encoding="utf-8"))
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8"), tables(document)), encoding="utf-8")


if __name__ == "__main__":
    main()
