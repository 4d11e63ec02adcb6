"""Seconds per GRPO step: this package's loop and Tunix's `GRPOLearner`, side by side in one run.

    python benchmarks/grpo_step.py --against tunix --workload W1 --steps 10 > result.json

Every engine starts, compiles and warms up alone; then the engines take one step each, in turn, so that whatever the
machine does to one it does to the other. The pairs of steps give the ratio. All do the same work, which is checked
before anything is printed: the same weights to the last bit, the same prompts, the same number of tokens sampled and
trained on in every step. How it is measured, and why so, stands in README.md beside this file.
"""

import argparse
import dataclasses
import datetime
import functools
import importlib.metadata
import json
import logging
import os
import platform
import signal
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from grpo_engines import WORKLOADS, Workload, run_ours, run_tunix
from side_by_side import BenchmarkError, Engine, Measurement, measure

log = logging.getLogger("benchmark")

OURS, TUNIX = "agent_tunix", "tunix"
EQUAL = ("parameters", "dtypes", "params_sha256", "backend")
READY = (*EQUAL, "configuration", "loss")


def check_equal_work(workload: Workload, measured: Mapping[str, Measurement]) -> None:
    """Refuses a comparison of unequal things.

    Raises:
      BenchmarkError: If the engines started from different weights, or one of them sampled or trained on another number
        of tokens than the workload says, or logged less than it did.
    """
    for key in EQUAL:
        values = {name: one.ready[key] for name, one in measured.items()}
        if any(value != next(iter(values.values())) for value in values.values()):
            raise BenchmarkError(f"the engines differ in {key}: {values}")
    for name, one in measured.items():
        if one.ready["dtypes"] != ["float32"]:
            raise BenchmarkError(f"{name} computes in {one.ready['dtypes']}, not in float32")
        steps = one.warm_up + one.steps
        for number, step in enumerate(steps):
            if step["tokens"] != workload.tokens:
                raise BenchmarkError(f"{name} did {step['tokens']} in step {number}; it should do {workload.tokens}")
        due = {"rows": len(steps), "samples": len(steps) * workload.prompts * workload.group_size}
        if one.final.get("logged", due) != due:
            raise BenchmarkError(f"{name} logged {one.final['logged']}; it should have logged {due}")


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and range, to four decimals."""
    return {
        "median": round(statistics.median(values), 4),
        "min": round(min(values), 4),
        "max": round(max(values), 4),
    }


def summary(one: Measurement) -> dict[str, Any]:
    """What is printed about one engine."""

    def column(name: str) -> list[float]:
        return [step[name] for step in one.steps]

    splits = [step["split"] for step in one.steps]
    return {
        "seconds": spread(column("seconds")),
        "cpu_seconds": round(statistics.median(column("cpu_seconds")), 4),
        "idle_cpu_seconds": round(statistics.median(column("idle_cpu_seconds")), 4),
        "peak_memory_gb": round(one.steps[-1]["peak_memory_gb"], 3),
        "first_step_seconds": round(one.warm_up[0]["seconds"], 4),
        "split": {name: round(statistics.median(split[name] for split in splits), 4) for name in splits[0]},
        "tokens_per_step": one.steps[-1]["tokens"],
        **{name: one.ready[name] for name in READY},
        **one.final,
    }


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """How many times longer their step takes than ours, step by step.

    Args:
      ours: Seconds of our steps.
      theirs: Seconds of theirs, each taken right after ours of the same number.

    Returns:
      Median, least and greatest of the quotients, and all of them in order.
    """
    pairs = [their / our for our, their in zip(ours, theirs, strict=True)]
    return {**spread(pairs), "pairs": [round(pair, 4) for pair in pairs]}


def ratios(measured: Mapping[str, Measurement]) -> dict[str, Any] | None:
    """Our fastest configuration against every one of theirs, and first of all against their fastest.

    Returns:
      The ratio to their fastest with the names of the two (`ours`, `theirs`), and under `all` the ratios to each of
      theirs; None if we are alone.
    """
    seconds = {name: [step["seconds"] for step in one.steps] for name, one in measured.items()}
    by_speed = sorted(seconds, key=lambda name: statistics.median(seconds[name]))
    ours, *_ = (name for name in by_speed if name.startswith(OURS))
    others = {name: ratio(seconds[ours], seconds[name]) for name in by_speed if not name.startswith(OURS)}
    if not others:
        return None
    fastest = next(iter(others))
    return {"ours": ours, "theirs": fastest, **others[fastest], "all": others}


def machine() -> dict[str, Any]:
    """Processor, usable cores, memory, and how busy the machine was before anything started."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "cores": cores,
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "load_average_before": round(os.getloadavg()[0], 2),
    }


def versions() -> dict[str, str]:
    """Versions of what is measured."""
    packages = ("agent-tunix", "google-tunix", "jax", "jaxlib", "flax", "optax", "numpy")
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages}


def engines_of(
    workload: Workload, *, against: str, micro_batch_sizes: Sequence[int], steps: int, folder: Path
) -> dict[str, Engine]:
    """The engines to measure, each once for every micro-batch size, ours first."""
    engines: dict[str, Engine] = {}
    for size in micro_batch_sizes:
        name = _name(OURS, size, workload)
        engines[name] = functools.partial(run_ours, workload, steps, size, folder / name)
    for size in micro_batch_sizes if against == TUNIX else ():
        engines[_name(TUNIX, size, workload)] = functools.partial(run_tunix, workload, steps, size)
    return engines


def _name(engine: str, micro_batch_size: int, workload: Workload) -> str:
    return engine if micro_batch_size == workload.prompts else f"{engine}_micro_{micro_batch_size}"


def benchmark(
    workload: Workload, *, against: str, micro_batch_sizes: Sequence[int], warm_up: int, steps: int
) -> dict[str, Any]:
    """Measures and returns what is printed.

    Args:
      workload: Shapes.
      against: `tunix` or `none`.
      micro_batch_sizes: In prompts; every engine is tried with each.
      warm_up: Steps that do not count.
      steps: Steps that count.

    Raises:
      BenchmarkError: If the measurement is void.
    """
    result = {
        "workload": dataclasses.asdict(workload),
        "machine": machine(),
        "versions": versions(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "steps": steps,
        "warm_up_steps": warm_up,
    }
    with tempfile.TemporaryDirectory(prefix="grpo_step_") as name:
        folder = Path(name)
        engines = engines_of(
            workload,
            against=against,
            micro_batch_sizes=micro_batch_sizes,
            steps=warm_up + steps,
            folder=folder,
        )
        measured = measure(engines, warm_up=warm_up, steps=steps, folder=folder)
    check_equal_work(workload, measured)
    return result | {"engines": {name: summary(one) for name, one in measured.items()}, "ratio": ratios(measured)}


# --- The command line -------------------------------------------------------------------------------------------------


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description="Seconds per GRPO step, as JSON on standard output.")
    parser.add_argument("--against", choices=(TUNIX, "none"), default=TUNIX, help="the other engine (default: tunix)")
    parser.add_argument("--workload", choices=sorted(WORKLOADS), default="W1", help="shapes (default: W1)")
    parser.add_argument("--steps", type=int, default=10, help="steps that count, per engine (default: 10)")
    parser.add_argument("--warm-up", type=int, default=2, help="steps before them, the first compiles (default: 2)")
    parser.add_argument(
        "--micro-batch-sizes",
        type=int,
        nargs="+",
        metavar="PROMPTS",
        help="prompts per forward and backward pass, tried for every engine (default: all, and a quarter of them)",
    )
    given = parser.parse_args(argv)
    prompts = WORKLOADS[given.workload].prompts
    given.micro_batch_sizes = given.micro_batch_sizes or [prompts, max(1, prompts // 4)]
    if min(given.steps, given.warm_up) < 1:
        parser.error(f"--steps {given.steps} --warm-up {given.warm_up}: take at least 1 of each")
    for size in given.micro_batch_sizes:
        if size < 1 or prompts % size:
            parser.error(f"--micro-batch-sizes {size} does not divide the {prompts} prompts of {given.workload}")
    return given


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns the exit code."""
    given = arguments(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    # A shell starts its background jobs with Ctrl-C ignored; an explicit kill -INT should still be heard.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)  # the first step compiles, for everyone
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # several processes share an accelerator
    os.environ.setdefault("TQDM_DISABLE", "1")
    # A worker that is ended cannot give back the semaphores of its libraries; the tracker does, and need not say so.
    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker:UserWarning")
    try:
        result = benchmark(
            WORKLOADS[given.workload],
            against=given.against,
            micro_batch_sizes=given.micro_batch_sizes,
            warm_up=given.warm_up,
            steps=given.steps,
        )
    except BenchmarkError as error:
        log.error("%s", error)
        return 1
    except KeyboardInterrupt:
        log.error("interrupted; the workers are gone")
        return 128 + signal.SIGINT
    print(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
