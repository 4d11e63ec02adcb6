"""Does a long run keep what it should let go: resident memory, live arrays and live objects over 2,000 steps.

    python benchmarks/memory_flat.py --json docs/results/memory_flat.json

A very small policy, so that what is left behind by a step stands out; rollouts in line and one batch ahead.
"""

import argparse
import contextlib
import gc
import os
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rollouts_ahead import Setting, Shape, saved, train

from agent_tunix.types import Rollouts

SHAPE = Shape(layers=1, width=16, head_dim=8, mlp=32, prompts=4, group_size=4, tokens=8)
COUNTS = 50
"""How often a run is looked at: counting objects takes longer than a step."""


class Mark(NamedTuple):
    """What a process holds after a step.

    Attributes:
      resident_mb: Resident memory, 10^6 bytes.
      arrays: Arrays of JAX that are alive.
      objects: Python objects that the garbage collector tracks.
      rollouts: Batches of rollouts among them.
    """

    step: int
    resident_mb: float
    arrays: int
    objects: int
    rollouts: int


def resident_mb() -> float:
    """Resident memory of this process, 10^6 bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def tracked_objects() -> int:
    """Objects that the garbage collector tracks, counted without holding any of them.

    `gc.get_objects()` would hold them for a moment, also a tuple that another thread is just making of a generator;
    CPython takes that for an error of its own.
    """
    gc.freeze()
    try:
        return gc.get_freeze_count()
    finally:
        gc.unfreeze()


@contextlib.contextmanager
def made_rollouts() -> Iterator[list[weakref.ref[Rollouts]]]:
    """Every batch of rollouts that is made meanwhile, weakly held."""
    made, begin = [], Rollouts.__init__

    def noted(self: Rollouts, *args: Any, **fields: Any) -> None:
        begin(self, *args, **fields)
        made.append(weakref.ref(self))

    Rollouts.__init__ = noted
    try:
        yield made
    finally:
        Rollouts.__init__ = begin


def marks(steps: int, rollouts_ahead: int, folder: Path) -> list[Mark]:
    """Trains, and looks at the process every few steps."""
    found: list[Mark] = []
    every = max(steps // COUNTS, 1)

    with made_rollouts() as made:

        def show(row: dict[str, Any], timing: dict[str, float]) -> None:
            if row["kind"] == "train" and row["step"] % every == 0:
                gc.collect()
                made[:] = [one for one in made if one() is not None]
                counts = len(jax.live_arrays()), tracked_objects(), len(made)
                found.append(Mark(row["step"], resident_mb(), *counts))

        train(SHAPE, Setting(rollouts_ahead, 1, 0.0), steps, folder, show)
    return found


def growth(found: list[Mark], warm_up: int) -> dict[str, float]:
    """What the last marks hold more than the first ones after the warm-up.

    Memory is compared by medians. Counts are compared by their least: while a batch is under way in the background a
    mark also sees what that is working with, which comes and goes; what is never let go raises the least too.

    Args:
      found: Of one run.
      warm_up: Steps that do not count.
    """
    counted = [mark for mark in found if mark.step > warm_up]
    size = max(len(counted) // 4, 1)
    first, last = counted[:size], counted[-size:]

    def least(name: str) -> int:
        return min(getattr(mark, name) for mark in last) - min(getattr(mark, name) for mark in first)

    resident = [float(np.median([mark.resident_mb for mark in part])) for part in (first, last)]
    return {
        "resident_mb": round(resident[1] - resident[0], 2),
        **{name: least(name) for name in ("arrays", "objects", "rollouts")},
    }


def main() -> None:
    """Parses, trains, prints, saves."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--warm-up", type=int, default=200)
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    settings = []
    for ahead in (0, 1):
        with tempfile.TemporaryDirectory() as folder:
            found = marks(arguments.steps, ahead, Path(folder, "run"))
        grown = growth(found, arguments.warm_up)
        spaced = [mark._asdict() | {"resident_mb": round(mark.resident_mb, 1)} for mark in found[4::5]]
        settings.append({"rollouts_ahead": ahead, "growth": grown, "marks": spaced})
        print(f"ahead {ahead}: grown by {grown} from step {arguments.warm_up} to {arguments.steps}")
    saved(arguments.json, {"shape": SHAPE._asdict(), "steps": arguments.steps, "settings": settings})


if __name__ == "__main__":
    main()
