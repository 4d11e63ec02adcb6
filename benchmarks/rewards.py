"""How fast rewards are: beside others, on hostile text, in the pool, and where mathematics, programs or judges grade.

    python benchmarks/rewards.py --json docs/results/rewards.json

Everything runs in one thread unless it says otherwise. The engines of the first table grade the same batches in turn,
in another order every round; a batch is new to all of them. Rates are of wall-clock time; next to them stand rates of
processor time, which other work on the machine disturbs less. What is measured how stands in
docs/guides/reward_speed.md.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from grader_cases import cases, hostile
from reward_engines import HASHES, TAGS, Engine, batch, engines

from agent_tunix import rewards

CHARACTERS = 600
GOAL_PER_S = 300_000


class Sizes(NamedTuple):
    """How much is measured.

    Attributes:
      prompts: Groups in a batch.
      group_size: Completions in a group.
      rounds: Batches, after one that does not count.
      hostile_characters: Length of the hostile responses.
      calls: Of a trivial grader, to see what a runner adds.
      hangs: Calls that have to be killed.
      repeats: Of the pairs of formulas and of the programs.
    """

    prompts: int = 256
    group_size: int = 16
    rounds: int = 15
    hostile_characters: int = 1_000_000
    calls: int = 4_096
    hangs: int = 10
    repeats: int = 3


QUICK = Sizes(4, 4, 2, 10_000, 64, 1, 1)
"""Enough to see that everything runs; its times mean nothing."""


def spread(values: Sequence[float], digits: int = 1) -> dict[str, float]:
    """Median and range, rounded."""
    found = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(value, digits) for name, value in found.items()}


def seconds_of(function: Callable[..., Any], *arguments: Any) -> float:
    """Wall-clock seconds of one call."""
    started = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - started


# --- Beside others ----------------------------------------------------------------------------------------------------


class Run(NamedTuple):
    """One engine on one batch: seconds on the wall and of the processor, and what it found right."""

    wall_s: float
    cpu_s: float
    found: Sequence[bool]


def throughput(sizes: Sizes) -> dict[str, Any]:
    """Completions per second of every engine, in turn on the same batches, and how often each was right."""
    shape = {"prompts": sizes.prompts, "group_size": sizes.group_size, "characters": CHARACTERS}
    contenders = engines()
    runs: dict[str, list[Run]] = {engine.name: [] for engine in contenders}
    truth: list[bool] = []
    for number in range(sizes.rounds + 1):
        batches = {style: batch(style, seed=number, **shape) for style in (TAGS, HASHES)}
        truth += batches[TAGS].right if number else []
        shift = number % len(contenders)
        for engine in (*contenders[shift:], *contenders[:shift]):
            run = _run(engine, batches[engine.style])
            runs[engine.name] += [run] if number else []
    count = sizes.prompts * sizes.group_size
    return {
        **shape,
        "rounds": sizes.rounds,
        "goal_per_s": GOAL_PER_S,
        "right_share": round(sum(truth) / len(truth), 4),
        "engines": {engine.name: _summary(engine, runs[engine.name], truth, count) for engine in contenders},
    }


def _run(engine: Engine, given: Any) -> Run:
    wall, cpu = time.perf_counter(), time.process_time()
    output = engine.run(given)
    return Run(time.perf_counter() - wall, time.process_time() - cpu, engine.correctness(output))


def _summary(engine: Engine, runs: Sequence[Run], truth: Sequence[bool], count: int) -> dict[str, Any]:
    found = [right for run in runs for right in run.found]
    wrongly = sum(said and not right for said, right in zip(found, truth, strict=True))
    missed = sum(right and not said for said, right in zip(found, truth, strict=True))
    return {
        "source": engine.source,
        "completions": engine.style,
        "grades": engine.grades,
        "per_s": spread([count / run.wall_s for run in runs], 0),
        "per_cpu_s": spread([count / run.cpu_s for run in runs], 0),
        "graded": len(found),
        "wrongly_right": wrongly,
        "wrongly_wrong": missed,
        "agreement": round(1 - (wrongly + missed) / len(truth), 5),
    }


# --- On hostile text --------------------------------------------------------------------------------------------------


def on_hostile_text(sizes: Sizes) -> dict[str, Any]:
    """Processor milliseconds of every grader on every kind of hostile response, the best of two."""
    texts = hostile(sizes.hostile_characters)
    graders = {}
    for case in cases():
        case.grade("The answer is 42.", "42")
        taken = {}
        for kind, text in texts.items():
            taken[kind] = min(_cpu_seconds(case.grade, text, "42") for _ in range(2))
        worst = max(taken, key=lambda kind: taken[kind])
        graders[case.name] = {"worst_ms": round(1000 * taken[worst], 2), "on": worst}
    longest = max(len(text) for text in texts.values())
    return {"characters": longest, "kinds": list(texts), "graders": graders}


def _cpu_seconds(function: Callable[..., Any], *arguments: Any) -> float:
    started = time.thread_time()
    function(*arguments)
    return time.thread_time() - started


# --- Where graders run ------------------------------------------------------------------------------------------------


def trivial(response: str) -> float:
    """A grader that costs nothing."""
    return 1.0


async def trivial_coroutine(response: str) -> float:
    """The same as a coroutine."""
    return 1.0


def hanging(response: str) -> float:
    """A grader that never ends on a certain response."""
    while response == "hang":
        pass
    return 1.0


def runners(sizes: Sizes) -> dict[str, Any]:
    """What it costs to run a grader elsewhere, per completion, on texts of the usual length."""
    calls = [(("x" * CHARACTERS,), {}) for _ in range(sizes.calls)]
    pool = rewards.processes(2)
    start = seconds_of(pool, trivial, calls[:2])
    places = {
        "inline": (rewards.inline, trivial),
        "threads(8)": (rewards.threads(8), trivial),
        "asynchronous(64)": (rewards.asynchronous(64), trivial_coroutine),
        "processes(2)": (pool, trivial),
    }
    taken: dict[str, list[float]] = {name: [] for name in places}
    for _ in range(max(sizes.rounds // 2, 1) + 1):
        for name, (run, function) in places.items():
            taken[name].append(1e6 * seconds_of(run, function, calls) / len(calls))
    return {
        "calls": len(calls),
        "microseconds_per_call": {name: spread(values[1:], 2) for name, values in taken.items()},
        "pool_start_ms": round(1000 * start, 1),
        "pool_kill": kill_latency(sizes.hangs),
    }


def kill_latency(hangs: int, timeout_s: float = 0.2) -> dict[str, Any]:
    """How long after its timeout a hanging call is over, and how long the next call takes in the new process.

    Args:
      hangs: Calls that hang, one after the other.
      timeout_s: Their timeout.
    """
    run = rewards.processes(1, timeout_s=timeout_s)
    run(hanging, [(("warm up",), {})])
    late, respawn = [], []
    for _ in range(hangs):
        late.append(1000 * (seconds_of(run, hanging, [(("hang",), {})]) - timeout_s))
        respawn.append(1000 * seconds_of(run, hanging, [(("next",), {})]))
    return {
        "hangs": hangs,
        "timeout_s": timeout_s,
        "late_ms": spread(late, 2),
        "next_call_in_new_process_ms": spread(respawn, 1),
    }


# --- Mathematics, programs, judges ------------------------------------------------------------------------------------

FORMULAS = (
    (r"\frac{{{n}}}{{2}}", r"\frac{{{n}0}}{{20}}", True),
    (r"\sqrt{{{n}}}", r"{n}^{{1/2}}", True),
    ("(x+{n})^2", "x^2+{n}x", False),
    (r"{n}\pi", r"\pi \cdot {n}", True),
    ("({n},1)", r"\left({n},1\right)", True),
    ("[0,{n}]", "(0,{n}]", False),
    (r"x^2-{n}", r"-{n}+x^2", True),
    (r"\frac{{x+{n}}}{{2}}", r"\frac{{x}}{{2}}", False),
    (r"2^{{{n}}}", r"4^{{{n}/2}}", True),
    (r"{n}\sqrt{{2}}", r"\sqrt{{2}}", False),
)
"""Ten pairs of formulas with a number to vary, and whether they are equal for every number from 3 on."""
TESTS = ["assert add(1, 2) == 3", "assert add(-1, 1) == 0"]


def symbolic(sizes: Sizes) -> dict[str, Any]:
    """Comparisons per second of formulas that are new, and of those that have been compared before."""
    grade = rewards.exact_answer.each  # pyright: ignore[reportFunctionMemberAccess]
    start = seconds_of(lambda: grade(r"\boxed{\sqrt{3}}", r"3^{1/2}", symbolic=True))
    new, known, right = [], [], 0
    numbers = range(3, 3 + 5 * sizes.repeats)
    for first in numbers[::5]:
        pairs = [
            (rf"\boxed{{{stated.format(n=n)}}}", wanted.format(n=n), equal)
            for n in range(first, first + 5)
            for stated, wanted, equal in FORMULAS
        ]

        def all_pairs(pairs: Sequence[Any] = pairs) -> int:
            return sum(grade(stated, wanted, symbolic=True) == equal for stated, wanted, equal in pairs)

        started = time.perf_counter()
        right += all_pairs()
        new.append(len(pairs) / (time.perf_counter() - started))
        known.append(len(pairs) / seconds_of(all_pairs))
    return {
        "pairs": 50 * sizes.repeats,
        "right": right,
        "first_comparison_s": round(start, 2),
        "new_per_s": spread(new),
        "known_per_s": spread(known, 0),
    }


def programs(sizes: Sizes) -> dict[str, Any]:
    """Milliseconds to grade a program by two assertions."""
    texts = [f"```python\ndef add(a, b):\n    return a + b + {k % 2}\n```" for k in range(4 * sizes.repeats)]
    rewards.passes_tests(texts[0], TESTS)
    grades, taken = [], []
    for text in texts:
        started = time.perf_counter()
        grades.append(rewards.passes_tests(text, TESTS))
        taken.append(1000 * (time.perf_counter() - started))
    right = sum(grade == 1 - k % 2 for k, grade in enumerate(grades))
    return {"programs": len(texts), "right": right, "ms": spread(taken)}


def judges(sizes: Sizes) -> dict[str, Any]:
    """Cache hits per second of a scorer, in a dictionary and in a file."""
    asked = batch(TAGS, prompts=sizes.prompts, group_size=sizes.group_size, characters=CHARACTERS, seed=0)

    def length(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        return [len(completion) / CHARACTERS for completion in completions]

    def hits(reward: Any) -> float:
        return len(asked.completions) / seconds_of(reward, asked.rollouts)

    with tempfile.TemporaryDirectory(prefix="rewards_") as folder:
        caches = {"in_memory_per_s": {}, "in_file_per_s": str(Path(folder) / "cache.sqlite")}
        known = {name: rewards.scorer(length, bounds=(0, 2), cache=cache) for name, cache in caches.items()}
        for reward in known.values():
            reward(asked.rollouts)
        rounds = [{name: hits(reward) for name, reward in known.items()} for _ in range(3 * sizes.repeats)]
    return {name: spread([one[name] for one in rounds], 0) for name in caches}


# --- The report -------------------------------------------------------------------------------------------------------

PARTS: dict[str, Callable[[Sizes], dict[str, Any]]] = {
    "throughput": throughput,
    "hostile": on_hostile_text,
    "runners": runners,
    "symbolic": symbolic,
    "programs": programs,
    "judges": judges,
}


def machine() -> dict[str, Any]:
    """Processor, usable cores, versions, and how busy the machine was before anything started."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    packages = ("agent-tunix", "numpy", "math-verify", "google-tunix")
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_average_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
    }


def table(result: dict[str, Any]) -> str:
    """The result for people; its tables are Markdown."""
    lines = []
    if "throughput" in result:
        lines += ["| | source | grades | per second | range | agreement |", "|---|---|---|--:|--:|--:|"]
        for name, row in result["throughput"]["engines"].items():
            rate = row["per_s"]
            lines.append(
                f"| {name} | {row['source']} | {row['grades']} | {rate['median']:,.0f} | "
                f"{rate['min']:,.0f} to {rate['max']:,.0f} | {row['agreement']:.2%} |"
            )
    if "hostile" in result:
        found = sorted(result["hostile"]["graders"].items(), key=lambda item: -item[1]["worst_ms"])
        lines += ["", f"| {result['hostile']['characters']:,} characters | ms | on |", "|---|--:|---|"]
        lines += [f"| `{name}` | {row['worst_ms']:.1f} | {row['on']} |" for name, row in found[:8]]
    for part in ("runners", "symbolic", "programs", "judges"):
        if part in result:
            lines += ["", f"| {part} | median | range |", "|---|--:|--:|", *_leaves(result[part])]
    return "\n".join(lines)


def _leaves(values: dict[str, Any], path: str = "") -> list[str]:
    """One row for each number, named by the way to it."""
    lines = []
    for key, value in values.items():
        words = f"{path}{key.replace('_', ' ')}"
        if isinstance(value, dict) and "median" in value:
            lines.append(f"| {words} | {value['median']:,} | {value['min']:,} to {value['max']:,} |")
        elif isinstance(value, dict):
            lines += _leaves(value, f"{words}, ")
        else:
            lines.append(f"| {words} | {value:,} | |")
    return lines


def renewed(page: str, result: dict[str, Any]) -> str:
    """A page whose tables, known by their first line, and whose sentence on the machine are those of a result."""
    found = result["machine"]
    measured = (
        f"Measured on {found['date'][:10]} on {found['cores']} cores of an {found['cpu']} with Python "
        f"{found['python']}, load average {found['load_average_before']:.1f} at the start. Absolute rates drift with "
        "the machine; rates of one run can be compared."
    )
    blocks = {block.partition("\n")[0]: block for block in table(result).strip().split("\n\n")}
    paragraphs = [blocks.get(text.partition("\n")[0], text) for text in page.split("\n\n")]
    wrapped = "\n".join(textwrap.wrap(measured, 120))
    return "\n\n".join(wrapped if text.startswith("Measured on") else text for text in paragraphs)


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description="Measures rewards; prints a table.")
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the result to this file")
    parser.add_argument("--page", type=Path, metavar="PATH", help="also renew the tables of this page")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="see that everything runs; its times mean nothing")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and reports; returns the exit code."""
    chosen = arguments(argv)
    sizes = QUICK if chosen.quick else Sizes()
    result: dict[str, Any] = {"command": "python benchmarks/rewards.py", "quick": chosen.quick, "machine": machine()}
    for name in chosen.only:
        print(f"measuring {name}", file=sys.stderr)
        result[name] = PARTS[name](sizes)
    print(table(result))
    if chosen.json:
        chosen.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if chosen.page:
        page = chosen.page.read_text(encoding="utf-8")
        chosen.page.write_text(renewed(page, result), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
