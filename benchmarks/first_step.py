"""How long a run waits for its compiler: the first step of the default policy, with and without kept programs.

    python benchmarks/first_step.py --json docs/results/first_step.json

Two whole processes of `run_training.py`, one after the other, which share a cache that is empty at first. Told are the
seconds of the first step as the run logs them, of a later one, and of the process until its end.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rollouts_ahead import saved

ROOT = Path(__file__).resolve().parents[1]
STEPS = 5
WORDS = (
    "warm_start.steps=2",
    "evaluation.rows=8",
    "evaluation.prompts_per_batch=8",
    "diagnostics.report_every_steps=0",
)


def run(folder: Path, cache: Path, words: Sequence[str]) -> dict[str, float]:
    """Seconds of a short run: its first step, the median of the later ones, and the process."""
    started = time.perf_counter()
    command = [sys.executable, str(ROOT / "run_training.py"), f"training.steps={STEPS}", f"run_dir={folder}"]
    subprocess.run([*command, f"cache_dir={cache}", *WORDS, *words], check=True, stdout=subprocess.DEVNULL)
    process = time.perf_counter() - started
    rows = [json.loads(line) for line in (folder / "timings.jsonl").read_text().splitlines()]
    first, *later = [row["time/step_s"] for row in rows if "time/step_s" in row]
    return {
        "first_step_s": round(first, 3),
        "later_step_s": round(statistics.median(later), 3),
        "process_s": round(process, 2),
    }


def measured(words: Sequence[str]) -> dict[str, Any]:
    """The run with an empty cache, and with what it left there."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        return {kind: run(folder / kind, folder / "cache", words) for kind in ("compiled", "kept")}


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints, saves."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("words", nargs="*", help="overrides of the configuration")
    given = parser.parse_args(argv)
    result = measured(given.words)
    for kind, one in result.items():
        print(kind, one)
    saved(given.json, result)


if __name__ == "__main__":
    main()
