"""Renews the table of docs/ablation.md from the result of `ablation.py`.

python benchmarks/ablation_page.py
"""

import argparse
import json
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import page_tables
from ablation_tricks import TRICKS, Trick
from page_tables import table

ROOT = Path(__file__).resolve().parents[1]
PAGE, RESULT = ROOT / "docs" / "ablation.md", ROOT / "docs" / "results" / "ablation.json"
WORKLOADS = ("W1", "W3", "W4", "W5")
LEAST = 1.03
"""A trick that gains less than this everywhere goes out again."""

Result = Mapping[str, Any]


def tables(result: Result) -> dict[str, list[str]]:
    """Lines of all tables of the page."""
    return {"machine": machine(result), "tricks": tricks(result), "kept": kept(result)}


def machine(result: Result) -> list[str]:
    """Where, when and how."""
    where = result["machine"]
    text = (
        f"Measured {where['date']} on {where['cores']} cores of an {where['cpu']}, float32, jax {where['jax']}. Raw "
        "numbers: [ablation.json](results/ablation.json)."
    )
    return textwrap.wrap(text, 120, break_long_words=False, break_on_hyphens=False)


def tricks(result: Result) -> list[str]:
    """How much longer a step takes, or for W5 how much more memory, with one trick left out."""
    rows = []
    for trick in TRICKS:
        found = [result["workloads"].get(name, {}).get(trick.name) for name in WORKLOADS]
        rows.append([trick.name, trick.instead, *("" if one is None else f"{gain(one):.2f}" for one in found)])
    return table(["trick", "in its place", *WORKLOADS[:-1], "W5, memory"], rows, right=len(WORKLOADS))


def gain(one: Mapping[str, Any]) -> float:
    """The quotient that a trick is judged by."""
    return one["ratio"].get("memory", one["ratio"].get("median"))


def kept(result: Result) -> list[str]:
    """Why tricks that gain nothing are still there."""
    return [f"- {trick.name}: {trick.kept}." for trick in TRICKS if trick.kept and _idle(trick, result)] or ["None."]


def idle(result: Result) -> list[str]:
    """Names of the tricks that gain too little on every workload they were left out of, and have no reason to stay."""
    return [trick.name for trick in TRICKS if not trick.kept and _idle(trick, result)]


def _idle(trick: Trick, result: Result) -> bool:
    gains = [gain(one[trick.name]) for one in result["workloads"].values() if trick.name in one]
    return bool(gains) and max(gains) < LEAST


def main(argv: Sequence[str] | None = None) -> int:
    """Renews the page; returns 1 if a trick gains too little to stay."""
    parser = argparse.ArgumentParser(description="Renews the table of docs/ablation.md from a saved result.")
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--result", type=Path, default=RESULT)
    given = parser.parse_args(argv)
    result = json.loads(given.result.read_text(encoding="utf-8"))
    page = page_tables.renewed(given.page.read_text(encoding="utf-8"), tables(result))
    given.page.write_text(page, encoding="utf-8")
    for name in idle(result):
        print(f"`{name}` gains less than {LEAST - 1:.0%} everywhere", file=sys.stderr)
    return bool(idle(result))


if __name__ == "__main__":
    sys.exit(main())
