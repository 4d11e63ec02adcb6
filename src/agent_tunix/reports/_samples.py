"""What the stored rollouts of a run show: examples worth reading, solve rates by prompt, and how rewards spread."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from agent_tunix import rewards, tasks
from agent_tunix.runs import Record, groups
from agent_tunix.text import stated_answer, states_several

Batch = Sequence[Record]

EACH = 10
"""Examples of a kind."""
PROMPTS = 60
"""Prompts with a row of their own in the map of solve rates, at most."""
BINS = 24
"""Cells of the reward's range in the map of its distribution."""


class Sample(NamedTuple):
    """A completion chosen as an example.

    Attributes:
      record: As it was stored.
      kinds: Why it was chosen, keys of `KINDS`; it may be several things at once.
      correct: Whether it states the right answer, by the strict grader; None where the data hold no answer.
    """

    record: Record
    kinds: tuple[str, ...]
    correct: bool | None


KINDS: Mapping[str, str] = {
    "best_wrong": "best-scored wrong answers",
    "worst": "lowest rewards, late in the run",
    "longest": "longest",
    "truncated": "cut off by the token budget",
    "failed": "without a reward, or with a failed grader",
    "several": "several answers at once",
    "latest": "latest",
}
"""Kinds of examples with their names, in the order they are shown."""


def is_right(record: Record) -> bool | None:
    """Whether a completion states the right answer, by the strict grader of its task.

    Whatever the reward thinks of it: this is what tells a hacked reward. None where the data hold no answer.
    """
    row = record.get("columns", {})
    if "answer" not in row:
        return None
    task = tasks.TASKS.get(str(row.get("task", "")))
    if task is not None and task.is_correct is not None:
        stated = stated_answer(record["completion"])
        return stated is not None and task.is_correct(stated, row)
    return bool(rewards.exact_answer(record["completion"], str(row["answer"])))


def choose(batches: Sequence[Batch], each: int = EACH) -> list[Sample]:
    """Examples of every kind, up to `each`, no text twice; those of the first kinds first."""
    records = [record for batch in batches for record in batch]
    late = records[-max(len(records) // 4, 1) :]
    scored = [record for record in records if record.get("reward") is not None]
    candidates: dict[str, Iterable[Record]] = {
        "best_wrong": _where(lambda r: is_right(r) is False, sorted(scored, key=lambda r: (-r["reward"], -r["step"]))),
        "worst": sorted((r for r in late if r.get("reward") is not None), key=lambda r: (r["reward"], -r["step"])),
        "longest": sorted(records, key=lambda r: (-r.get("length", 0), -r["step"])),
        "truncated": _where(lambda r: bool(r.get("truncated")), reversed(records)),
        "failed": _where(lambda r: bool(r.get("failures")) or r.get("reward") is None, reversed(records)),
        "several": _where(_hedges, sorted(scored, key=lambda r: (-r["reward"], -r["step"]))),
        "latest": reversed(records),
    }
    found: dict[tuple[str, str], tuple[Record, list[str]]] = {}
    for kind in KINDS:
        for record in _different(candidates[kind], each):
            found.setdefault((record["prompt"], record["completion"]), (record, []))[1].append(kind)
    return [Sample(record, tuple(kinds), is_right(record)) for record, kinds in found.values()]


def _where(shows: Callable[[Record], bool], records: Iterable[Record]) -> Iterable[Record]:
    return (record for record in records if shows(record))


def _hedges(record: Record) -> bool:
    return states_several(record["completion"], str(record.get("columns", {}).get("answer", "")))


def _different(records: Iterable[Record], most: int) -> list[Record]:
    """The first few, with different completions."""
    found: dict[str, Record] = {}
    for record in records:
        found.setdefault(record["completion"], record)
        if len(found) == most:
            break
    return list(found.values())


class Map(NamedTuple):
    """A table over batches.

    Attributes:
      table: `[rows batches]`, values in [0, 1]; NaN where there is none. The first row is the lowest.
      steps: Optimizer updates before each batch.
      rows: Name of every row; empty where rows are places in an order or on a scale.
      low: What the lower end of the scale of rows stands for.
      high: What its upper end stands for.
      what: What the values are, in words.
    """

    table: np.ndarray
    steps: np.ndarray
    rows: Sequence[str]
    low: float
    high: float
    what: str


def solve_rates(batches: Sequence[Batch]) -> Map | None:
    """How many completions of a prompt are right, by prompt and batch.

    Where prompts come back often enough, a row is a prompt, the hardest at the top; else a row is a rank, the prompts
    of every batch in the order of their solve rates. Without answers in the data the reward, on the scale of its range,
    stands in for the share.
    """
    rated, what = _rated(batches)
    if not any(rated):
        return None
    steps = np.array([batch[0]["step"] for batch in batches], float)
    counts = Counter(prompt for batch in rated for prompt in {prompt for prompt, _ in batch})
    often = [prompt for prompt, count in counts.items() if count >= max(3, len(batches) // 4)]
    if often and len(often) >= len(counts) // 2:
        return _by_prompt(rated, often, steps, what)
    height = max(map(len, rated))
    columns = [np.sort([rate for _, rate in batch])[::-1] if batch else np.array([math.nan]) for batch in rated]
    # A batch of fewer prompts is stretched, so that a row is the same quantile everywhere.
    table = np.stack([column[np.linspace(0, len(column) - 1, height).round().astype(int)] for column in columns], 1)
    return Map(table, steps, (), 0.0, 1.0, what)


def _rated(batches: Sequence[Batch]) -> tuple[list[list[tuple[str, float]]], str]:
    """Prompt and solve rate of every group of every batch, and what the rate is."""
    known = all(is_right(batch[0]) is not None for batch in batches if batch)
    values = [r["reward"] for batch in batches for r in batch if r.get("reward") is not None]
    low, high = (min(values), max(values)) if values else (0.0, 0.0)
    if not known and high <= low:
        return [], ""

    def rate(group: Sequence[Record]) -> float:
        if known:
            return float(np.mean([bool(is_right(record)) for record in group]))
        present = [record["reward"] for record in group if record.get("reward") is not None]
        return (float(np.mean(present)) - low) / (high - low) if present else math.nan

    pairs = [[(group[0]["prompt"], rate(group)) for group in groups(batch)] for batch in batches]
    rated = [[(prompt, value) for prompt, value in batch if math.isfinite(value)] for batch in pairs]
    return rated, "share of right completions" if known else "mean reward, on the scale of its range"


def _by_prompt(rated: Sequence[Sequence[tuple[str, float]]], prompts: list[str], steps: np.ndarray, what: str) -> Map:
    table = np.full((len(prompts), len(rated)), math.nan)
    row = {prompt: index for index, prompt in enumerate(prompts)}
    for column, batch in enumerate(rated):
        for prompt, rate in batch:
            if prompt in row:
                table[row[prompt], column] = rate
    order = np.argsort(-np.nanmean(table, axis=1), kind="stable")
    kept = order[np.linspace(0, len(order) - 1, min(PROMPTS, len(order))).round().astype(int)]
    return Map(table[kept], steps, [prompts[index] for index in kept.tolist()], 0.0, 1.0, what)


def distribution(batches: Sequence[Batch]) -> Map | None:
    """How many completions of each batch have which reward; cells of none are left empty."""
    rewards_of = [np.array([r["reward"] for r in batch if r.get("reward") is not None], float) for batch in batches]
    everything = np.concatenate([np.empty(0), *rewards_of])
    if len(everything) < 2 or np.ptp(everything) == 0:
        return None
    low, high = float(everything.min()), float(everything.max())
    half = (high - low) / (BINS - 1) / 2  # so that the least and the greatest value lie in the middle of a cell
    edges = np.linspace(low - half, high + half, BINS + 1)
    columns = [np.histogram(values, edges)[0] / max(len(values), 1) for values in rewards_of]
    table = np.stack(columns, 1)
    table[table == 0] = math.nan
    steps = np.array([batch[0]["step"] for batch in batches], float)
    return Map(table, steps, (), float(edges[0]), float(edges[-1]), "share of completions")


def shown_fields(record: Record) -> dict[str, Any]:
    """What stands over an example: numbers of the record that are there."""
    fields: dict[str, Any] = {"step": record["step"], "reward": record.get("reward")}
    fields |= {f"part {name}": value for name, value in record.get("parts", {}).items()}
    return fields | {name: record[name] for name in ("advantage", "length") if record.get(name) is not None}
