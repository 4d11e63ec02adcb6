"""Seconds per GRPO step and peak memory: this package's loop beside Tunix's and TRL's, in one run.

    python benchmarks/grpo_step.py --workload W1 --against tunix trl > result.json

Every configuration of every engine starts, compiles and warms up alone; then those that may be the best of their engine
take one step at a time, in turn, so that whatever the machine does to one it does to the others. All do the same work,
which is checked before anything is printed: the same weights to the last bit, the same prompts, the same number of
tokens sampled and trained on in every step. How it is measured, and why so, stands in README.md beside this file.
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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from grpo_engines import MATMUL, OWN_CHOICE, run_matmul, run_ours
from grpo_export import run_export
from grpo_workloads import WORKLOADS, Workload, step_flops
from side_by_side import BenchmarkError, Engine, Measurement, Worker, last_seconds, measure
from trl_engine import run_trl
from tunix_engine import run_tunix

log = logging.getLogger("benchmark")

ROOT = Path(__file__).resolve().parents[1]
TRL_PYTHON = ROOT / ".venv-peers" / "bin" / "python"
"""Where `make bench-peers` puts TRL."""

OURS, TUNIX, TRL, PEAK = "agent_tunix", "tunix", "trl", "matmul"
PEERS = (TUNIX, TRL)
EQUAL = ("parameters", "dtypes", "params_sha256", "backend", "optimizer", "kl_coefficient")
READY = (*EQUAL, "configuration", "loss")
LENGTHS = {"W2": (2, 3), "W3": (2, 4), "W4": (3, 6), "W5": (1, 1)}
"""Steps that do not count and steps that do, where `USUAL` would take too long or leave a shape to be compiled."""
USUAL = (4, 10)
SHOWN = ("W1", "W2", "W3", "W4", "W5")


def check_equal_work(workload: Workload, measured: Mapping[str, Measurement]) -> None:
    """Refuses a comparison of unequal things.

    Raises:
      BenchmarkError: If the engines started from different weights or trained them by another rule, or one of them
        sampled or trained on another number of tokens than the workload says, or logged less than it did.
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
            due = workload.tokens(number)
            if step["tokens"] != due:
                raise BenchmarkError(f"{name} did {step['tokens']} in step {number}; it should do {due}")
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


def summary(workload: Workload, one: Measurement, peaks: Sequence[float]) -> dict[str, Any]:
    """What is printed about one engine.

    Args:
      workload: What it did.
      one: What it reported.
      peaks: Rate of the matrix product taken right before each of its steps, 10^9 operations per second.
    """

    def column(name: str) -> list[float]:
        return [step[name] for step in one.steps]

    splits = [step["split"] for step in one.steps]
    floor = floor_seconds(workload, len(one.warm_up), peaks)
    shares = [least / seconds for least, seconds in zip(floor, column("seconds"), strict=True)]
    return {
        "seconds": spread(column("seconds")),
        "floor_share": spread(shares),
        "cpu_seconds": round(statistics.median(column("cpu_seconds")), 4),
        "other_cpu_seconds": round(statistics.median(column("other_cpu_seconds")), 4),
        "idle_cpu_seconds": round(statistics.median(column("idle_cpu_seconds")), 4),
        "peak_memory_gb": round(one.steps[-1]["peak_memory_gb"], 3),
        "first_step_seconds": round(one.warm_up[0]["seconds"], 4),
        "split": {name: round(statistics.median(split[name] for split in splits), 4) for name in splits[0]},
        "tokens_of_last_step": one.steps[-1]["tokens"],
        **{name: one.ready[name] for name in READY},
        **{name: one.ready[name] for name in ("versions", "logprob_difference") if name in one.ready},
        **one.final,
    }


def floor_seconds(workload: Workload, warm_up: int, peaks: Sequence[float]) -> list[float]:
    """What the matrix products of each counted step would take at the machine's peak, each prompt computed once."""
    counted = range(warm_up, warm_up + len(peaks))
    return [operations / (1e9 * peak) for operations, peak in zip(step_flops(workload, counted), peaks, strict=True)]


def operations(workload: Workload, warm_up: int, steps: int) -> dict[str, float]:
    """Least operations of the counted steps on average, 10^9, with and without prompts shared by their groups."""
    counted = range(warm_up, warm_up + steps)
    return {
        "floor_gflop": round(statistics.mean(step_flops(workload, counted)) / 1e9, 2),
        "without_sharing_gflop": round(statistics.mean(step_flops(workload, counted, shared=False)) / 1e9, 2),
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


def ratios(workload: Workload, measured: Mapping[str, Measurement]) -> dict[str, dict[str, Any]]:
    """Every other engine against ours, each in its best configuration by the workload's metric.

    Returns:
      By engine: the names of the two configurations (`ours`, `theirs`), and both quotients, theirs over ours.
    """
    seconds = {name: [step["seconds"] for step in one.steps] for name, one in measured.items()}
    memory = {name: one.steps[-1]["peak_memory_gb"] for name, one in measured.items()}
    costs = (
        memory if workload.metric == "peak_memory_gb" else {name: statistics.median(seconds[name]) for name in seconds}
    )

    def best(engine: str) -> str:
        return min((name for name in costs if engine_of(name) == engine), key=lambda name: costs[name])

    ours = best(OURS)
    return {
        engine: {
            "ours": ours,
            "theirs": best(engine),
            "seconds": ratio(seconds[ours], seconds[best(engine)]),
            "peak_memory": round(memory[best(engine)] / memory[ours], 3),
        }
        for engine in PEERS
        if engine in map(engine_of, costs)
    }


def engine_of(name: str) -> str:
    """The engine of a configuration."""
    return name.partition("_micro_")[0]


def tried(measured: Mapping[str, Measurement]) -> dict[str, dict[str, float]]:
    """What the choice of each engine's configuration was made by: seconds and memory of its warm-up."""
    return {
        name: {
            "seconds": round(last_seconds(one.warm_up), 4),
            "peak_memory_gb": round(one.warm_up[-1]["peak_memory_gb"], 3),
        }
        for name, one in measured.items()
    }


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
    workload: Workload,
    *,
    against: Sequence[str],
    micro_batch_sizes: Sequence[int] | None,
    steps: int,
    folder: Path,
    trl_python: Path,
) -> dict[str, dict[str, Engine]]:
    """What is measured: the machine's peak, and every engine with a configuration for each micro-batch size.

    Without sizes, each engine gets two: ours the whole batch and its own choice, the others what `micro_batches` says.
    """

    def configurations(engine: str) -> Iterator[tuple[str, Engine]]:
        default = [workload.prompts, OWN_CHOICE] if engine == OURS else micro_batches(workload)
        for size in micro_batch_sizes or default:
            name = engine if size == workload.prompts else f"{engine}_micro_{size or 'auto'}"
            if engine == OURS:
                yield name, Engine(functools.partial(run_ours, workload, steps, size, folder / name))
            elif engine == TUNIX:
                yield name, Engine(functools.partial(run_tunix, workload, steps, size))
            else:
                run = functools.partial(run_trl, workload, steps, size, folder, folder / name)
                yield name, Engine(run, str(trl_python))

    peak = {PEAK: Engine(functools.partial(run_matmul, steps))}
    return {PEAK: peak} | {engine: dict(configurations(engine)) for engine in (OURS, *against)}


def export(workload: Workload, folder: Path) -> None:
    """Writes the weights that engines outside JAX start from."""
    worker = Worker("export", Engine(functools.partial(run_export, workload, folder)), folder)
    try:
        worker.receive()
    finally:
        worker.close()


def last_memory(warm_up: Sequence[Mapping[str, Any]]) -> float:
    """Peak memory of a warmed-up configuration."""
    return warm_up[-1]["peak_memory_gb"]


def benchmark(
    workload: Workload,
    *,
    against: Sequence[str],
    micro_batch_sizes: Sequence[int] | None,
    warm_up: int,
    steps: int,
    trl_python: Path = TRL_PYTHON,
) -> dict[str, Any]:
    """Measures and returns what is printed.

    Args:
      workload: Shapes.
      against: Any of `PEERS`.
      micro_batch_sizes: In prompts; every engine is tried with each. None for two of its own.
      warm_up: Steps that do not count.
      steps: Steps that count.
      trl_python: Interpreter of the environment that has TRL.

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
        if TRL in against:
            export(workload, folder)
        engines = engines_of(
            workload,
            against=against,
            micro_batch_sizes=micro_batch_sizes,
            steps=warm_up + steps,
            folder=folder,
            trl_python=trl_python,
        )
        cost = last_seconds if workload.metric == "seconds" else last_memory
        measured = measure(engines, warm_up=warm_up, steps=steps, folder=folder, cost=cost)
    peaks = [step["gflops"] for step in measured.pop(PEAK).steps]
    check_equal_work(workload, measured)
    counted = {name: one for name, one in measured.items() if one.steps}
    return result | {
        PEAK: {"gflops": spread(peaks), **MATMUL},
        "operations": operations(workload, warm_up, steps),
        "engines": {name: summary(workload, one, peaks) for name, one in counted.items()},
        "tried": tried(measured),
        "ratio": ratios(workload, counted),
    }


# --- The command line -------------------------------------------------------------------------------------------------


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description="Seconds per GRPO step and peak memory, as JSON on standard output.")
    parser.add_argument(
        "--workload", nargs="+", choices=tuple(WORKLOADS), default=list(SHOWN), help="shapes (default: W1 to W5)"
    )
    parser.add_argument(
        "--against",
        nargs="+",
        choices=(*PEERS, "none"),
        help="the other engines (default: tunix, and trl where `make bench-peers` has put it)",
    )
    parser.add_argument("--trl-python", type=Path, default=TRL_PYTHON, help="interpreter that has TRL", metavar="PATH")
    parser.add_argument("--steps", type=int, help="steps that count, per engine (default: 10, fewer for W2 to W5)")
    parser.add_argument("--warm-up", type=int, help="steps before them, the first compiles (default: 1 to 5)")
    parser.add_argument(
        "--micro-batch-sizes",
        type=int,
        nargs="+",
        metavar="PROMPTS",
        help="prompts per forward and backward pass, tried for every engine (default: all, and a quarter of them; for "
        "ours all, and what it chooses itself)",
    )
    parser.add_argument("--save", type=Path, metavar="FOLDER", help="write grpo_step_W1.json and so on instead")
    given = parser.parse_args(argv)
    if given.against is None:
        given.against = [TUNIX, TRL] if given.trl_python.exists() else [TUNIX]
    given.against = [engine for engine in PEERS if engine in given.against]
    if TRL in given.against and not given.trl_python.exists():
        parser.error(
            f"--trl-python {given.trl_python} does not exist; `make bench-peers` makes an environment with TRL"
        )
    if min(given.steps or 1, given.warm_up or 1) < 1 or 0 in (given.steps, given.warm_up):
        parser.error(f"--steps {given.steps} --warm-up {given.warm_up}: take at least 1 of each")
    for name in given.workload:
        for size in given.micro_batch_sizes or ():
            if size < 1 or WORKLOADS[name].prompts % size:
                parser.error(
                    f"--micro-batch-sizes {size} does not divide the {WORKLOADS[name].prompts} prompts of {name}"
                )
    return given


def micro_batches(workload: Workload) -> list[int]:
    """Sizes that the other engines are tried with: the whole batch, and a quarter of it."""
    return [workload.prompts, max(1, workload.prompts // 4)]


def prepare_process() -> None:
    """Signals and environment of the measuring process, which its workers inherit."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    # A shell starts its background jobs with Ctrl-C ignored; an explicit kill -INT should still be heard.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)  # the first step compiles, for everyone
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # several processes share an accelerator
    os.environ.setdefault("TQDM_DISABLE", "1")
    # A worker that is ended cannot give back the semaphores of its libraries; the tracker does, and need not say so.
    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker:UserWarning")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns the exit code."""
    given = arguments(argv)
    prepare_process()
    void = 0
    for name in given.workload:
        workload, (warm_up, steps) = WORKLOADS[name], LENGTHS.get(name, USUAL)
        try:
            result = benchmark(
                workload,
                against=given.against,
                micro_batch_sizes=given.micro_batch_sizes,
                warm_up=given.warm_up or warm_up,
                steps=given.steps or steps,
                trl_python=given.trl_python,
            )
        except BenchmarkError as error:
            log.error("%s: %s", name, error)
            void = 1
            continue
        except KeyboardInterrupt:
            log.error("interrupted; the workers are gone")
            return 128 + signal.SIGINT
        text = json.dumps(result, indent=2)
        if given.save is None:
            print(text)
        else:
            (given.save / f"grpo_step_{name}.json").write_text(text + "\n")
    return void


if __name__ == "__main__":
    sys.exit(main())
