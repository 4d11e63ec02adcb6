"""Renews the tables of docs/performance.md from the results of `grpo_step.py`.

    python benchmarks/performance_page.py

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; everything else on the page is written by hand. A goal
that was missed needs a paragraph there that begins with its name in bold, such as `**W5 against TRL**`.
"""

import argparse
import json
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import page_tables
from page_tables import table

ROOT = Path(__file__).resolve().parents[1]
PAGE, RESULTS = ROOT / "docs" / "performance.md", ROOT / "docs" / "results"
WORKLOADS = ("W1", "W2", "W3", "W4", "W5")
NAMES = {"agent_tunix": "agent_tunix", "tunix": "Tunix", "trl": "TRL"}


class Goal(NamedTuple):
    """What was aimed at.

    Attributes:
      workload: Its name.
      against: `tunix`, `trl` or `floor`.
      quantity: `seconds` or `peak_memory`: theirs over ours; `share`: of the floor's time in ours.
      least: What the measured number has to reach.
    """

    workload: str
    against: str
    quantity: str
    least: float

    @property
    def name(self) -> str:
        """How the page calls it."""
        return f"{self.workload} against {'the floor' if self.against == 'floor' else NAMES[self.against]}"


GOALS = (
    Goal("W1", "tunix", "seconds", 2.8),
    Goal("W1", "trl", "seconds", 2.0),
    Goal("W2", "tunix", "seconds", 2.8),
    Goal("W2", "trl", "seconds", 2.3),
    Goal("W2", "floor", "share", 0.65),
    Goal("W3", "tunix", "seconds", 6.0),
    Goal("W3", "trl", "seconds", 5.0),
    Goal("W4", "tunix", "seconds", 4.0),
    Goal("W4", "trl", "seconds", 3.0),
    Goal("W5", "tunix", "peak_memory", 4.0),
    Goal("W5", "trl", "peak_memory", 3.0),
)

Results = Mapping[str, Mapping[str, Any]]
"""Contents of the result files, by workload."""


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """The results of the workloads that have been measured.

    Args:
      folder: Holds `grpo_step_W1.json` and so on.
    """
    paths = {name: folder / f"grpo_step_{name}.json" for name in WORKLOADS}
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.exists()}


def measured(goal: Goal, results: Results) -> float | None:
    """The number that a goal is about, None if it was not measured."""
    result = results.get(goal.workload)
    if result is None:
        return None
    if goal.quantity == "share":
        return max(one["floor_share"]["median"] for name, one in result["engines"].items() if _is_ours(name))
    found = result["ratio"].get(goal.against)
    if found is None:
        return None
    return found["seconds"]["median"] if goal.quantity == "seconds" else found["peak_memory"]


def missed(results: Results) -> list[Goal]:
    """The goals that the measurements do not reach."""
    numbers = [(goal, measured(goal, results)) for goal in GOALS]
    return [goal for goal, number in numbers if number is not None and number < goal.least]


def goal_table(results: Results) -> list[str]:
    """What was aimed at, what was measured, and whether that is enough."""
    rows = []
    for goal in GOALS:
        number = measured(goal, results)
        verdict = "not measured" if number is None else "met" if number >= goal.least else "missed"
        rows.append([goal.name, _aim(goal), "" if number is None else _found(goal, number, results), verdict])
    return table(["workload", "goal", "measured", ""], rows, right=0)


def engine_table(results: Results) -> list[str]:
    """Every engine's numbers, in each configuration that took part to the end."""
    rows = [
        [
            workload,
            _shown(name),
            f"{one['seconds']['median']:.3g}",
            f"{one['seconds']['min']:.3g} to {one['seconds']['max']:.3g}",
            f"{one['split']['rollout_s']:.3g}",
            f"{one['cpu_seconds']:.3g}",
            f"{one['peak_memory_gb']:.2f}",
            f"{one['first_step_seconds']:.3g}",
            f"{one['floor_share']['median']:.0%}",
        ]
        for workload, result in results.items()
        for name, one in result["engines"].items()
    ]
    head = ["", "engine", "s/step", "range", "rollout s", "CPU-s", "peak GB", "first step s", "share of the peak"]
    return table(head, rows, right=7)


def floor_table(results: Results) -> list[str]:
    """Operations of a step, the machine's peak in the same run, and the time that gives."""
    rows = [
        [
            workload,
            f"{result['operations']['floor_gflop']:,.1f}",
            f"{result['operations']['without_sharing_gflop']:,.1f}",
            f"{result['matmul']['gflops']['median']:.0f}",
            f"{result['matmul']['gflops']['min']:.0f} to {result['matmul']['gflops']['max']:.0f}",
            f"{result['operations']['floor_gflop'] / result['matmul']['gflops']['median']:.3g}",
        ]
        for workload, result in results.items()
    ]
    return table(["", "GF, prompts shared", "GF, not shared", "peak GF/s", "range", "floor s"], rows, right=5)


def tried_table(results: Results) -> list[str]:
    """All configurations in their warm-up, by which those were left out that were clearly behind."""
    rows = [
        [workload, _shown(name), f"{one['seconds']:.3g}", f"{one['peak_memory_gb']:.2f}"]
        for workload, result in results.items()
        for name, one in result["tried"].items()
    ]
    return table(["", "configuration", "s/step", "peak GB"], rows, right=2)


def machine(results: Results) -> list[str]:
    """Where and when."""
    found = list(results.values())
    dates = sorted({result["date"][:10] for result in found})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    first = found[0]["machine"]
    versions = {name: value for result in found for name, value in result["versions"].items()}
    versions |= {
        name: value
        for result in found
        for one in result["engines"].values()
        for name, value in one.get("versions", {}).items()
    }
    packages = ("jax", "google-tunix", "trl", "torch", "transformers")
    named = ", ".join(f"{name} {versions[name]}" for name in packages if name in versions)
    links = ", ".join(f"[{name}](results/grpo_step_{name}.json)" for name in results)
    text = (
        f"Measured {when} on {first['cores']} cores of an {first['cpu']} with {first['memory_gb']:.0f} GB of memory, "
        f"float32, no GPU; {named}. Raw numbers: {links}."
    )
    return textwrap.wrap(text, 120, break_long_words=False, break_on_hyphens=False)


TABLES = {
    "machine": machine,
    "goals": goal_table,
    "engines": engine_table,
    "floor": floor_table,
    "tried": tried_table,
}


def renewed(page: str, results: Results) -> str:
    """A page whose tables are those of the results.

    Raises:
      ValueError: If the page lacks the place of a table.
    """
    return page_tables.renewed(page, {name: lines(results) for name, lines in TABLES.items()})


def unexplained(page: str, results: Results) -> list[str]:
    """Names of the missed goals for which the page gives no reason."""
    return [goal.name for goal in missed(results) if f"\n**{goal.name}**" not in page]


def _aim(goal: Goal) -> str:
    if goal.quantity == "share":
        return f"at least {goal.least:.0%} of the matrix products' peak"
    if goal.quantity == "peak_memory":
        return f"at most 1/{goal.least:g} of its peak memory"
    return f"a step takes it {goal.least:g} times as long"


def _found(goal: Goal, number: float, results: Results) -> str:
    if goal.quantity == "share":
        return f"{number:.0%}"
    if goal.quantity == "peak_memory":
        return f"1/{number:.2f}"
    pairs = results[goal.workload]["ratio"][goal.against]["seconds"]
    return f"{number:.2f} times ({pairs['min']:.2f} to {pairs['max']:.2f})"


def _is_ours(name: str) -> bool:
    return name.partition("_micro_")[0] == "agent_tunix"


def _shown(name: str) -> str:
    engine, _, size = name.partition("_micro_")
    words = {"": "whole batch", "auto": "its own choice", "1": "1 prompt"}
    return f"{NAMES[engine]}, {words.get(size, f'{size} prompts')}"


def main(argv: Sequence[str] | None = None) -> int:
    """Renews the page; returns 1 if a missed goal has no reason there."""
    parser = argparse.ArgumentParser(description="Renews the tables of docs/performance.md from saved results.")
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args(argv)
    results = read(given.results)
    page = renewed(given.page.read_text(encoding="utf-8"), results)
    given.page.write_text(page, encoding="utf-8")
    silent = unexplained(page, results)
    for name in silent:
        print(f"{given.page}: **{name}** was missed; say why", file=sys.stderr)
    return bool(silent)


if __name__ == "__main__":
    sys.exit(main())
