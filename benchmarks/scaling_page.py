"""Renews the tables of docs/scaling.md from the result of `scaling.py`.

python benchmarks/scaling_page.py
"""

import argparse
import json
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import page_tables
from page_tables import table
from scaling import PHASES

ROOT = Path(__file__).resolve().parents[1]
PAGE, RESULT = ROOT / "docs" / "scaling.md", ROOT / "docs" / "results" / "scaling.json"
SWEEPS = ("group", "group_long", "tokens", "width")
NOT_MEASURED = ["Not measured yet."]

Result = Mapping[str, Any]


def machine(result: Result) -> list[str]:
    """Where, when and how."""
    where = result["machine"]
    text = (
        f"Measured {where['date']} on {where['cores']} cores of an {where['cpu']}, float32, jax {where['jax']}, with "
        f"`{result['command']}`; medians of {result['steps']} steps. Raw numbers: [scaling.json](results/scaling.json)."
    )
    return textwrap.wrap(text, 120, break_long_words=False, break_on_hyphens=False)


def cases(sweep: Mapping[str, Any]) -> list[str]:
    """Seconds and processor seconds of every phase, beside the operations that are due."""
    rows = []
    for one in sweep["cases"]:
        phases = one["phases"]
        costs = [f"{phases[phase]['seconds']:.3g} / {phases[phase]['cpu_seconds']:.3g}" for phase in PHASES]
        total = phases["total"]
        rate = total["floor_gflop"] / total["seconds"]
        rows.append([f"{one['value']}", *costs, f"{total['floor_gflop']:.3g}", f"{rate:.3g}"])
    head = [sweep["axis"], "rollout s / CPU-s", "reference", "update", "step", "floor GFLOP", "GFLOP/s"]
    return table(head, rows, right=6)


def fits(result: Result) -> list[str]:
    """Exponents of growth, measured and due, and the share of a step that does not grow with the group."""
    rows = []
    for name, sweep in result["sweeps"].items():
        measured, due = sweep["lines"]["seconds"], sweep["lines"]["floor_gflop"]
        smallest, largest = (sweep["cases"][place]["value"] for place in (0, -1))
        for phase in PHASES:
            exponents = [f"{fit[phase]['exponent']:.2f}" for fit in (measured, due)]
            shares = (
                [f"{_share(fit[phase], value):.0%}" for value in (smallest, largest) for fit in (measured, due)]
                if name.startswith("group")
                else [""] * 4
            )
            rows.append([f"`{name}`, {phase}", *exponents, *shares])
    smallest = [f"{what}, {which}" for which in ("smallest", "largest") for what in ("fixed share", "of the floor")]
    return table(["sweep, phase", "exponent", "of the floor", *smallest], rows, right=6)


def _share(fit: Mapping[str, float], value: float) -> float:
    """Of the fixed part in the cost of a case, where noise has made neither part negative."""
    fixed, grown = max(fit["fixed"], 0.0), max(fit["each"] * value, 0.0)
    return fixed / (fixed + grown)


def components(result: Result) -> list[str]:
    """Milliseconds of a batch on the host."""
    found = result["components"]
    names = [name for name in found[0] if name != "value"]
    rows = [[f"{one['value']}", *(f"{one[name]:.3g}" for name in names)] for one in found]
    return table(["graders, components", *(f"{name} ms" for name in names)], rows, right=len(names))


def devices(result: Result) -> list[str]:
    """Collectives of every phase, and how far the result is from that of one device."""
    rows = []
    for report in result["devices"]["reports"]:
        phases = report["phases"]
        said = [_said(phases[phase]["collectives"]) for phase in ("rollout", "reference", "update")]
        apart = max(number for name, number in report["differences"].items() if name != "completion_ids")
        unexpected = "; ".join(report["unexpected"]) or "nothing"
        rows.append([f"{report['devices']}", *said, f"{report['gradient_bytes']:,}", f"{apart:.1e}", unexpected])
    head = ["devices", "rollout", "reference", "update", "gradient bytes", "differs by", "unexpected"]
    return table(head, rows, right=3)


def _said(kinds: Mapping[str, Mapping[str, int]]) -> str:
    words = [
        f"{one['count']} {kind}, {one['bytes']:,} bytes" + (f", {one['looped']} in loops" if one["looped"] else "")
        for kind, one in kinds.items()
    ]
    return "; ".join(words) or "none"


def tables(result: Result | None) -> dict[str, list[str]]:
    """Lines of all tables of the page."""
    names = ("machine", *SWEEPS, "fits", "components", "devices")
    if result is None:
        return dict.fromkeys(names, NOT_MEASURED)
    swept = {name: cases(result["sweeps"][name]) for name in SWEEPS if name in result["sweeps"]}
    others = {function.__name__: function(result) for function in (machine, fits, components, devices)}
    return swept | others


def read(path: Path) -> Result | None:
    """The saved result, None before the first measurement."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def main(argv: Sequence[str] | None = None) -> int:
    """Renews the page."""
    parser = argparse.ArgumentParser(description="Renews the tables of docs/scaling.md from a saved result.")
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--result", type=Path, default=RESULT)
    given = parser.parse_args(argv)
    page = page_tables.renewed(given.page.read_text(encoding="utf-8"), tables(read(given.result)))
    given.page.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
