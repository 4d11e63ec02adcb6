"""What a run's stored rollouts say of its reward: distribution, which completions it likes, how they fail."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from agent_tunix import runs, text
from agent_tunix.contributions import contributions
from agent_tunix.rewards import answer_key
from agent_tunix.runs import Record

EXAMPLES = 3
STAGES = 10
"""Equal parts of the rollouts for which the reward over training is told."""
PATTERNS_SHOWN = 5
"""Patterns of failure in the table, the most frequent ones."""
SHOWN = 200
"""Characters of a completion in an example."""


def analyse(samples: Iterable[Record]) -> dict[str, Any]:
    """Distribution of the reward and its parts, and the completions by kind.

    Args:
      samples: Records of rollouts, as a run stores them; those without a reward are only counted.

    Returns:
      Nested plain values: `completions`, `unscored`, `reward` and `parts` (moments and quantiles), `variance` (between
      and within groups, and what each part contributes), `over_training` (each tenth of the rollouts), `kinds` (how
      many, mean reward, examples), `failure_patterns` of completions that are not right, `grader_failures` (reasons
      and how often), and the `highest` and `lowest` rewarded completions.
    """
    samples = list(samples)
    scored = [sample for sample in samples if sample.get("reward") is not None]
    names = sorted({name for sample in scored for name in sample["parts"]})
    parts = {name: [s["parts"][name] for s in scored if s["parts"].get(name) is not None] for name in names}
    ranked = sorted(scored, key=lambda sample: sample["reward"])
    return {
        "completions": len(samples),
        "unscored": len(samples) - len(scored),
        "reward": distribution([sample["reward"] for sample in scored]),
        "parts": {name: distribution(values) for name, values in parts.items()},
        "variance": _variance(samples, names),
        "over_training": _over_training(scored),
        "kinds": _kinds(scored),
        "failure_patterns": _failure_patterns(scored),
        "grader_failures": _grader_failures(samples),
        "highest": _examples(ranked[::-1]),
        "lowest": _examples(ranked),
    }


def distribution(values: Sequence[float]) -> dict[str, float]:
    """Moments and quantiles; skewness is the third standardised moment, 0 where nothing varies.

    Examples:
      >>> distribution([0.0, 0.0, 0.0, 1.0])["mean"], round(distribution([0.0, 0.0, 0.0, 1.0])["skewness"], 3)
      (0.25, 1.155)
    """
    if not values:
        return {"count": 0}
    array = np.asarray(values, np.float64)
    deviation = array.std()
    skewness = ((array - array.mean()) ** 3).mean() / deviation**3 if deviation > 1e-12 else 0.0
    quantiles = {f"p{q}": float(np.percentile(array, q)) for q in (0, 10, 25, 50, 75, 90, 100)}
    moments = {"mean": array.mean(), "variance": array.var(), "skewness": skewness}
    return {"count": len(values)} | {name: float(value) for name, value in moments.items()} | quantiles


def _variance(samples: Sequence[Record], names: Sequence[str]) -> dict[str, Any]:
    """The reward's variance between prompts and within groups, and the parts' shares of the latter, which is credit."""
    groups = [group for group in runs.groups(samples) if all("parts" in sample for sample in group)]
    if not groups or not names:
        return {}
    width = max(map(len, groups))
    value = _table(groups, width, lambda sample: sample["reward"])
    parts = {name: _table(groups, width, lambda sample, name=name: sample["parts"].get(name)) for name in names}
    valid = ~np.isnan(value)
    counts = valid.sum(-1)
    means = np.where(valid, value, 0.0).sum(-1) / np.maximum(counts, 1)
    total = float(value[valid].var()) if valid.any() else math.nan
    within = float(np.where(valid, (value - means[:, None]) ** 2, 0.0).sum() / max(counts.sum(), 1))
    shares = contributions(np.where(valid, value, 0.0), valid, parts)
    return {
        "total": total,
        "within_groups": within,
        "between_groups": total - within,
        "share_of_advantage": {name: part.of_advantage for name, part in shares.parts.items()},
    }


def _table(groups: Sequence[Sequence[Record]], width: int, read: Callable[[Record], float | None]) -> np.ndarray:
    """One row per group; NaN where there is no value or no such member."""
    rows = [[math.nan if read(sample) is None else read(sample) for sample in group] for group in groups]
    return np.array([row + [math.nan] * (width - len(row)) for row in rows], np.float64)


def _over_training(scored: Sequence[Record]) -> list[dict[str, float]]:
    """Least, mean and greatest reward for each tenth of the rollouts."""
    stages = np.array_split(np.arange(len(scored)), min(STAGES, len(scored))) if scored else []
    out = []
    for stage in stages:
        values = np.array([scored[index]["reward"] for index in stage], np.float64)
        steps = [scored[index]["step"] for index in stage]
        numbers = {"mean": values.mean(), "std": values.std(), "min": values.min(), "max": values.max()}
        out.append({"first_step": steps[0], "last_step": steps[-1]} | {k: float(v) for k, v in numbers.items()})
    return out


def _stated(sample: Record) -> str:
    return text.stated_answer(sample["completion"]) or ""


def _reference(sample: Record) -> str:
    return str(sample.get("columns", {}).get("answer", ""))


def _values(sample: Record) -> tuple[Any, Any] | None:
    """What the completion states and the reference, where both are numbers."""
    stated, reference = answer_key(_stated(sample)), answer_key(_reference(sample))
    return None if isinstance(stated, str) or isinstance(reference, str) else (stated.value, reference.value)


def _is_negated(sample: Record) -> bool:
    values = _values(sample)
    return values is not None and values[0] != 0 and values[0] == -values[1]


def _is_near(sample: Record) -> bool:
    values = _values(sample)
    if values is None or not values[1]:
        return False
    stated, reference = map(float, values)
    return 0 < abs(stated - reference) <= 0.1 * abs(reference)


def _repeats_itself(sample: Record) -> bool:
    lines = [line for line in sample["completion"].splitlines() if line.strip()]
    return bool(lines) and max(Counter(lines).values()) >= 4


PATTERNS: Mapping[str, Callable[[Record], bool]] = {
    "cut off by the token budget": lambda sample: sample["truncated"],
    "empty": lambda sample: not sample["completion"].strip(),
    "states no answer": lambda sample: text.stated_answer(sample["completion"]) is None,
    "states an empty answer": lambda sample: text.stated_answer(sample["completion"]) == "",
    "sign of the answer flipped": _is_negated,
    "within 10 % of the answer": _is_near,
    "holds the answer but does not state it": lambda sample: (
        bool(_reference(sample))
        and _reference(sample) in sample["completion"]
        and answer_key(_stated(sample)) != answer_key(_reference(sample))
    ),
    "several answer blocks": lambda sample: sample["completion"].count(text.ANSWER_OPEN) > 1,
    "repeats a line four times": _repeats_itself,
    "copies the prompt": lambda sample: len(sample["prompt"]) > 8 and sample["prompt"] in sample["completion"],
}
"""What can be seen of a completion that is not right; one may show several."""


def _failure_patterns(scored: Sequence[Record]) -> dict[str, Any]:
    wrong = [sample for sample in scored if not _is_right(sample)]
    out = {}
    for name, shows in PATTERNS.items():
        members = [sample for sample in wrong if shows(sample)]
        if members:
            fraction = len(members) / len(wrong)
            out[name] = {"count": len(members), "fraction": fraction, "examples": _examples(members[::-1])}
    return dict(sorted(out.items(), key=lambda item: -item[1]["count"]))


def _grader_failures(samples: Sequence[Record]) -> dict[str, dict[str, int]]:
    """For every part, how often each reason was given."""
    counts: dict[str, Counter[str]] = {}
    for sample in samples:
        for part, reason in sample.get("failures", {}).items():
            counts.setdefault(part, Counter())[reason] += 1
    return {part: dict(reasons.most_common()) for part, reasons in counts.items()}


def _is_right(sample: Record) -> bool:
    return sample["parts"].get("correctness", sample["reward"]) == 1.0


def kind(sample: Record) -> str:
    """The kind of a completion, by what went wrong first."""
    completion = sample["completion"]
    if sample["truncated"]:
        return "cut off by the token budget"
    if text.stated_answer(completion) is None:
        return "states no answer"
    right = _is_right(sample)
    if not text.is_tagged(completion):
        return "right answer, format not kept" if right else "wrong answer, format not kept"
    return "right answer in format" if right else "wrong answer in format"


def table(analysis: Mapping[str, Any]) -> str:
    """The analysis as plain text."""
    lines = [f"{'reward':<28} {'mean':>7} {'variance':>9} {'skewness':>9} {'min':>7} {'median':>7} {'max':>7}"]
    for name, row in {"total": analysis["reward"], **analysis["parts"]}.items():
        if row["count"]:
            numbers = (row[key] for key in ("mean", "variance", "skewness", "p0", "p50", "p100"))
            mean, variance, skewness, low, median, high = numbers
            lines.append(f"{name:<28} {mean:7.3f} {variance:9.4f} {skewness:9.3f} {low:7.3f} {median:7.3f} {high:7.3f}")
    if analysis["unscored"]:
        lines.append(f"{analysis['unscored']} of {analysis['completions']} completions have no value")
    lines.append(f"{'completions by kind':<34} {'share':>7} {'mean reward':>12}")
    for name, row in analysis["kinds"].items():
        lines.append(f"{name:<34} {row['fraction']:7.3f} {row['mean_reward']:12.3f}")
    lines += [
        f"{name:<34} {row['fraction']:7.3f}  of what is not right"
        for name, row in [*analysis["failure_patterns"].items()][:PATTERNS_SHOWN]
    ]
    if analysis["variance"]:
        shares = ", ".join(
            f"{part} {share:.0%}"
            for part, share in analysis["variance"]["share_of_advantage"].items()
            if not math.isnan(share)
        )
        within = analysis["variance"]["within_groups"] / max(analysis["variance"]["total"], 1e-12)
        lines.append(f"variance within groups {within:.0%}; parts of the advantage: {shares}")
    return "\n".join(lines)


def _kinds(scored: Sequence[Record]) -> dict[str, Any]:
    groups: dict[str, list[Record]] = {}
    for sample in scored:
        groups.setdefault(kind(sample), []).append(sample)
    return {
        name: {
            "count": len(members),
            "fraction": len(members) / len(scored),
            "mean_reward": float(np.mean([sample["reward"] for sample in members])),
            "examples": _examples(members[::-1]),
        }
        for name, members in sorted(groups.items(), key=lambda item: -len(item[1]))
    }


def _examples(samples: Sequence[Record]) -> list[dict[str, Any]]:
    """The first few different completions."""
    chosen = {sample["completion"]: sample for sample in reversed(samples[: 20 * EXAMPLES])}
    return [
        {
            "step": sample["step"],
            "prompt": sample["prompt"][:SHOWN],
            "completion": sample["completion"][:SHOWN],
            "reward": sample["reward"],
            "parts": sample["parts"],
        }
        for sample in list(chosen.values())[::-1][:EXAMPLES]
    ]
